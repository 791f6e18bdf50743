"""Video networks of the ViDiDi encoder: R3D, R(2+1)D and MC3 of any width and depth, and S3D.

Parameters have the names and shapes of `torchvision.models.video`. Tensors are (batch, channels, frames, height, width)
throughout this file.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .batch_norm_vididi import frozen_statistics, keep_statistics_per_order
from .configuration_vididi import ViDiDiConfig

# How the four stages of each R network convolve: over space and time at once ("full"), over space and then over time
# ("factorized"), or over space alone ("spatial").
STAGE_CONVOLUTIONS = {
    "r3d_18": ("full", "full", "full", "full"),
    "r2plus1d_18": ("factorized", "factorized", "factorized", "factorized"),
    "mc3_18": ("full", "spatial", "spatial", "spatial"),
}

# Channels of S3D's Inception blocks: input, 1x1x1 branch, (reduction, output) of the two 3x3x3 branches, pooled branch.
S3D_BLOCKS = {
    "3b": (192, 64, (96, 128), (16, 32), 32),
    "3c": (256, 128, (128, 192), (32, 96), 64),
    "4b": (480, 192, (96, 208), (16, 48), 64),
    "4c": (512, 160, (112, 224), (24, 64), 64),
    "4d": (512, 128, (128, 256), (24, 64), 64),
    "4e": (512, 112, (144, 288), (32, 64), 64),
    "4f": (528, 256, (160, 320), (32, 128), 128),
    "5b": (832, 256, (160, 320), (32, 128), 128),
    "5c": (832, 384, (192, 384), (48, 128), 128),
}


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
            raise ValueError(
                "use_reentrant=True would update the BatchNorm statistics twice per step: pass use_reentrant=False"
            )
        self._checkpoint = function


class VideoBackbone(nn.Module):
    """A video network of five stages: a stem and four more."""

    def stages(self) -> list[nn.Module]:
        """The stages in the order in which a clip passes them."""
        raise NotImplementedError

    def forward(self, clip: Tensor, output_hidden_states: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Returns the features, and on request the outputs of all five stages, which stay in memory then."""
        hidden_states: tuple[Tensor, ...] = ()
        for stage in self.stages():
            clip = stage(clip)
            if output_hidden_states:
                hidden_states += (clip,)
        return clip, hidden_states


def _convolution(kind: str, in_channels: int, out_channels: int, mid_channels: int, stride: int) -> nn.Module:
    """A 3 x 3 x 3 convolution of one of the kinds of `STAGE_CONVOLUTIONS`."""
    if kind == "full":
        return nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    spatial_stride = (1, stride, stride)
    if kind == "spatial":
        return nn.Conv3d(in_channels, out_channels, (1, 3, 3), stride=spatial_stride, padding=(0, 1, 1), bias=False)
    return nn.Sequential(
        nn.Conv3d(in_channels, mid_channels, (1, 3, 3), stride=spatial_stride, padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(mid_channels),
        nn.ReLU(inplace=True),
        nn.Conv3d(mid_channels, out_channels, (3, 1, 1), stride=(stride, 1, 1), padding=(1, 0, 0), bias=False),
    )


class ResidualBlock(CheckpointedBlock):
    """Two 3 x 3 x 3 convolutions and a shortcut, which is a 1 x 1 x 1 convolution where the shape changes.

    The stride applies to space, and to time too unless the kind is `"spatial"`.
    """

    def __init__(self, kind: str, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        # As many parameters in a factorized convolution as in a full one (https://arxiv.org/abs/1711.11248, section
        # 3.5). Like torchvision, the second convolution reuses the width computed for the first.
        mid_channels = (27 * in_channels * out_channels) // (9 * in_channels + 3 * out_channels)
        self.conv1 = nn.Sequential(
            _convolution(kind, in_channels, out_channels, mid_channels, stride),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
        )
        self.conv2 = nn.Sequential(
            _convolution(kind, out_channels, out_channels, mid_channels, 1), nn.BatchNorm3d(out_channels)
        )
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            strides = (1 if kind == "spatial" else stride, stride, stride)
            self.downsample = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride=strides, bias=False), nn.BatchNorm3d(out_channels)
            )

    def forward(self, hidden: Tensor) -> Tensor:
        shortcut = hidden if self.downsample is None else self.downsample(hidden)
        hidden = self.conv2(self.conv1(hidden))
        hidden += shortcut
        return F.relu_(hidden)


