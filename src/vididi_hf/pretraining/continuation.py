"""Continuing from a ViDiDi checkpoint: its network and weights. The heads of its objective start anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vididi_hf.batch_norm_vididi import row_of
from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.evaluation.loading import check_location
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.reading import check_model_folder, reading

_NETWORK = ("backbone", "hidden_sizes", "depths", "stem_kernel_size", "num_channels", "backbone_config", "pooling")


def read_checkpoint_config(encoder: str) -> ViDiDiConfig | None:
    """Reads the configuration of a ViDiDi checkpoint; None for an encoder of transformers."""
    location = check_location(encoder)
    if Path(location).is_dir():
        check_model_folder(location)
    with reading(location):
        values, _ = ViDiDiConfig.get_config_dict(location)
        return ViDiDiConfig.from_dict(values) if values.get("model_type") == ViDiDiConfig.model_type else None


def network_of(config: ViDiDiConfig) -> dict[str, Any]:
    """Returns the fields of a `ViDiDiConfig` that continuing from a checkpoint keeps."""
    return {name: getattr(config, name) for name in (*_NETWORK, "num_frames", "image_size")}


def copy_weights(model: ViDiDiModel, encoder: str) -> None:
    """Copies the weights of a checkpoint. An order without BatchNorm statistics gets those of the next lower one."""
    location = check_location(encoder)
    with reading(location):
        loaded: Any = ViDiDiModel.from_pretrained(location, dtype=torch.float32, output_loading_info=True)
    saved, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{encoder} lacks {len(missing)} weights of the encoder, such as {missing[0]}")
    known, wanted = (
        sorted(one.config.derivative_orders) if one.config.batch_norm == "per_order" else [0] for one in (saved, model)
    )
    rows = [row_of(known, order) for order in wanted]
    state = saved.state_dict()
    for name, mine in model.state_dict().items():
        # The BatchNorms of wrapped encoders have one set of statistics.
        if name.endswith((".running_mean", ".running_var")) and max(mine.ndim, state[name].ndim) > 1:
            state[name] = state[name].reshape(len(known), -1)[rows].reshape(mine.shape)
    model.load_state_dict(state)
