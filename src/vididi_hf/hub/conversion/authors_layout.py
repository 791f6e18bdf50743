"""State dicts as the code of ViDiDi's authors (github.com/ChicyChen/Func-Spec) loads them.

In, their files need nothing of their own: the network is torchvision's, and its prefix is found out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.hub.conversion.accounting import ConversionReport
from vididi_hf.hub.conversion.networks import last_layer
from vididi_hf.hub.conversion.torchvision_layout import one_order, to_torchvision
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining

_AUTHORS_CLASSES = 400  # their networks keep torchvision's default classifier, and load it strictly


def to_authors(
    model: ViDiDiModel | ViDiDiForPreTraining, order: int | None = None
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Makes a state dict that the authors' evaluation loads, as their `resnet_epoch*.pth.tar`.

    It is torchvision's with a classifier of zeros, which their scripts load and then replace.

    Args:
        model: Encoder, or encoder with heads, which are left out.
        order: See [`to_torchvision`].

    Returns:
        The state dict, and what became of every tensor.

    Raises:
        ValueError: See [`to_torchvision`].
    """
    state, report = to_torchvision(model, order)
    for name, tensor in _empty_classifier(model.config).items():
        state[name] = tensor
        report.added[name] = "zeros, for a classifier that is replaced"
    return state, report


def to_authors_training(
    model: ViDiDiForPreTraining, order: int | None = None
) -> tuple[dict[str, dict[str, Tensor]], ConversionReport]:
    """Makes what the authors' training keeps under `model`, as in their `net3d_epoch*.pth.tar`.

    The last layer of their heads has a bias where ours has none; it becomes zero, which computes the same. There is no
    `optimizer` in the result.

    Args:
        model: Encoder with the heads of its objective, and the target of BYOL.
        order: See [`to_torchvision`].

    Returns:
        `{"model": …}`, and what became of every tensor.

    Raises:
        ValueError: See [`to_torchvision`].
    """
    network, report = to_authors(model, order)
    byol = model.target is not None
    online = "module.online_encoder.net." if byol else "module.encoder.net."
    state = {online + name: tensor for name, tensor in network.items()}
    report.used = {name: online + target for name, target in report.used.items()}
    report.added = {online + name: why for name, why in report.added.items()}
    heads: dict[str, tuple[str, nn.Module]] = {
        "objective.projector.": (
            "module.online_encoder.projector.net." if byol else "module.projector.net.",
            model.objective.projector,
        ),
        "objective.predictor.": ("module.online_predictor.net.", model.objective.predictor),
    }
    if model.target is not None:
        state |= {f"module.net.{name}": tensor for name, tensor in network.items()}
        report.added |= {f"module.net.{name}": f"the same as {online}{name}" for name in network}
        target = "module.target_encoder.net."
        averaged = one_order(model.target.encoder, "target.encoder.backbone.", order, report, target)
        empty = _empty_classifier(model.config)
        state |= {target + name: tensor for name, tensor in (averaged | empty).items()}
        report.added |= {target + name: "zeros, for a classifier that is replaced" for name in empty}
        heads["target.projector."] = ("module.target_encoder.projector.net.", model.target.projector)
    for ours, (theirs, head) in heads.items():
        for name, tensor in head.state_dict().items():
            state[theirs + name] = tensor.clone()
            report.used[ours + name] = theirs + name
        if isinstance(head, nn.Sequential):
            last = f"{theirs}{len(head) - 1}"
            bias = f"{last}.bias"
            state[bias] = torch.zeros(len(state[f"{last}.weight"]))
            report.added[bias] = "zeros, as our heads end without a bias"
    used = {name.partition("[")[0] for name in report.used}
    report.dropped = {name: why for name, why in report.dropped.items() if name not in used}
    return {"model": state}, report


def _empty_classifier(config: ViDiDiConfig) -> dict[str, Tensor]:
    name, kernel = last_layer(config.backbone), (1, 1, 1) if config.backbone == "s3d" else ()
    weight = torch.zeros(_AUTHORS_CLASSES, config.hidden_size, *kernel)
    return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(_AUTHORS_CLASSES)}
