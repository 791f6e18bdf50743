"""Reads checkpoints of torchvision and of ViDiDi's authors (github.com/ChicyChen/Func-Spec); writes torchvision's."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import get_model
from transformers.utils import logging

from vididi_hf.batch_norm_vididi import PerOrderBatchNorm3d
from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.files import atomic_write, write_text
from vididi_hf.hub.options import ConvertOptions
from vididi_hf.hub.publishing import load_checkpoint_model
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.reading import check_file
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

TOLERANCE = 1e-4
# Part of a tensor's name -> what the tensor is. The first match counts.
_HEAD = "head of the objective"
_LEFT_OUT = {"target": "EMA target of BYOL", "projector": _HEAD, "predictor": _HEAD}
_CONTAINERS = ("model", "state_dict", "model_state_dict")
_FIRST = ("stem.0.weight", "features.0.0.0.weight")  # the first tensor of each network, which marks its prefix


def run(options: ConvertOptions) -> None:
    """Converts a checkpoint and prints what happened to its tensors."""
    logging.disable_progress_bar()
    convert = convert_checkpoint if options.to == "torchvision" else convert_file
    print(convert(options))
    print(f"Wrote {options.output}.")


@dataclass
class ConversionReport:
    """What a conversion did with each tensor."""

    used: dict[str, str] = field(default_factory=dict)  # name in the source -> name in the result
    dropped: dict[str, str] = field(default_factory=dict)  # name in the source -> reason
    added: dict[str, str] = field(default_factory=dict)  # name in the result, without a source -> value
    difference: float = 0.0  # largest absolute difference between the outputs before and after, on random clips

    def __str__(self) -> str:
        lines = [f"{len(self.used)} tensors used; the outputs differ by at most {self.difference:.1e}"]
        for verb, entries in (("dropped", self.dropped), ("added", self.added)):
            for reason in dict.fromkeys(entries.values()):
                names = [name for name, why in entries.items() if why == reason]
                lines.append(f"{len(names)} {verb}, such as {names[0]}: {reason}")
        return "\n".join(lines)

    def account_for(self, tensors: Mapping[str, Tensor]) -> None:
        """Reports the remaining tensors as dropped. An unknown tensor is a `ValueError`."""
        seen = {name.partition("[")[0] for name in (*self.used, *self.dropped)}
        for name in [name for name in tensors if name not in seen]:
            reason = next((reason for part, reason in _LEFT_OUT.items() if part in name), None)
            if reason is None:
                raise ValueError(f"the tensor {name} is not part of a known network")
            self.dropped[name] = reason


def convert_file(options: ConvertOptions) -> ConversionReport:
    """Converts a file into a new folder with a model and a processor, which `from_pretrained` loads."""
    folder = Path(options.output)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder: choose a new one")
    tensors, left_out = read_tensors(options.source)
    frames, size = options.num_frames, options.image_size
    model, report = from_tensors(tensors, options.prefix, options.with_classifier, num_frames=frames, image_size=size)
    report.dropped |= left_out
    processor = ViDiDiVideoProcessor(num_frames=frames, crop_size=size, size={"shortest_edge": size * 8 // 7})
    with atomic_write(folder) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        write_text(unfinished / "conversion.json", json.dumps(asdict(report), indent=2) + "\n")
    return report


def convert_checkpoint(options: ConvertOptions) -> ConversionReport:
    """Converts a checkpoint into a file of torchvision's layout: safetensors if it is named so, or `torch.save`."""
    if Path(options.output).is_dir():
        raise ValueError(f"{options.output} is a folder: choose the name of a file")
    model: Any = load_checkpoint_model(options.source)
    state, report = to_torchvision(model, options.order)
    with atomic_write(options.output) as unfinished:
        if options.output.endswith(".safetensors"):
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, unfinished)
        else:
            torch.save(state, unfinished)
    return report


