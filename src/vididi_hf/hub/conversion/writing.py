"""Writes state dicts that torchvision's video networks load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vididi_hf.batch_norm_vididi import PerOrderBatchNorm3d
from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.files import atomic_write
from vididi_hf.hub.conversion.networks import ConversionReport, compare, last_layer, torchvision_network
from vididi_hf.hub.publishing import load_checkpoint_model
from vididi_hf.modeling_vididi import ViDiDiModel


def convert_checkpoint(checkpoint: str | Path, path: str | Path, order: int | None = None) -> ConversionReport:
    """Converts a checkpoint into a file of torchvision's layout: safetensors if it is named so, or `torch.save`."""
    model: Any = load_checkpoint_model(checkpoint)
    state, report = to_torchvision(model, order)
    with atomic_write(path) as unfinished:
        if Path(path).suffix == ".safetensors":
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, unfinished)
        else:
            torch.save(state, unfinished)
    return report


def to_torchvision(
    model: ViDiDiModel | ViDiDiForVideoClassification, order: int | None = None
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Returns a state dict that `torchvision.models.video` loads, and the report.

    An encoder has no classifier: set `network.fc = nn.Identity()` (`network.classifier` in S3D) before you load it.
    Torchvision's S3D takes 16 frames of 224 x 224 pixels unless you set `network.avgpool = nn.AdaptiveAvgPool3d(1)`.

    Args:
        model: Encoder, or classifier of one derivative order, of the standard width and depth.
        order: Derivative order whose BatchNorm statistics are kept. Required if the model has statistics per order.

    Raises:
        ValueError: If torchvision has no such network, or the network computes other outputs than the model.
    """
    config = model.config
    classifier = model if isinstance(model, ViDiDiForVideoClassification) else None
    encoder = model if isinstance(model, ViDiDiModel) else model.vididi
    if (order or (classifier and config.classifier_orders[0])) and config.derivative_scale != "none":
        raise ValueError(
            f"torchvision has no derivative_scale {config.derivative_scale!r}: only order 0 can be converted"
        )
    report = ConversionReport()
    state = _one_order(encoder, "vididi.backbone." if classifier else "backbone.", order, report)
    if classifier:
        target = last_layer(config.backbone)
        weight = classifier.classifier.weight.detach().clone()
        state[f"{target}.weight"] = weight[..., None, None, None] if config.backbone == "s3d" else weight
        state[f"{target}.bias"] = classifier.classifier.bias.detach().clone()
        report.used |= {f"classifier.{part}": f"{target}.{part}" for part in ("weight", "bias")}
    report.account_for(model.state_dict())
    network = torchvision_network(config.backbone, state, with_classifier=classifier is not None)
    report.difference = compare(network, model, order)
    return state, report


def _one_order(encoder: ViDiDiModel, prefix: str, order: int | None, report: ConversionReport) -> dict[str, Tensor]:
    """Returns the backbone's state dict with the BatchNorm statistics of one derivative order."""
    norms = {name: one for name, one in encoder.backbone.named_modules() if isinstance(one, PerOrderBatchNorm3d)}
    orders = next(iter(norms.values())).orders if norms else ()
    if norms and order not in orders:
        raise ValueError(
            f"the model has BatchNorm statistics per derivative order: choose one of {orders}, got {order}"
        )
    state: dict[str, Tensor] = {}
    for name, tensor in encoder.backbone.state_dict().items():
        module, _, part = name.rpartition(".")
        if module not in norms or not part.startswith("running_"):
            state[name] = tensor.clone()
            report.used[prefix + name] = name
            continue
        for row, kept in enumerate(orders):
            if kept == order:
                state[name] = tensor[row].clone()
                report.used[f"{prefix}{name}[{row}]"] = name
            else:
                report.dropped[f"{prefix}{name}[{row}]"] = f"statistics of order {kept}"
    return state
