"""Transformers' video and image encoders as backbones: one line of `ENCODERS` says how to call each family."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer


@dataclass(frozen=True)
class Family:
    """How to call the encoders of one `model_type`, and which fields of their configuration say what they take."""

    takes: str = "pixel_values"  # the keyword of the clips
    arguments: dict[str, Any] = field(default_factory=dict)  # further arguments of a call
    frames: str | None = "num_frames"  # None: sees one frame at a time
    image_size: str = "image_size"
    fixed: bool = False  # takes one number of frames and one size only
    class_tokens: int = 0  # in front of the others
    time_last: bool = False  # the tokens of one patch at all times lie side by side, instead of those of one time
    interpolates: bool = False  # has to be told that clips differ from its own size
    unused: tuple[str, ...] = ()  # modules that the features do not need
    changes: dict[str, Any] = field(default_factory=dict)  # fields of the configuration that leave out unused weights


ENCODERS = {
    "videomae": Family(fixed=True),
    "vjepa2": Family(
        takes="pixel_values_videos",
        arguments={"skip_predictor": True},
        frames="frames_per_clip",
        image_size="crop_size",
        unused=("predictor",),
    ),
    "timesformer": Family(fixed=True, class_tokens=1, time_last=True),
    "vivit": Family(fixed=True, class_tokens=1, unused=("pooler",)),
    "videoprism_vision_model": Family(takes="pixel_values_videos", interpolates=True),
    "dinov2": Family(frames=None, class_tokens=1, changes={"use_mask_token": False}),
    "siglip_vision_model": Family(frames=None, interpolates=True, changes={"vision_use_head": False}),
    "timm_wrapper": Family(frames=None, arguments={"do_pooling": False}),
}
# What an image encoder gets unless told otherwise.
_FRAMES = 8


def family_of(config: PreTrainedConfig) -> Family:
    """Returns how to call an encoder; a ValueError names the families that can be called."""
    if config.model_type not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise ValueError(f"no encoder of the type {config.model_type!r} can be a backbone, only {known}")
    return ENCODERS[config.model_type]


def encoder_sizes(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Returns the frames, the height and width, and the channels of the clips that an encoder was made for."""
    family, timm = family_of(config), getattr(config, "pretrained_cfg", None) or {}
    size = getattr(config, family.image_size, timm.get("input_size", (3, 224, 224))[1:])
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(set(sides)) > 1:
        raise ValueError(f"the encoder takes frames of {sides[0]} x {sides[1]} pixels; only squares are supported")
    channels = getattr(config, "num_channels", getattr(config, "in_chans", 3))
    return getattr(config, family.frames) if family.frames else _FRAMES, sides[0], channels


