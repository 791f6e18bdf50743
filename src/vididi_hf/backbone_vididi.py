"""R3D, R(2+1)D, MC3 and S3D with the parameters of `torchvision.models.video`.

Tensors are (batch, channels, frames, height, width).
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.video.s3d import SepInceptionBlock3D, TemporalSeparableConv
from torchvision.ops.misc import Conv3dNormActivation
from transformers.modeling_layers import GradientCheckpointingLayer

from .batch_norm_vididi import frozen_statistics, keep_statistics_per_order
from .configuration_vididi import ViDiDiConfig
from .encoders_vididi import HubEncoder

# How the stages of each R network convolve: over space and time at once ("full"), over space and then over time
# ("factorized"), or over space alone ("spatial").
STAGE_CONVOLUTIONS = {
    "r3d_18": ("full", "full", "full", "full"),
    "r2plus1d_18": ("factorized", "factorized", "factorized", "factorized"),
    "mc3_18": ("full", "spatial", "spatial", "spatial"),
}
Size = tuple[int, int, int]
_s3d_norm = partial(nn.BatchNorm3d, eps=1e-3, momentum=1e-3)


class CheckpointedBlock(GradientCheckpointingLayer):
    """A block that counts each batch once in its running statistics, although checkpointing computes it twice."""

    @property
    def _gradient_checkpointing_func(self) -> Callable[..., Any]:
        if torch.compiler.is_compiling():  # traced: statistics leave the block as outputs, so they move once anyway
            return self._checkpoint
        # The contexts of the first forward pass and of its recomputation.
        return partial(self._checkpoint, context_fn=lambda: (nullcontext(), frozen_statistics(self)))

    @_gradient_checkpointing_func.setter
    def _gradient_checkpointing_func(self, function: Callable[..., Any]) -> None:
        if getattr(function, "keywords", {}).get("use_reentrant"):
            raise ValueError("use_reentrant=True would update BatchNorm statistics twice: pass use_reentrant=False")
        self._checkpoint = function


class VideoBackbone(nn.Module):
    """A video network of five stages: a stem and four more."""

    takes_squares = False

    def stages(self) -> list[nn.Module]:
        return list(self.children())

    def depths(self) -> list[list[nn.Parameter]]:
        """Parameters from the input to the output: those of each stage."""
        return [list(stage.parameters()) for stage in self.stages()]

    def forward(self, clip: Tensor, output_hidden_states: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Returns the features, and on request the outputs of all stages, which stay in memory then."""
        hidden_states: tuple[Tensor, ...] = ()
        for stage in self.stages():
            clip = stage(clip)
            if output_hidden_states:
                hidden_states += (clip,)
        return clip, hidden_states


def _conv(in_channels: int, out_channels: int, kernel_size: Size, stride: Size = (1, 1, 1)) -> nn.Conv3d:
    """A convolution of which only the stride changes the size."""
    time, height, width = kernel_size
    padding = (time // 2, height // 2, width // 2)
    return nn.Conv3d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False)


def _norm_relu(convolution: nn.Conv3d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm3d(convolution.out_channels), nn.ReLU(inplace=True)]


def _convolution(kind: str, in_channels: int, out_channels: int, mid_channels: int, stride: int) -> nn.Module:
    """A 3 x 3 x 3 convolution of one of the kinds of `STAGE_CONVOLUTIONS`."""
    if kind == "full":
        return _conv(in_channels, out_channels, (3, 3, 3), (stride, stride, stride))
    if kind == "spatial":
        return _conv(in_channels, out_channels, (1, 3, 3), (1, stride, stride))
    space = _norm_relu(_conv(in_channels, mid_channels, (1, 3, 3), (1, stride, stride)))
    return nn.Sequential(*space, _conv(mid_channels, out_channels, (3, 1, 1), (stride, 1, 1)))


class ResidualBlock(CheckpointedBlock):
    """Two 3 x 3 x 3 convolutions and a shortcut; the stride applies to time, too, unless the kind is `"spatial"`."""

    def __init__(self, kind: str, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        # As many parameters in a factorized convolution as in a full one (https://arxiv.org/abs/1711.11248, section
        # 3.5). Like torchvision, the second convolution reuses the width computed for the first.
        mid_channels = (27 * in_channels * out_channels) // (9 * in_channels + 3 * out_channels)
        first = _convolution(kind, in_channels, out_channels, mid_channels, stride)
        self.conv1 = nn.Sequential(first, nn.BatchNorm3d(out_channels), nn.ReLU(inplace=True))
        second = _convolution(kind, out_channels, out_channels, mid_channels, 1)
        self.conv2 = nn.Sequential(second, nn.BatchNorm3d(out_channels))
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            strides = (1 if kind == "spatial" else stride, stride, stride)
            shortcut = _conv(in_channels, out_channels, (1, 1, 1), strides)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(out_channels))

    def forward(self, hidden: Tensor) -> Tensor:
        shortcut = hidden if self.downsample is None else self.downsample(hidden)
        hidden = self.conv2(self.conv1(hidden))
        hidden += shortcut
        return F.relu_(hidden)


