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

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model

from vididi_hf.batch_norm_vididi import PerOrderBatchNorm3d
from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.hub.publishing import load_checkpoint_model
from vididi_hf.hub.tensor_files import read_tensors, write_tensors
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.pretraining.checkpoints import CHECKPOINTS
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

LAYOUTS = ("torchvision", "authors", "authors_training")
TOLERANCE = 1e-4
OBJECTIVE_FILE = "training_state/objective.safetensors"  # within a checkpoint of a run

# First tensor of every network, by which it is found under any prefix.
_FIRST = ("stem.0.weight", "features.0.0.0.weight")
_CLASSIFIERS = ("fc.", "classifier.")
# Parts of names, and what such tensors are; the first that fits is told.
_LEFT_OUT = {
    "target": "moving average that BYOL trains against",
    "projector": "head of the objective",
    "predictor": "head of the objective",
}
_AUTHORS_CLASSES = 400  # their networks keep torchvision's default classifier, and load it strictly


@dataclass
class ConversionReport:
    """What became of every tensor.

    Attributes:
        used: Name in the source -> name in the result.
        dropped: Name in the source -> why it is not in the result.
        added: Name in the result -> what it was filled with, having no source.
        difference: Largest absolute difference between what the networks compute before and after, on random clips.
    """

    used: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    added: dict[str, str] = field(default_factory=dict)
    difference: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{len(self.used)} tensors used; outputs differ by at most {self.difference:.1e}"]
        for verb, entries in (("dropped", self.dropped), ("added", self.added)):
            for reason in dict.fromkeys(entries.values()):
                names = [name for name, why in entries.items() if why == reason]
                lines.append(f"{len(names)} {verb}, such as {names[0]}: {reason}")
        return "\n".join(lines)


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
        ('mc3_18', 117, ['fc.bias', 'fc.weight'])
    """
    report = ConversionReport()
    if prefix is None:
        prefix = _find_prefix(tensors, report)
    else:
        report.dropped |= {name: f"not below {prefix!r}" for name in tensors if not name.startswith(prefix)}
    source = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    backbone = _backbone_of(source, prefix)
    head = {name: tensor for name, tensor in source.items() if name.startswith(_CLASSIFIERS)}
    if with_classifier and not head:
        raise ValueError("there is no classifier among the tensors")
    network = _torchvision_network(backbone, source, with_classifier)

    model: ViDiDiModel | ViDiDiForVideoClassification
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
    _account_for_rest(tensors, report)
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
        ValueError: If torchvision has no such network, or `order` is missing or has no statistics.
        RuntimeError: If the network computes something else than the model.
    """
    config = model.config
    if config.backbone != "s3d" and (config.hidden_sizes, config.depths) != ((64, 128, 256, 512), (2, 2, 2, 2)):
        raise ValueError(
            f"torchvision has {config.backbone} with hidden_sizes (64, 128, 256, 512) and depths (2, 2, 2, 2) only, "
            f"not {config.hidden_sizes} and {config.depths}"
        )
    encoder = model if isinstance(model, ViDiDiModel) else model.vididi
    prefix = "" if isinstance(model, ViDiDiModel) else "vididi."
    report = ConversionReport()
    state = _one_order(encoder, f"{prefix}backbone.", order, report)
    if isinstance(model, ViDiDiForVideoClassification):
        if len(config.classifier_orders) != 1:
            raise ValueError(
                f"torchvision has no classifier of several orders, and this is of {config.classifier_orders}"
            )
        target = _last_layer(config.backbone)
        state[f"{target}.weight"] = model.classifier.weight.detach().clone()
        if config.backbone == "s3d":
            state[f"{target}.weight"] = state[f"{target}.weight"][..., None, None, None]
        state[f"{target}.bias"] = model.classifier.bias.detach().clone()
        report.used |= {f"classifier.{part}": f"{target}.{part}" for part in ("weight", "bias")}
    _account_for_rest(model.state_dict(), report)
    compared = model if isinstance(model, ViDiDiForVideoClassification) else encoder
    network = _torchvision_network(config.backbone, state, with_classifier=compared is not encoder)
    report.difference = compare(network, compared, order)
    return state, report


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
        averaged = _one_order(model.target.encoder, "target.encoder.backbone.", order, report, target)
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