class HubEncoder(nn.Module):
    """An encoder of transformers that takes and returns what our own networks do; for `pooling`, see `ViDiDiConfig`."""

    def __init__(self, config: PreTrainedConfig, pooling: str = "mean") -> None:
        super().__init__()
        self.family, self.pooling = family_of(config), pooling
        for name, value in self.family.changes.items():
            setattr(config, name, value)
        self.encoder: Any = AutoModel.from_config(config)
        for name in self.family.unused:
            setattr(self.encoder, name, None)
        self.config = config
        self.num_frames, self.image_size, _ = encoder_sizes(config)
        self.takes_squares = self.family.fixed  # of one size
        timm: Any = getattr(self.encoder, "timm_model", None)
        if timm is None:
            self.class_tokens = self.family.class_tokens
            patch = getattr(config, "patch_size", None) or config.tubelet_size
            self.stride: int = patch if isinstance(patch, int) else patch[-1]
        else:
            config.hidden_size = timm.num_features
            self.class_tokens = getattr(timm, "num_prefix_tokens", 0)
            self.stride = timm.feature_info[-1]["reduction"]
            self.takes_squares = getattr(getattr(timm, "patch_embed", None), "strict_img_size", False)
        if pooling == "class_token" and not self.class_tokens:
            raise ValueError(f"pooling 'class_token' needs one, which the encoder {config.model_type!r} lacks")
        self.norm: nn.Module | None = None  # behind the mean, in VideoMAE's classifiers; others normalize their tokens
        if pooling == "norm" and config.model_type == "videomae" and self.encoder.layernorm is None:
            self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, clip: Tensor, output_hidden_states: bool = False) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """Encodes (batch, channels, frames, height, width) to features of this shape, hidden states, pooled ones."""
        frames, (height, width) = clip.shape[2], clip.shape[3:]
        own = (self.num_frames, self.image_size, self.image_size)
        if self.takes_squares and (frames if self.family.fixed else own[0], height, width) != own:
            raise ValueError(
                f"the encoder {self.config.model_type!r} takes only clips of {own[0]} frames of {own[1]} x {own[2]} "
                f"pixels, got {frames} frames of {height} x {width}"
            )
        pixels = clip.transpose(1, 2)
        arguments = dict(self.family.arguments)
        if self.family.frames is None:
            pixels, own = pixels.flatten(0, 1), (frames, *own[1:])
        if self.family.interpolates:
            arguments["interpolate_pos_encoding"] = (frames, height, width) != own
        if output_hidden_states:
            arguments["output_hidden_states"] = True
        output = self.encoder(**{self.family.takes: pixels}, **arguments, return_dict=True)
        tokens, grid = output.last_hidden_state, (height // self.stride, width // self.stride)
        if tokens.ndim == 4:  # a convolutional network; some have their channels last
            tokens = tokens if tokens.shape[1] == self.config.hidden_size else tokens.movedim(-1, 1)
            grid = tuple(tokens.shape[2:])
            tokens = tokens.flatten(2).transpose(1, 2)
        patches = tokens[:, self.class_tokens :]
        if self.family.frames is None:
            patches = patches.unflatten(0, (-1, frames)).flatten(1, 2)
        if self.family.time_last:
            features = patches.unflatten(1, (*grid, -1)).permute(0, 4, 3, 1, 2)
        else:
            features = patches.unflatten(1, (-1, *grid)).permute(0, 4, 1, 2, 3)
        if self.pooling == "class_token":
            pooled = tokens[:, 0]
            pooled = pooled.unflatten(0, (-1, frames)).mean(dim=1) if self.family.frames is None else pooled
        else:
            pooled = patches.mean(dim=1)
        pooled = pooled if self.norm is None else self.norm(pooled)
        return features, tuple(getattr(output, "hidden_states", None) or ()), pooled

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer layers, or the stages of a network of timm, from the input to the output."""
        encoder, kind = self.encoder, GradientCheckpointingLayer
        layers: list[nn.Module] = [module for module in encoder.modules() if isinstance(module, kind)]
        if not layers:
            parts = [child for child in encoder.timm_model.children() if isinstance(child, nn.Sequential)]
            layers = [*(parts[0] if len(parts) == 1 else parts)]
        return layers

    def depths(self) -> list[list[nn.Parameter]]:
        """Parameters from the input to the output: those of the embeddings, and of each layer. Norms go to the last."""
        layers = self.layers
        place = {id(parameter): number for number, one in enumerate(layers, 1) for parameter in one.parameters()}
        groups: list[list[nn.Parameter]] = [[] for _ in range(len(layers) + 1)]
        for name, parameter in self.named_parameters():
            groups[place.get(id(parameter), -1 if "norm" in name else 0)].append(parameter)
        return groups

    def linear_layers(self, first: int = 0) -> Iterator[str]:
        """Names the linear layers of `encoder` in its layers, from the given one on. LoRA adapts them."""
        inside = {id(one) for one in chain.from_iterable(layer.modules() for layer in self.layers[first:])}
        for name, module in self.encoder.named_modules():
            if isinstance(module, nn.Linear) and id(module) in inside:
                yield name
