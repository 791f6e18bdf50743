"""Reads state dicts of torchvision's video networks, under any prefix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.hub.conversion.networks import (
    LEFT_OUT,
    ConversionReport,
    backbone_of,
    compare,
    torchvision_network,
)
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

_CONTAINERS = ("model", "state_dict", "model_state_dict")
_FIRST = ("stem.0.weight", "features.0.0.0.weight")  # the first tensor of each network, which marks its prefix
_CLASSIFIERS = ("fc.", "classifier.")


class _Inert:
    """Replaces a function that the authors' optimizer state refers to. Nothing calls it."""


def convert_file(
    source: str | Path, folder: str | Path, *, prefix: str | None = None, with_classifier: bool = False, **options: Any
) -> ConversionReport:
    """Converts a file into a folder with a model and a processor, which `from_pretrained` loads.

    Args:
        source: A `.safetensors` file, or a file of `torch.save`.
        folder: New or empty folder.
        prefix: See `from_tensors`.
        with_classifier: See `from_tensors`.
        **options: Further fields of the configuration. The processor uses its `num_frames` and `image_size`.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder: choose a new one")
    tensors, left_out = read_tensors(source)
    model, report = from_tensors(tensors, prefix=prefix, with_classifier=with_classifier, **options)
    report.dropped |= left_out
    model.save_pretrained(folder)
    size = model.config.image_size
    ViDiDiVideoProcessor(
        num_frames=model.config.num_frames, crop_size=size, size={"shortest_edge": size * 8 // 7}
    ).save_pretrained(folder)
    return report


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the state dict in a file without executing code in it.

    Returns:
        The state dict, and the other entries of the file with the reason why they are left out.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, or is not a file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path), {}
        # Allowing a function in the authors' optimizer state by name keeps the file readable, and harmless.
        with torch.serialization.safe_globals([(_Inert, "__main__.exclude_bias_and_norm")]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a file of tensors: {error}") from None
    left_out: dict[str, str] = {}
    container = next((name for name in _CONTAINERS if isinstance(content, dict) and name in content), None)
    if container is not None:
        left_out = {str(name): "training state" for name in content if name != container}
        content = content[container]
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(f"{path} holds no state dict, neither at the top nor under {', '.join(_CONTAINERS)}")
    return dict(content), left_out


def from_tensors(
    tensors: Mapping[str, Tensor], *, prefix: str | None = None, with_classifier: bool = False, **options: Any
) -> tuple[ViDiDiModel | ViDiDiForVideoClassification, ConversionReport]:
    """Builds a model from a state dict. The tensors tell which of the four networks it is.

    Args:
        tensors: The state dict.
        prefix: Prefix of the network's tensors. By default it is found.
        with_classifier: Whether to keep the classifier; the model is then a `ViDiDiForVideoClassification`.
        **options: Further fields of the configuration, such as `num_frames` or `id2label`.

    Returns:
        The model in evaluation mode, and the report.

    Raises:
        ValueError: If there is no network or several, a tensor is missing, of another shape or unknown, or the model
            computes other outputs than torchvision's network.

    Example:
        >>> from torchvision.models.video import mc3_18
        >>> from vididi_hf.hub.conversion import from_tensors
        >>> model, report = from_tensors(mc3_18().state_dict())
        >>> model.config.backbone, len(report.used), sorted(report.dropped)
        ('mc3_18', 120, ['fc.bias', 'fc.weight'])
    """
    report = ConversionReport()
    if prefix is None:
        prefix = _find_prefix(tensors, report)
    else:
        report.dropped |= {name: f"not below {prefix!r}" for name in tensors if not name.startswith(prefix)}
    source = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    backbone = backbone_of(source, prefix)
    head = {name: tensor for name, tensor in source.items() if name.startswith(_CLASSIFIERS)}
    network = torchvision_network(backbone, source, with_classifier)
    model: ViDiDiModel | ViDiDiForVideoClassification
    options = {"batch_norm": "shared", **options}
    if with_classifier:
        options = {"num_labels": len(next(iter(head.values()))), **options}
        model = ViDiDiForVideoClassification(ViDiDiConfig(backbone=backbone, **options))
    else:
        model = ViDiDiModel(ViDiDiConfig(backbone=backbone, **options))
        report.dropped |= {prefix + name: "classifier" for name in head}
    wanted = model.state_dict()
    state: dict[str, Tensor] = {}
    for name, tensor in source.items():
        target = ("vididi.backbone." if with_classifier else "backbone.") + name
        if with_classifier and name in head:
            target = f"classifier.{name.rsplit('.', 1)[1]}"
            tensor = tensor.flatten(1) if tensor.ndim > 1 else tensor  # S3D's is a 1 x 1 x 1 convolution
        if target in wanted:
            state[target] = tensor
            report.used[prefix + name] = target
    for name in sorted(wanted.keys() - state.keys()):  # counters, which files of old PyTorch versions lack
        state[name] = torch.zeros_like(wanted[name])
        report.added[name] = "zero"
    model.load_state_dict(state)
    report.account_for(tensors)
    report.difference = compare(network, model.eval())
    return model, report


def _find_prefix(tensors: Mapping[str, Tensor], report: ConversionReport) -> str:
    """Finds the prefix of the only network, and reports copies of it as dropped."""
    prefixes = [
        name.removesuffix(first) for first in _FIRST for name in tensors if name == first or name.endswith(f".{first}")
    ]
    online = [prefix for prefix in prefixes if not any(part in prefix for part in LEFT_OUT)]
    if not online:
        raise ValueError(f"no video network of torchvision found: no tensor's name ends in {' or '.join(_FIRST)}")
    chosen = max(online, key=lambda prefix: prefix.count("."))
    for prefix in online:
        if prefix == chosen:
            continue
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
