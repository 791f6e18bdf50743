"""Weights, configuration and processor settings of a transformers encoder, from a folder or the Hub."""

from contextlib import suppress
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    PreTrainedConfig,
)
from transformers.utils import logging
from transformers.video_processing_utils import BaseVideoProcessor

from .encoders_vididi import encoder_sizes, family_of

# Names of parameters in published checkpoints -> their names today. Versions of transformers that lack a name drop the
# weights silently.
_OLD_NAMES = {
    r"attention\.attention\.q_bias": "attention.attention.query.bias",
    r"attention\.attention\.v_bias": "attention.attention.value.bias",
}
logger = logging.get_logger(__name__)


def read_encoder_config(encoder: str, revision: str = "main") -> PreTrainedConfig:
    """Reads the configuration of an encoder, or of the vision part of a model that has a text part, too."""
    config = AutoConfig.from_pretrained(encoder, revision=revision, trust_remote_code=False)
    if config.model_type == "vididi":
        raise ValueError(f"{encoder} is a ViDiDi checkpoint: load it with from_pretrained")
    config = getattr(config, "vision_config", config)
    try:
        family_of(config)
    except ValueError as error:
        raise ValueError(f"{encoder}: {error}") from None
    config.dtype = None  # that of the whole model
    config._name_or_path = ""  # may be a local path
    return config


def config_values(config: PreTrainedConfig) -> dict[str, Any]:
    """Returns the fields of a `ViDiDiConfig` that an encoder determines."""
    frames, size, channels = encoder_sizes(config)
    return {"backbone_config": config, "num_frames": frames, "image_size": size, "num_channels": channels}


def load_weights(backbone: Any, encoder: str, revision: str = "main") -> None:
    """Loads an encoder's weights into a `HubEncoder`. Weights that are missing or have no place are a ValueError."""
    with_head = backbone.norm is not None
    given: Any = {"revision": revision, "trust_remote_code": False, "config": read_encoder_config(encoder, revision)}
    given |= {"dtype": torch.float32, "output_loading_info": True, "key_mapping": _OLD_NAMES}
    loaded, report = (AutoModelForVideoClassification if with_head else AutoModel).from_pretrained(encoder, **given)
    source = getattr(loaded, loaded.base_model_prefix) if with_head else loaded
    wanted, prefix = backbone.encoder.state_dict(), f"{source.base_model_prefix}."
    missing = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    lost = {name.removeprefix(prefix) for name in missing} & {*wanted, "fc_norm.weight", "fc_norm.bias"}
    # Heads lie beside the modules of the encoder, and weights without a place lie inside of them.
    parts = {name.partition(".")[0] for name in wanted}
    lost |= {name for name in report["unexpected_keys"] if name.removeprefix(prefix).partition(".")[0] in parts}
    if lost:
        raise ValueError(f"{encoder}: {len(lost)} weights of the encoder do not load, such as {min(lost)}")
    backbone.encoder.load_state_dict({name: one for name, one in source.state_dict().items() if name in wanted})
    if with_head:
        backbone.norm.load_state_dict(loaded.fc_norm.state_dict())


def processor_settings(encoder: str, revision: str = "main") -> dict[str, Any]:
    """Returns the settings of a `ViDiDiVideoProcessor` that prepares clips as an encoder's own processor does."""
    config = read_encoder_config(encoder, revision)
    frames, side, _ = encoder_sizes(config)
    settings: dict[str, Any] = {"num_frames": frames, "size": {"shortest_edge": round(side * 8 / 7)}}
    settings["crop_size"] = {"height": side, "width": side}
    if timm := getattr(config, "pretrained_cfg", None):
        return settings | {"image_mean": tuple(timm["mean"]), "image_std": tuple(timm["std"])}
    own: Any
    for auto in (AutoVideoProcessor, AutoImageProcessor):
        with suppress(OSError, ValueError):
            own = auto.from_pretrained(encoder, revision=revision, trust_remote_code=False)
            break
    else:
        logger.warning(f"{encoder} has no processor: frames are normalized with the statistics of Kinetics-400")
        return settings
    settings["image_mean"], settings["image_std"] = _normalization(own, 2 * side)
    settings["resample"] = own.resample
    crop = own.crop_size if getattr(own, "do_center_crop", None) else None
    settings["size"] = dict(own.size)
    settings["crop_size"] = dict(crop or (own.size if "height" in own.size else settings["crop_size"]))
    return settings


def _normalization(processor: Any, side: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measures the mean and the standard deviation per channel, whatever a processor calls them and does besides."""
    ends = []
    for gray in (0, 255):
        frames = torch.full((2, 3, side, side), gray, dtype=torch.uint8)
        if isinstance(processor, BaseVideoProcessor):
            pixels = processor([frames], return_tensors="pt", do_sample_frames=False)
        else:
            pixels = processor(list(frames), return_tensors="pt")
        [values] = [one for name, one in pixels.items() if name.startswith("pixel_values")]
        ends.append(values.double().flatten(0, -4)[0].mean(dim=(1, 2)))
    std = 1 / (ends[1] - ends[0])
    return tuple((-ends[0] * std).tolist()), tuple(std.tolist())
