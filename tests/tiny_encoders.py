"""Transformers' encoders with random weights, as small as can be, and the processors of their families."""

from pathlib import Path
from typing import Any

import timm
import torch
from transformers import (
    AutoModel,
    BitImageProcessor,
    Dinov2Config,
    PreTrainedConfig,
    SiglipImageProcessor,
    SiglipVisionConfig,
    TimesformerConfig,
    TimmWrapperConfig,
    VideoMAEConfig,
    VideoMAEImageProcessor,
    VideoPrismVisionConfig,
    VivitConfig,
    VivitImageProcessor,
    VJEPA2Config,
    VJEPA2VideoProcessor,
)

FRAMES, SIZE, PATCH, WIDTH = 4, 32, 16, 32
_FEW: dict[str, Any] = {"hidden_size": WIDTH, "num_attention_heads": 2}
_SIZES: dict[str, Any] = {**_FEW, "num_hidden_layers": 2, "image_size": SIZE}
_PATCHES: dict[str, Any] = {**_SIZES, "intermediate_size": 32, "patch_size": PATCH}
_PREDICTOR: dict[str, Any] = {"pred_hidden_size": 32, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
_CROP: dict[str, Any] = {"size": {"shortest_edge": 36}, "crop_size": {"height": SIZE, "width": SIZE}}
_TIMM: dict[str, Any] = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "input_size": (3, SIZE, SIZE)}
_VIT: dict[str, Any] = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 2, "num_heads": 2}

CONFIGS: dict[str, PreTrainedConfig] = {
    "videomae": VideoMAEConfig(**_PATCHES, num_frames=FRAMES),
    "vjepa2": VJEPA2Config(
        **_FEW, **_PREDICTOR, num_hidden_layers=2, mlp_ratio=1, crop_size=SIZE, frames_per_clip=FRAMES
    ),
    "timesformer": TimesformerConfig(**_PATCHES, num_frames=FRAMES),
    "vivit": VivitConfig(**_SIZES, intermediate_size=32, num_frames=FRAMES, tubelet_size=(2, PATCH, PATCH)),
    "videoprism": VideoPrismVisionConfig(
        **{**_SIZES, "num_hidden_layers": None},
        **{"intermediate_size": 32, "num_frames": FRAMES, "tubelet_size": (1, PATCH, PATCH)},
        **{"num_spatial_layers": 1, "num_temporal_layers": 1, "num_auxiliary_layers": 1},
    ),
    "dinov2": Dinov2Config(**_SIZES, mlp_ratio=1, patch_size=PATCH),
    "siglip": SiglipVisionConfig(**_PATCHES),
    "timm_vit": TimmWrapperConfig(architecture="vit_tiny_patch16_224", model_args=_VIT, pretrained_cfg=_TIMM),
    "timm_cnn": TimmWrapperConfig(
        architecture="resnet18", model_args={"layers": (1, 1, 1, 1), "channels": (4, 4, 8, 8)}, pretrained_cfg=_TIMM
    ),
}
PROCESSORS: dict[str, Any] = {
    "videomae": VideoMAEImageProcessor(**_CROP),
    "vjepa2": VJEPA2VideoProcessor(**_CROP),
    "timesformer": VideoMAEImageProcessor(**_CROP, image_mean=[0.45] * 3, image_std=[0.225] * 3),
    "vivit": VivitImageProcessor(**_CROP),
    "dinov2": BitImageProcessor(**_CROP),
    "siglip": SiglipImageProcessor(size={"height": SIZE, "width": SIZE}),
}


def save_encoder(folder: Path, name: str) -> Path:
    """Writes an encoder with random weights, and its processor if the family has one."""
    assert timm.__version__
    torch.manual_seed(0)
    AutoModel.from_config(CONFIGS[name]).save_pretrained(folder)
    if name in PROCESSORS:
        PROCESSORS[name].save_pretrained(folder)
    return folder