class _Inert:
    """Replaces a function that the authors' optimizer state refers to. Nothing calls it."""


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the state dict in a file without executing code, and why the other entries of the file are left out."""
    if not (path := Path(path)).exists():
        raise FileNotFoundError(f"{path} does not exist")
    check_file(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path), {}
        # Allowing a function in the authors' optimizer state by name keeps the file readable, and harmless.
        with torch.serialization.safe_globals([(_Inert, "__main__.exclude_bias_and_norm")]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch fails in many ways if the file is something else
        raise ValueError(f"{path} is not a file of tensors: {type(error).__name__}: {error}") from None
    left_out: dict[str, str] = {}
    container = next((name for name in _CONTAINERS if isinstance(content, dict) and name in content), None)
    if container is not None:
        left_out = {str(name): "training state" for name in content if name != container}
        content = content[container]
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(f"{path} holds no state dict, neither at the top nor under {', '.join(_CONTAINERS)}")
    for name, tensor in content.items():
        if tensor.is_meta or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{path} has a tensor {name} of {tensor.numel():.0e} numbers that the file does not hold")
    return dict(content), left_out


def from_tensors(
    tensors: Mapping[str, Tensor], prefix: str | None = None, with_classifier: bool = False, **options: Any
) -> tuple[ViDiDiModel | ViDiDiForVideoClassification, ConversionReport]:
    """Builds a model from a state dict. The tensors tell which network it is and, by default, its prefix.

    `options` are further fields of the configuration. A problem with the tensors or the outputs is a `ValueError`.
    """
    report = ConversionReport()
    if prefix is None:
        prefix = _find_prefix(tensors, report)
    else:
        report.dropped |= {name: f"not below {prefix!r}" for name in tensors if not name.startswith(prefix)}
    source = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    backbone = backbone_of(source, prefix)
    head = last_layer(backbone) + "."
    network = torchvision_network(backbone, source, with_classifier)
    options = {"backbone": backbone, "batch_norm": "shared", **options}
    model: ViDiDiModel | ViDiDiForVideoClassification
    if with_classifier:
        options = {"num_labels": len(source[head + "weight"]), **options}
        model = ViDiDiForVideoClassification(ViDiDiConfig(**options))
    else:
        model = ViDiDiModel(ViDiDiConfig(**options))
        report.dropped |= {prefix + name: "classifier" for name in source if name.startswith(head)}
    wanted = model.state_dict()
    state: dict[str, Tensor] = {}
    for name, tensor in source.items():
        target = ("vididi.backbone." if with_classifier else "backbone.") + name
        if with_classifier and name.startswith(head):
            target = f"classifier.{name.removeprefix(head)}"
            tensor = tensor.flatten(1) if tensor.ndim > 1 else tensor  # S3D's is a 1 x 1 x 1 convolution
        if target in wanted:
            state[target] = tensor
            report.used[prefix + name] = target
    # Only counters, which files of old PyTorch versions lack; torchvision_network has found the rest.
    report.added |= dict.fromkeys(sorted(wanted.keys() - state.keys()), "zero")
    model.load_state_dict(state, strict=False)
    report.account_for(tensors)
    report.difference = compare(network, model)
    return model, report


def _find_prefix(tensors: Mapping[str, Tensor], report: ConversionReport) -> str:
    """Finds the prefix of the only network, and reports copies of it as dropped."""
    prefixes = [name.removesuffix(first) for first in _FIRST for name in tensors if f".{name}".endswith(f".{first}")]
    online = [prefix for prefix in prefixes if not any(part in prefix for part in _LEFT_OUT)]
    if not online:
        raise ValueError(f"no video network of torchvision found: no tensor's name ends in {' or '.join(_FIRST)}")
    chosen = max(online, key=lambda prefix: prefix.count("."))
    for prefix in [one for one in online if one != chosen]:
        # A prefix may be the beginning of another one; a tensor belongs to the longest.
        copies = {
            name: chosen + name.removeprefix(prefix)
            for name in tensors
            if max((one for one in online if name.startswith(one)), key=len, default=None) == prefix
        }
        if not all(other in tensors and torch.equal(tensors[name], tensors[other]) for name, other in copies.items()):
            raise ValueError(f"found networks below the prefixes {', '.join(map(repr, online))}: choose one of them")
        report.dropped |= dict.fromkeys(copies, f"the same network as below {chosen!r}")
    return chosen


def to_torchvision(
    model: ViDiDiModel | ViDiDiForVideoClassification, order: int | None = None
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Returns a state dict that `torchvision.models.video` loads, and the report.

    An encoder has no classifier: set `network.fc = nn.Identity()` (`network.classifier` in S3D) before you load it.
    Torchvision's S3D takes 16 frames of 224 x 224 pixels unless you set `network.avgpool = nn.AdaptiveAvgPool3d(1)`.
    `order` is the derivative order whose BatchNorm statistics are kept; required if the model has several.
    """
    config = model.config
    if config.backbone_config is not None:
        raise ValueError(f"torchvision has no {config.backbone_name!r}: only its own networks can be converted to it")
    classifier = model if isinstance(model, ViDiDiForVideoClassification) else None
    if classifier:
        own = tuple(config.classifier_orders)
        if len(own) > 1 or order not in (None, own[0]):
            raise ValueError(f"the classifier sees the derivative orders {own}: it can be converted for one, its own")
        order = own[0]
    if order and config.derivative_scale != "none":
        raise ValueError(f"torchvision lacks derivative_scale {config.derivative_scale!r}: convert order 0")
    backbone = (model if isinstance(model, ViDiDiModel) else model.vididi).backbone
    prefix = "vididi.backbone." if classifier else "backbone."
    norms = {name: one for name, one in backbone.named_modules() if isinstance(one, PerOrderBatchNorm3d)}
    orders = next(iter(norms.values())).orders if norms else ()
    if norms and order not in orders:
        raise ValueError(f"the model has BatchNorm statistics per order: choose one of {orders}, got {order}")
    report, state = ConversionReport(), {}
    for name, tensor in backbone.state_dict().items():
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
    if classifier:
        for part, tensor in classifier.classifier.state_dict().items():
            target = f"{last_layer(config.backbone)}.{part}"
            volume = config.backbone == "s3d" and part == "weight"
            state[target] = tensor[..., None, None, None].clone() if volume else tensor.clone()
            report.used[f"classifier.{part}"] = target
    report.account_for(model.state_dict())
    network = torchvision_network(config.backbone, state, with_classifier=classifier is not None)
    report.difference = compare(network, model, order)
    return state, report


