"""Continuing from a ViDiDi checkpoint: its network, weights and processor. The heads of its objective start anew."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig

from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.modeling_vididi import ViDiDiModel

_NETWORK = ("backbone", "hidden_sizes", "depths", "stem_kernel_size", "num_channels", "backbone_config", "pooling")


def read_checkpoint_config(encoder: str) -> ViDiDiConfig | None:
    """Reads the configuration of a ViDiDi checkpoint; None for another encoder."""
    config = AutoConfig.from_pretrained(encoder, trust_remote_code=False)
    return config if isinstance(config, ViDiDiConfig) else None


def network_of(config: ViDiDiConfig) -> dict[str, Any]:
    """Returns the fields of a `ViDiDiConfig` that continuing from a checkpoint keeps."""
    return {name: getattr(config, name) for name in (*_NETWORK, "num_frames", "image_size")}


def copy_weights(model: ViDiDiModel, encoder: str) -> None:
    """Copies the weights of a checkpoint. An order without BatchNorm statistics gets those of the next lower one."""
    saved = ViDiDiModel.from_pretrained(encoder, dtype=torch.float32, trust_remote_code=False)
    known, wanted = (
        sorted(one.config.derivative_orders) if one.config.batch_norm == "per_order" else [0] for one in (saved, model)
    )
    rows = [max(sum(one <= order for one in known) - 1, 0) for order in wanted]
    state = saved.state_dict()
    for name, mine in model.state_dict().items():
        if name.endswith((".running_mean", ".running_var")):
            state[name] = state[name].reshape(len(known), -1)[rows].reshape(mine.shape)
    model.load_state_dict(state)
