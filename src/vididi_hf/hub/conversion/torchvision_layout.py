"""State dicts of torchvision's video networks, in and out, under whatever prefix they lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vididi_hf.batch_norm_vididi import PerOrderBatchNorm3d
from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.hub.conversion.accounting import LEFT_OUT, ConversionReport, account_for_rest
from vididi_hf.hub.conversion.networks import backbone_of, compare, last_layer, torchvision_network
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining

# First tensor of every network, by which it is found under any prefix.
_FIRST = ("stem.0.weight", "features.0.0.0.weight")
_CLASSIFIERS = ("fc.", "classifier.")


def from_tensors(
    tensors: Mapping[str, Tensor], *, prefix: str | None = None, with_classifier: bool = False, **options: Any
) -> tuple[ViDiDiModel | ViDiDiForVideoClassification, ConversionReport]:
    """Makes a model of a state dict in any of the layouts; which of the four networks it is, the tensors tell.

    Args:
        tensors: The state dict.
        prefix: What the names of the network begin with; found out by default.
        with_classifier: Whether to keep the classifier; the model is then a `ViDiDiForVideoClassification`.
        **options: Further fields of the configuration, such as `num_frames` or `id2label`.

    Returns:
        The model, in evaluation mode, and what became of every tensor.

    Raises:
        ValueError: If no network or several are found, one lacks tensors or is not of the standard width and depth,
            or a tensor is neither part of it nor known to be dispensable.
        RuntimeError: If the model computes something else than the network that the tensors come from.

    Example:
        >>> from torchvision.models.video import mc3_18
        >>> from vididi_hf.hub.conversion import from_tensors
        >>> model, report = from_tensors(mc3_18().state_dict())
        >>> model.config.backbone, len(report.used), sorted(report.dropped)
        ('mc3_18', 120, ['fc.bias', 'fc.weight'])
    """
    report = ConversionReport()
    if prefix is None:
        prefix = find_prefix(tensors, report)
    else:
        report.dropped |= {name: f"not below {prefix!r}" for name in tensors if not name.startswith(prefix)}
    source = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    backbone = backbone_of(source, prefix)
    head = {name: tensor for name, tensor in source.items() if name.startswith(_CLASSIFIERS)}
    if with_classifier and not head:
        raise ValueError("there is no classifier among the tensors")
    network = torchvision_network(backbone, source, with_classifier)

    model: ViDiDiModel | ViDiDiForVideoClassification
    options = {"batch_norm": "shared", **options}
    if with_classifier:
        options = {"num_labels": len(next(iter(head.values()))), **options}
        model = ViDiDiForVideoClassification(ViDiDiConfig(backbone=backbone, **options))
    else:
        model = ViDiDiModel(ViDiDiConfig(backbone=backbone, **options))
    wanted = model.state_dict()
    encoder = "vididi.backbone." if with_classifier else "backbone."
    state: dict[str, Tensor] = {}
    for name, tensor in source.items():
        target = encoder + name
        if name in head:
            if not with_classifier:
                report.dropped[prefix + name] = "classifier"
                continue
            target = f"classifier.{name.rsplit('.', 1)[1]}"
            tensor = tensor.flatten(1) if tensor.ndim > 1 else tensor  # S3D's is a 1 x 1 x 1 convolution
        if target in wanted:
            state[target] = tensor
            report.used[prefix + name] = target
    for name in sorted(wanted.keys() - state.keys()):  # counters, which files of old versions of PyTorch lack
        state[name] = torch.zeros_like(wanted[name])
        report.added[name] = "zero"
    model.load_state_dict(state)
    account_for_rest(tensors, report)
    report.difference = compare(network, model.eval())
    return model, report


def to_torchvision(
    model: ViDiDiModel | ViDiDiForVideoClassification | ViDiDiForPreTraining, order: int | None = None
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Makes a state dict that `torchvision.models.video` loads.

    An encoder comes without a classifier: set `network.fc = nn.Identity()` (`network.classifier` in S3D) before
    loading it there. S3D of torchvision pools 2 x 7 x 7 features; give it `network.avgpool = nn.AdaptiveAvgPool3d(1)`
    for clips other than 16 frames of 224 x 224 pixels.

    Args:
        model: Encoder, classifier of one derivative order, or encoder with the heads of an objective, which are left
            out; of the standard width and depth.
        order: The derivative order whose BatchNorm statistics are taken; must be given if the model keeps them per
            order, since there is room for one.

    Returns:
        The state dict, and what became of every tensor.

    Raises:
        ValueError: If torchvision has no such network, `order` is missing or has no statistics, or the model rescales
            the derivatives that the network is to be shown.
        RuntimeError: If the network computes something else than the model.
    """
    config = model.config
    shown = order or (config.classifier_orders[0] if isinstance(model, ViDiDiForVideoClassification) else 0)
    if shown and config.derivative_scale != "none":
        raise ValueError(
            f"the model rescales derivatives (derivative_scale {config.derivative_scale!r}), which no network of "
            f"torchvision does: it can be converted for frames, order 0, and not for order {shown}"
        )
    if config.backbone != "s3d" and (config.hidden_sizes, config.depths) != ((64, 128, 256, 512), (2, 2, 2, 2)):
        raise ValueError(
            f"torchvision has {config.backbone} with hidden_sizes (64, 128, 256, 512) and depths (2, 2, 2, 2) only, "
            f"not {config.hidden_sizes} and {config.depths}"
        )
    encoder = model if isinstance(model, ViDiDiModel) else model.vididi
    prefix = "" if isinstance(model, ViDiDiModel) else "vididi."
    report = ConversionReport()
    state = one_order(encoder, f"{prefix}backbone.", order, report)
    if isinstance(model, ViDiDiForVideoClassification):
        if len(config.classifier_orders) != 1:
            raise ValueError(
                f"torchvision has no classifier of several orders, and this is of {config.classifier_orders}"
            )
        target = last_layer(config.backbone)
        state[f"{target}.weight"] = model.classifier.weight.detach().clone()
        if config.backbone == "s3d":
            state[f"{target}.weight"] = state[f"{target}.weight"][..., None, None, None]
        state[f"{target}.bias"] = model.classifier.bias.detach().clone()
        report.used |= {f"classifier.{part}": f"{target}.{part}" for part in ("weight", "bias")}
    account_for_rest(model.state_dict(), report)
    compared = model if isinstance(model, ViDiDiForVideoClassification) else encoder
    network = torchvision_network(config.backbone, state, with_classifier=compared is not encoder)
    report.difference = compare(network, compared, order)
    return state, report


