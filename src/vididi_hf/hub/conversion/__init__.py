"""Reads the checkpoints of torchvision's video models and of ViDiDi's authors, and writes torchvision's layout.

The authors' code (github.com/ChicyChen/Func-Spec) trains torchvision's networks, so both sources have the same tensors:

- torchvision: the state dict of `torchvision.models.video.r3d_18` and its kin.
- `resnet_epoch*.pth.tar` of the authors: the same, with a classifier that was never trained.
- `net3d_epoch*.pth.tar` of the authors: `{"model": …, "optimizer": …}`. VICReg and SimCLR have the network under
  `module.encoder.net.`. BYOL has it twice, under `module.net.` and `module.online_encoder.net.`, next to the target.

A conversion accounts for every tensor and compares what the network computes before and after.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from transformers.utils import logging

from vididi_hf.files import write_text
from vididi_hf.hub.conversion.networks import ConversionReport
from vididi_hf.hub.conversion.reading import convert_file, from_tensors
from vididi_hf.hub.conversion.writing import convert_checkpoint, to_torchvision
from vididi_hf.hub.options import ConvertOptions

__all__ = ["ConversionReport", "convert_checkpoint", "convert_file", "from_tensors", "run", "to_torchvision"]


def run(options: ConvertOptions) -> None:
    """Converts a checkpoint and prints what happened to its tensors."""
    logging.disable_progress_bar()
    if options.to == "torchvision":
        report = convert_checkpoint(options.source, options.output, options.order)
    else:
        report = convert_file(
            options.source,
            options.output,
            prefix=options.prefix,
            with_classifier=options.with_classifier,
            num_frames=options.num_frames,
            image_size=options.image_size,
        )
        write_text(Path(options.output, "conversion.json"), json.dumps(asdict(report), indent=2) + "\n")
    print(report)
    print(f"Wrote {options.output}.")
