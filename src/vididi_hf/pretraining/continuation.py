"""Continuing from a ViDiDi checkpoint: its network and weights. The heads of its objective start anew."""

from typing import Any

from vididi_hf.batch_norm_vididi import row_of
from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.loading import is_ours, read_model_config
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.reading import reading

_NETWORK = ("backbone", "hidden_sizes", "depths", "stem_kernel_size", "num_channels", "backbone_config", "pooling")


def read_checkpoint_config(encoder: str) -> ViDiDiConfig | None:
    """Reads the configuration of a ViDiDi checkpoint; None for an encoder of transformers."""
    location, values = read_model_config(encoder)
    with reading(location):
        return ViDiDiConfig.from_dict(values) if is_ours(values) else None


def network_of(config: ViDiDiConfig) -> dict[str, Any]:
    """Returns the fields of a `ViDiDiConfig` that continuing from a checkpoint keeps."""
    return {name: getattr(config, name) for name in (*_NETWORK, "num_frames", "image_size")}


def copy_weights(saved: ViDiDiModel, model: ViDiDiModel) -> None:
    """Copies the weights between equal networks. An order without statistics gets those of the next lower one."""
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