def find_prefix(tensors: Mapping[str, Tensor], report: ConversionReport) -> str:
    """The prefix of the one network among the tensors; copies of it are reported as dropped."""
    prefixes = [
        name.removesuffix(first) for first in _FIRST for name in tensors if name == first or name.endswith(f".{first}")
    ]
    online = [prefix for prefix in prefixes if not any(part in prefix for part in LEFT_OUT)]
    if not online:
        raise ValueError(
            f"found none of torchvision's video networks: no tensor is called {' or '.join(_FIRST)} after any prefix"
        )
    chosen = max(online, key=lambda prefix: prefix.count("."))
    for prefix in online:
        if prefix == chosen:
            continue
        copies = {name: chosen + name.removeprefix(prefix) for name in tensors if _below(name, prefix, online)}
        if not all(other in tensors and torch.equal(tensors[name], tensors[other]) for name, other in copies.items()):
            raise ValueError(f"found several networks, below {', '.join(map(repr, online))}: choose one by its prefix")
        report.dropped |= dict.fromkeys(copies, f"the same network as below {chosen!r}")
    return chosen


def _below(name: str, prefix: str, prefixes: list[str]) -> bool:
    """Whether a tensor belongs to the network of a prefix, and to none with a longer one."""
    return max((one for one in prefixes if name.startswith(one)), key=len, default=None) == prefix


def one_order(
    encoder: ViDiDiModel, prefix: str, order: int | None, report: ConversionReport, target: str = ""
) -> dict[str, Tensor]:
    """The state dict of a backbone with BatchNorm statistics of one derivative order."""
    norms = {name: one for name, one in encoder.backbone.named_modules() if isinstance(one, PerOrderBatchNorm3d)}
    orders = next(iter(norms.values())).orders if norms else ()
    if norms and order is None:
        raise ValueError(
            f"the model keeps BatchNorm statistics of the derivative orders {orders}, and there is room for one: "
            "choose an order (0 for frames)"
        )
    if norms and order not in orders:
        raise ValueError(f"the model keeps BatchNorm statistics of the derivative orders {orders}, not of {order}")
    state: dict[str, Tensor] = {}
    for name, tensor in encoder.backbone.state_dict().items():
        module, _, part = name.rpartition(".")
        state[name] = tensor.clone()
        report.used[prefix + name] = target + name
        if module in norms and part.startswith("running_"):
            row = orders.index(order)
            state[name] = tensor[row].clone()
            del report.used[prefix + name]
            report.used[f"{prefix}{name}[{row}]"] = target + name
            for other, left_out in enumerate(orders):
                if other != row:
                    report.dropped[f"{prefix}{name}[{other}]"] = f"statistics of order {left_out}"
    return state