def convert_file(
    source: str | Path, folder: str | Path, *, prefix: str | None = None, with_classifier: bool = False, **options: Any
) -> ConversionReport:
    """Makes a folder that `from_pretrained` loads, with model and processor, of a file in any of the layouts.

    Args:
        source: The file; see [`read_tensors`].
        folder: Where to write; new or empty.
        prefix: See [`from_tensors`].
        with_classifier: See [`from_tensors`].
        **options: Further fields of the configuration. The processor takes `num_frames` and `image_size` from it.

    Returns:
        What became of everything in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the folder is not empty, or for the reasons of `read_tensors` and `from_tensors`.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is no empty folder; choose a new one")
    tensors, left_out = read_tensors(source)
    model, report = from_tensors(tensors, prefix=prefix, with_classifier=with_classifier, **options)
    report.dropped |= left_out
    model.save_pretrained(folder)
    size = model.config.image_size
    processor = ViDiDiVideoProcessor(
        num_frames=model.config.num_frames, crop_size=size, size={"shortest_edge": size * 8 // 7}
    )
    processor.save_pretrained(folder)
    return report


def convert_folder(checkpoint: str | Path, path: str | Path, layout: str, order: int | None = None) -> ConversionReport:
    """Makes a file in one of the layouts of a checkpoint of ours.

    Args:
        checkpoint: Folder of a run, of one of its checkpoints, or any that `save_pretrained` wrote. The layout
            `authors_training` needs one with the heads of the objective, such as `checkpoints/step-…` of a run.
        path: The file; safetensors if it is named so.
        layout: One of `LAYOUTS`.
        order: See [`to_torchvision`].

    Returns:
        What became of every tensor.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If the layout is unknown, the checkpoint lacks what it needs, or for the reasons of
            `to_torchvision`.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"the layout must be vididi, {', '.join(LAYOUTS)}; got {layout!r}")
    checkpoint = Path(checkpoint)
    model: Any = load_checkpoint_model(checkpoint, encoder_only=layout != "torchvision")
    content: Mapping[str, Any]
    if layout == "authors_training":
        content, report = to_authors_training(_with_heads(checkpoint, model), order)
    else:
        content, report = (to_authors if layout == "authors" else to_torchvision)(model, order)
    write_tensors(path, content)
    return report


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


def _with_heads(checkpoint: Path, encoder: ViDiDiModel) -> ViDiDiForPreTraining:
    """The model that was pretrained: heads from a run's checkpoint, or from one of the whole model."""
    heads = checkpoint / OBJECTIVE_FILE
    if heads.exists():
        model = ViDiDiForPreTraining(encoder.config)
        tensors = {f"vididi.{name}": tensor for name, tensor in encoder.state_dict().items()}
        model.load_state_dict(tensors | load_file(heads))
        return model
    loaded: Any = ViDiDiForPreTraining.from_pretrained(checkpoint, output_loading_info=True)
    if missing := [name for name in loaded[1]["missing_keys"] if name.startswith("objective.")]:
        raise ValueError(
            f"{checkpoint} holds no heads of the objective, such as {missing[0]}: name one of a run's {CHECKPOINTS}"
        )
    return loaded[0]


def _find_prefix(tensors: Mapping[str, Tensor], report: ConversionReport) -> str:
    """The prefix of the one network among the tensors; copies of it are reported as dropped."""
    prefixes = [
        name.removesuffix(first) for first in _FIRST for name in tensors if name == first or name.endswith(f".{first}")
    ]
    online = [prefix for prefix in prefixes if not any(part in prefix for part in _LEFT_OUT)]
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


def _backbone_of(source: Mapping[str, Tensor], prefix: str) -> str:
    """Which of the four networks tensors belong to."""
    if "features.0.0.0.weight" in source:
        return "s3d"
    if "layer2.0.conv1.0.0.weight" in source:
        return "r2plus1d_18"
    if "layer2.0.conv1.0.weight" in source:
        return "mc3_18" if source["layer2.0.conv1.0.weight"].shape[2] == 1 else "r3d_18"
    raise ValueError(f"below {prefix!r} is none of torchvision's video networks: there is no layer2.0.conv1")


def _torchvision_network(backbone: str, state: Mapping[str, Tensor], with_classifier: bool) -> nn.Module:
    """Torchvision's own network with the given tensors; a tensor that is missing or of another shape is an error."""
    classes = {"num_classes": len(state[_last_layer(backbone) + ".weight"])} if with_classifier else {}
    with torch.device("meta"):  # its own initialisation would take seconds
        network = get_model(backbone, weights=None, **classes)
    if backbone == "s3d":
        network.avgpool = nn.AdaptiveAvgPool3d(1)
    if not with_classifier:
        setattr(network, _last_layer(backbone).partition(".")[0], nn.Identity())
    filled: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        filled[name] = state.get(name, torch.zeros((), dtype=torch.long))
        if name not in state and not name.endswith(".num_batches_tracked"):
            raise ValueError(f"{name} of {backbone} is missing")
        if filled[name].shape != tensor.shape:
            raise ValueError(f"{name} is {tuple(filled[name].shape)}, and of {backbone} it is {tuple(tensor.shape)}")
    network.load_state_dict(filled, assign=True)
    return network


def _last_layer(backbone: str) -> str:
    return "classifier.1" if backbone == "s3d" else "fc"


def _one_order(
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


def _empty_classifier(config: ViDiDiConfig) -> dict[str, Tensor]:
    name, kernel = _last_layer(config.backbone), (1, 1, 1) if config.backbone == "s3d" else ()
    weight = torch.zeros(_AUTHORS_CLASSES, config.hidden_size, *kernel)
    return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(_AUTHORS_CLASSES)}


def _account_for_rest(tensors: Mapping[str, Tensor], report: ConversionReport) -> None:
    """Reports tensors outside the network as dropped if it is known what they are, and raises otherwise."""
    seen = {name.partition("[")[0] for name in (*report.used, *report.dropped)}
    unknown = []
    for name in tensors:
        if name in seen:
            continue
        reason = next((why for part, why in _LEFT_OUT.items() if part in name), None)
        if reason is None:
            unknown.append(name)
        else:
            report.dropped[name] = reason
    if unknown:
        raise ValueError(f"{len(unknown)} tensors belong to no part that is known, such as {unknown[0]}")


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
