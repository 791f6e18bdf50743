"""Torchvision's own networks, filled with tensors, and whether ours compute the same."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models import get_model

from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.modeling_vididi import ViDiDiModel

TOLERANCE = 1e-4


def backbone_of(source: Mapping[str, Tensor], prefix: str) -> str:
    """Which of the four networks tensors belong to."""
    if "features.0.0.0.weight" in source:
        return "s3d"
    if "layer2.0.conv1.0.0.weight" in source:
        return "r2plus1d_18"
    if "layer2.0.conv1.0.weight" in source:
        return "mc3_18" if source["layer2.0.conv1.0.weight"].shape[2] == 1 else "r3d_18"
    raise ValueError(f"below {prefix!r} is none of torchvision's video networks: there is no layer2.0.conv1")


def last_layer(backbone: str) -> str:
    """The name of the layer of torchvision's network that classifies."""
    return "classifier.1" if backbone == "s3d" else "fc"


def torchvision_network(backbone: str, state: Mapping[str, Tensor], with_classifier: bool) -> nn.Module:
    """Torchvision's own network with the given tensors; a tensor that is missing or of another shape is an error."""
    classes = {"num_classes": len(state[last_layer(backbone) + ".weight"])} if with_classifier else {}
    with torch.device("meta"):  # its own initialization would take seconds
        network = get_model(backbone, weights=None, **classes)
    if backbone == "s3d":
        network.avgpool = nn.AdaptiveAvgPool3d(1)
    if not with_classifier:
        setattr(network, last_layer(backbone).partition(".")[0], nn.Identity())
    filled: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        filled[name] = state.get(name, torch.zeros((), dtype=torch.long))
        if name not in state and not name.endswith(".num_batches_tracked"):
            raise ValueError(f"{name} of {backbone} is missing")
        if filled[name].shape != tensor.shape:
            raise ValueError(f"{name} is {tuple(filled[name].shape)}, and of {backbone} it is {tuple(tensor.shape)}")
    network.load_state_dict(filled, assign=True)
    return network


@torch.no_grad()
def compare(network: nn.Module, model: ViDiDiModel | ViDiDiForVideoClassification, order: int | None = None) -> float:
    """Compares a network of torchvision with a model of ours on two random clips of 8 frames of 32 x 32 pixels.

    Args:
        network: The network; it returns features or logits.
        model: The model; its pooled features or logits are compared. It ends in evaluation mode.
        order: The derivative order as which the encoder is shown the clips.

    Returns:
        The largest absolute difference.

    Raises:
        RuntimeError: If it exceeds 1e-4 of the largest value (or of 1).
    """
    clips = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model.eval()
    if isinstance(model, ViDiDiForVideoClassification):
        ours = model(clips, derivative_orders=(order or 0,), return_dict=True).logits
        if order:  # the classifier differentiates: show the network the same
            clips = clips.diff(n=order, dim=1)
    else:
        ours = model(clips, derivative_order=order or 0, return_dict=True).pooler_output
    theirs = network.eval()(clips.transpose(1, 2))
    difference = (ours - theirs).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, theirs.abs().max().item()):  # also if it is not a number
        raise RuntimeError(f"the networks compute different things before and after: by up to {difference}")
    return difference