def _residual_stem(kind: str, in_channels: int, out_channels: int) -> nn.Sequential:
    """The 3 x 7 x 7 convolution in front of an R network; halves height and width."""
    if kind != "factorized":
        return nn.Sequential(
            nn.Conv3d(in_channels, out_channels, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
        )
    # torchvision has 45 channels in between for 64 behind; other widths keep that proportion.
    mid_channels = max(1, 45 * out_channels // 64)
    return nn.Sequential(
        nn.Conv3d(in_channels, mid_channels, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
        nn.BatchNorm3d(mid_channels),
        nn.ReLU(inplace=True),
        nn.Conv3d(mid_channels, out_channels, (3, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(out_channels),
        nn.ReLU(inplace=True),
    )


def _residual_stage(kind: str, in_channels: int, out_channels: int, depth: int, stride: int) -> nn.Sequential:
    """Residual blocks, the first of which changes the shape."""
    first = ResidualBlock(kind, in_channels, out_channels, stride)
    return nn.Sequential(first, *(ResidualBlock(kind, out_channels, out_channels, 1) for _ in range(depth - 1)))


class VideoResNet(VideoBackbone):
    """R3D, R(2+1)D or MC3 (https://arxiv.org/abs/1711.11248).

    Example:
        >>> backbone = VideoResNet("r2plus1d_18", hidden_sizes=(8, 16, 32, 64), depths=(1, 1, 1, 1), num_channels=3)
        >>> features, hidden_states = backbone(torch.rand(2, 3, 8, 40, 40), output_hidden_states=True)
        >>> features.shape, len(hidden_states)
        (torch.Size([2, 64, 1, 3, 3]), 5)
    """

    def __init__(self, name: str, hidden_sizes: tuple[int, ...], depths: tuple[int, ...], num_channels: int) -> None:
        super().__init__()
        kinds, widths = STAGE_CONVOLUTIONS[name], hidden_sizes
        self.stem = _residual_stem(kinds[0], num_channels, widths[0])
        self.layer1 = _residual_stage(kinds[0], widths[0], widths[0], depths[0], stride=1)
        self.layer2 = _residual_stage(kinds[1], widths[0], widths[1], depths[1], stride=2)
        self.layer3 = _residual_stage(kinds[2], widths[1], widths[2], depths[2], stride=2)
        self.layer4 = _residual_stage(kinds[3], widths[2], widths[3], depths[3], stride=2)

    def stages(self) -> list[nn.Module]:
        return [self.stem, self.layer1, self.layer2, self.layer3, self.layer4]


class ConvNorm(nn.Sequential):
    """Convolution, BatchNorm as S3D sets it, and ReLU; padded so that only the stride changes the size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int, int] = (1, 1, 1),
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        time, height, width = kernel_size
        padding = (time // 2, height // 2, width // 2)
        super().__init__(
            nn.Conv3d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False),
            nn.BatchNorm3d(out_channels, eps=1e-3, momentum=1e-3),
            nn.ReLU(inplace=True),
        )


class SeparableConv(nn.Sequential):
    """A convolution over space followed by one over time."""

    def __init__(self, in_channels: int, out_channels: int, size: int = 3, stride: int = 1) -> None:
        super().__init__(
            ConvNorm(in_channels, out_channels, (1, size, size), (1, stride, stride)),
            ConvNorm(out_channels, out_channels, (size, 1, 1), (stride, 1, 1)),
        )


class InceptionBlock(CheckpointedBlock):
    """Four parallel branches, concatenated over channels; the arguments are those of a row of `S3D_BLOCKS`."""

    def __init__(
        self, in_channels: int, direct: int, first: tuple[int, int], second: tuple[int, int], pooled: int
    ) -> None:
        super().__init__()
        self.branch0 = ConvNorm(in_channels, direct)
        self.branch1 = nn.Sequential(ConvNorm(in_channels, first[0]), SeparableConv(*first))
        self.branch2 = nn.Sequential(ConvNorm(in_channels, second[0]), SeparableConv(*second))
        self.branch3 = nn.Sequential(nn.MaxPool3d(3, stride=1, padding=1), ConvNorm(in_channels, pooled))

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat((self.branch0(hidden), self.branch1(hidden), self.branch2(hidden), self.branch3(hidden)), 1)


class HalvingPool(nn.Module):
    """Unpadded 2 x 2 x 2 max-pooling that leaves time alone where one step of it is left (clips of 2 to 4 frames)."""

    def forward(self, hidden: Tensor) -> Tensor:
        return F.max_pool3d(hidden, (min(2, hidden.shape[2]), 2, 2))


class S3D(VideoBackbone):
    """Separable 3D Inception network (https://arxiv.org/abs/1712.04851), without the gating of its S3D-G variant.

    Example:
        >>> S3D(num_channels=3)(torch.rand(2, 3, 8, 64, 64))[0].shape
        torch.Size([2, 1024, 1, 2, 2])
    """

    # Where the stages begin and end in `features`: each but the first begins with the pooling that shrinks the clip.
    BOUNDS = (0, 1, 4, 7, 13, 16)

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        blocks = {name: InceptionBlock(*channels) for name, channels in S3D_BLOCKS.items()}
        self.features = nn.Sequential(
            SeparableConv(num_channels, 64, size=7, stride=2),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            ConvNorm(64, 64),
            SeparableConv(64, 192),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            blocks["3b"],
            blocks["3c"],
            nn.MaxPool3d(3, stride=2, padding=1),
            *(blocks[name] for name in ("4b", "4c", "4d", "4e", "4f")),
            HalvingPool(),
            blocks["5b"],
            blocks["5c"],
        )

    def stages(self) -> list[nn.Module]:
        return [self.features[begin:end] for begin, end in pairwise(self.BOUNDS)]


def build_backbone(config: ViDiDiConfig) -> VideoBackbone:
    """Builds the network that a configuration describes, with PyTorch's default initialization."""
    backbone: VideoBackbone
    if config.hidden_sizes is None or config.depths is None:
        backbone = S3D(config.num_channels)
    else:
        widths, depths = tuple(config.hidden_sizes), tuple(config.depths)
        backbone = VideoResNet(config.backbone, widths, depths, config.num_channels)
    if config.batch_norm == "per_order":
        keep_statistics_per_order(backbone, config.derivative_orders)
    return backbone
