"""Checkpoints from elsewhere, and for elsewhere: torchvision's video models and the files of ViDiDi's authors.

The layouts, by the names of their tensors:

- `torchvision`: the state dict of `torchvision.models.video.r3d_18` and its kin, which our backbones share.
- `authors`: the same with the prefixes that the authors' code leaves (github.com/ChicyChen/Func-Spec). Its
  `resnet_epoch*.pth.tar` is torchvision's state dict with a classifier that was never trained.
- `authors_training`: `{"model": …, "optimizer": …}` of its `net3d_epoch*.pth.tar`. VICReg and SimCLR have the network
  under `module.encoder.net.` and a projector under `module.projector.net.`; BYOL has it twice, under `module.net.` and
  `module.online_encoder.net.`, the heads next to it, and a target network.

A conversion accounts for every tensor, and compares what the network computes before and after.
"""

from vididi_hf.hub.conversion.accounting import ConversionReport
from vididi_hf.hub.conversion.authors_layout import to_authors, to_authors_training
from vididi_hf.hub.conversion.files import LAYOUTS, convert_file, convert_folder
from vididi_hf.hub.conversion.networks import compare
from vididi_hf.hub.conversion.torchvision_layout import from_tensors, to_torchvision

__all__ = [
    "LAYOUTS",
    "ConversionReport",
    "compare",
    "convert_file",
    "convert_folder",
    "from_tensors",
    "to_authors",
    "to_authors_training",
    "to_torchvision",
]