def _residual_stem(kind: str, in_channels: int, out_channels: int, size: int) -> nn.Sequential:
    """The 3 x size x size convolution in front of an R network; halves height and width."""
    if kind != "factorized":
        return nn.Sequential(*_norm_relu(_conv(in_channels, out_channels, (3, size, size), (1, 2, 2))))
    # torchvision has 45 channels in between for 64 behind; other widths keep that proportion.
    mid_channels = max(1, 45 * out_channels // 64)
    space = _norm_relu(_conv(in_channels, mid_channels, (1, size, size), (1, 2, 2)))
    return nn.Sequential(*space, *_norm_relu(_conv(mid_channels, out_channels, (3, 1, 1))))


class VideoResNet(VideoBackbone):
    """R3D, R(2+1)D or MC3 (https://arxiv.org/abs/1711.11248)."""

    def __init__(self, config: ViDiDiConfig) -> None:
        super().__init__()
        assert config.hidden_sizes
        assert config.depths
        kinds, widths = STAGE_CONVOLUTIONS[config.backbone], config.hidden_sizes
        self.stem = _residual_stem(kinds[0], config.num_channels, widths[0], config.stem_kernel_size)
        stages = zip(kinds, (widths[0], *widths), widths, config.depths)
        for number, (kind, before, width, depth) in enumerate(stages, start=1):
            stage = nn.Sequential()
            for block in range(depth):
                stage.append(ResidualBlock(kind, width if block else before, width, 1 if block or number == 1 else 2))
            self.add_module(f"layer{number}", stage)


class InceptionBlock(SepInceptionBlock3D, CheckpointedBlock):
    """Four branches, concatenated over channels: direct, two of a reduction and an output, and pooled."""

    branch3: nn.Sequential

    def __init__(self, *channels: int) -> None:
        super().__init__(*channels, _s3d_norm)


class HalvingPool(nn.Module):
    """Unpadded 2 x 2 x 2 max-pooling that leaves time alone where one step of it is left (clips of 2 to 4 frames)."""

    def forward(self, hidden: Tensor) -> Tensor:
        return F.max_pool3d(hidden, (min(2, hidden.shape[2]), 2, 2))


class S3D(VideoBackbone):
    """Separable 3D Inception network (https://arxiv.org/abs/1712.04851), without the gating of its S3D-G variant."""

    # Where the stages begin and end in `features`: each but the first begins with the pooling that shrinks the clip.
    BOUNDS = (0, 1, 4, 7, 13, 16)

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            TemporalSeparableConv(num_channels, 64, 7, 2, 3, _s3d_norm),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            Conv3dNormActivation(64, 64, 1, norm_layer=_s3d_norm),
            TemporalSeparableConv(64, 192, 3, 1, 1, _s3d_norm),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            InceptionBlock(192, 64, 96, 128, 16, 32, 32),
            InceptionBlock(256, 128, 128, 192, 32, 96, 64),
            nn.MaxPool3d(3, stride=2, padding=1),
            InceptionBlock(480, 192, 96, 208, 16, 48, 64),
            InceptionBlock(512, 160, 112, 224, 24, 64, 64),
            InceptionBlock(512, 128, 128, 256, 24, 64, 64),
            InceptionBlock(512, 112, 144, 288, 32, 64, 64),
            InceptionBlock(528, 256, 160, 320, 32, 128, 128),
            HalvingPool(),
            InceptionBlock(832, 256, 160, 320, 32, 128, 128),
            InceptionBlock(832, 384, 192, 384, 48, 128, 128),
        )

    def stages(self) -> list[nn.Module]:
        return [self.features[begin:end] for begin, end in pairwise(self.BOUNDS)]


def build_backbone(config: ViDiDiConfig) -> VideoBackbone | HubEncoder:
    """Builds the network that a configuration describes, with PyTorch's default initialization."""
    backbone: VideoBackbone | HubEncoder
    if config.backbone_config is not None:
        return HubEncoder(config.backbone_config, config.pooling)
    backbone = S3D(config.num_channels) if config.backbone == "s3d" else VideoResNet(config)
    if config.batch_norm == "per_order":
        keep_statistics_per_order(backbone, config.derivative_orders)
    return backbone