def backbone_of(source: Mapping[str, Tensor], prefix: str) -> str:
    """Names the network that the tensors belong to."""
    for name, backbone in (("features.0.0.0.weight", "s3d"), ("layer2.0.conv1.0.0.weight", "r2plus1d_18")):
        if name in source:
            return backbone
    if "layer2.0.conv1.0.weight" in source:
        return "mc3_18" if source["layer2.0.conv1.0.weight"].shape[2] == 1 else "r3d_18"
    raise ValueError(f"no video network of torchvision below the prefix {prefix!r}: layer2.0.conv1 is missing")


def last_layer(backbone: str) -> str:
    """Names the classification layer of torchvision's network."""
    return "classifier.1" if backbone == "s3d" else "fc"


def torchvision_network(backbone: str, state: Mapping[str, Tensor], with_classifier: bool) -> nn.Module:
    """Builds torchvision's network from tensors. A missing tensor or another shape is a `ValueError`."""
    head = last_layer(backbone)
    if with_classifier and f"{head}.weight" not in state:
        raise ValueError("the file has no classifier: leave out with_classifier")
    classes = {"num_classes": len(state[f"{head}.weight"])} if with_classifier else {}
    with torch.device("meta"):  # its own initialization would take seconds
        network = get_model(backbone, weights=None, **classes)
    if backbone == "s3d":
        network.avgpool = nn.AdaptiveAvgPool3d(1)
    if not with_classifier:
        setattr(network, head.partition(".")[0], nn.Identity())
    try:
        missing, _ = network.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:  # tensors of another shape, one a line
        raise ValueError(f"not torchvision's {backbone}: {str(error).splitlines()[1].strip()}") from None
    # Files of old PyTorch versions lack the counters, which evaluation does not use.
    if missing := [name for name in missing if not name.endswith(".num_batches_tracked")]:
        raise ValueError(f"{missing[0]} of {backbone} is missing")
    return network.eval()


@torch.no_grad()
def compare(network: nn.Module, model: ViDiDiModel | ViDiDiForVideoClassification, order: int | None = None) -> float:
    """Returns the largest difference between the outputs. Above 1e-4 of the largest output (or of 1) is an error."""
    clips = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    encoder = model.eval() if isinstance(model, ViDiDiModel) else model.eval().vididi
    ours = encoder(clips, derivative_order=order or 0, return_dict=True).pooler_output
    if isinstance(model, ViDiDiForVideoClassification):
        ours = model.classifier(ours)
    theirs = network(clips.transpose(1, 2))
    difference = (ours - theirs).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, theirs.abs().max().item()):  # also if it is NaN
        raise ValueError(f"the converted network computes other outputs: they differ by up to {difference}")
    return difference
