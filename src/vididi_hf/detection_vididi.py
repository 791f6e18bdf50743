"""Action detection: what does each of some persons do? The encoder, RoIAlign of their boxes, and a linear classifier.

A published checkpoint carries this file with it, so it imports nothing of the package but its flat siblings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align
from transformers.utils import ModelOutput, can_return_tuple

from .backbone_vididi import S3D, HalvingPool, InceptionBlock, VideoBackbone
from .classification_vididi import ViDiDiClassifier, classification_loss
from .configuration_vididi import ViDiDiConfig

ROI_SIZE = 7


class DensePool(nn.Module):
    """What [`HalvingPool`] computes, at every place instead of every second one."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Halve the frames (unless there is one) of (batch, channels, frames, height, width)."""
        frames = min(2, hidden.shape[2])
        return F.max_pool3d(hidden, (frames, 2, 2), stride=(frames, 1, 1))


class DilatedPool(nn.Module):
    """Max-pooling of 3 x 3 x 3 with a dilation of 2 in space that keeps the size.

    `nn.MaxPool3d` does not pad as much as that takes.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """Keep the shape (batch, channels, frames, height, width)."""
        padded = F.pad(hidden, (2, 2, 2, 2), value=-math.inf)
        return F.max_pool3d(padded, 3, stride=1, padding=(1, 0, 0), dilation=(1, 2, 2))


def densify_last_stage(backbone: VideoBackbone) -> None:
    """Take the spatial stride out of the last stage, in place, and dilate what follows by 2.

    Weights stay as they are, and so do their meaning: every second row and column of the new features are the old
    features, and those in between are what the old network would compute of a picture moved by half a cell.

    Args:
        backbone: A network of this package.

    Source: the algorithme à trous; "last stage with spatial stride 1 and dilation 2" of the AVA protocol.

    Example:
        >>> import torch
        >>> from vididi_hf.backbone_vididi import VideoResNet
        >>> from vididi_hf.detection_vididi import densify_last_stage
        >>> backbone = VideoResNet("r3d_18", hidden_sizes=(8, 8, 8, 8), depths=(1, 1, 1, 1), num_channels=3)
        >>> densify_last_stage(backbone)
        >>> backbone(torch.rand(1, 3, 8, 64, 64))[0].shape
        torch.Size([1, 8, 1, 8, 8])
    """
    if isinstance(backbone, S3D):
        first = backbone.BOUNDS[-2]
        assert isinstance(backbone.features[first], HalvingPool)
        backbone.features[first] = DensePool()
        for block in backbone.features[first + 1 :]:
            assert isinstance(block, InceptionBlock)
            block.branch3[0] = DilatedPool()
    for module in backbone.stages()[-1].modules():
        if isinstance(module, nn.Conv3d):
            if module.stride[1:] == (2, 2):
                module.stride = (module.stride[0], 1, 1)
            elif module.kernel_size[1:] == (3, 3):
                module.dilation, module.padding = (1, 2, 2), (module.padding[0], 2, 2)  # type: ignore[assignment]


def feature_grid(backbone: VideoBackbone, dense: bool) -> tuple[int, float]:
    """Say where in the picture the features of the last stage lie.

    Args:
        backbone: A network of this package.
        dense: Whether its last stage is dense.

    Returns:
        Stride and offset in pixels: the receptive field of feature j is centerd at `offset + stride · j`, where 0 is
        the edge of the picture. Convolutions and poolings of an odd size are centerd on one pixel, the first of which
        has its center at 0.5; the last pooling of S3D is centerd between two features 16 pixels apart.
    """
    stride, offset = (32, 8.5) if isinstance(backbone, S3D) else (16, 0.5)
    return (stride // 2 if dense else stride), offset


@dataclass
class ViDiDiForActionDetectionOutput(ModelOutput):
    """Output of [`ViDiDiForActionDetection`].

    Args:
        loss: Where there are labels, the mean over boxes.
        logits: (boxes, labels), the boxes of all clips one after the other.
        hidden_states: Outputs of the encoder's stem and stages, or `None`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class ViDiDiForActionDetection(ViDiDiClassifier):
    """Classifies what the persons in given boxes do at the middle of a clip.

    Features of the last stage are averaged over time, taken out of each box by RoIAlign (7 × 7), reduced to their
    maximum over its place, and classified by dropout and a linear layer. `config.problem_type` says what the logits
    are for: `"multi_label_classification"` (AVA: a sigmoid each) or `"single_label_classification"` (JHMDB, UCF101-24:
    a softmax over all). As in [`ViDiDiForVideoClassification`] the model takes frames, and differentiates them itself.

    Args:
        config: Encoder; `num_labels` or `id2label`; `problem_type`, `classifier_orders`, `classifier_dropout`,
            `detection_stride`.

    Raises:
        ValueError: If the network cannot have this `detection_stride`.

    Source: the baseline of AVA (Gu et al., 2018) as Feichtenhofer et al. have it in "SlowFast Networks for Video
    Recognition" (https://arxiv.org/abs/1812.03982). They take features for cells that lie side by side, which puts
    those of a network with padding half a stride off; here boxes are placed by the centers of the receptive fields.

    Example:
        >>> import torch
        >>> from vididi_hf.configuration_vididi import ViDiDiConfig
        >>> from vididi_hf.detection_vididi import ViDiDiForActionDetection
        >>> config = ViDiDiConfig(hidden_sizes=(8, 16, 32, 64), depths=(1, 1, 1, 1), num_labels=5)
        >>> model = ViDiDiForActionDetection(config)
        >>> boxes = [torch.tensor([[0.0, 0.2, 0.5, 0.9], [0.5, 0.1, 1.0, 0.9]]), torch.tensor([[0.2, 0.2, 0.8, 1.0]])]
        >>> output = model(torch.rand(2, 8, 3, 64, 64), boxes, labels=torch.tensor([0, 4, 1]))
        >>> output.logits.shape, output.loss.shape
        (torch.Size([3, 5]), torch.Size([]))
    """

    def __init__(self, config: ViDiDiConfig) -> None:
        super().__init__(config)
        backbone = self.vididi.backbone
        strides = [feature_grid(backbone, dense)[0] for dense in (False, True)]
        if config.detection_stride not in strides:
            raise ValueError(
                f"detection_stride of backbone {config.backbone!r} must be {strides[0]} or {strides[1]}, "
                f"got {config.detection_stride}"
            )
        self.is_dense = config.detection_stride == strides[1]
        if self.is_dense:
            densify_last_stage(backbone)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        boxes: Sequence[Tensor],
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        derivative_orders: Sequence[int] | None = None,
    ) -> ViDiDiForActionDetectionOutput:
        """Classify the persons of clips.

        Args:
            pixel_values: Normalized *frames* (batch, frames, channels, height, width). Of every derivative the first
                `frames − max(derivative_orders)` are used, so that all have one length.
            boxes: For each clip (boxes, 4): x1, y1, x2, y2 as fractions of width and height, 0 at the left and top
                edges of the picture.
            labels: What `classification_loss` takes, for the boxes of all clips one after the other. The kind of
                problem is `config.problem_type`; where it is `None` it follows from the labels, and is remembered.
            output_hidden_states: Whether to return the outputs of the encoder's stem and stages, for the first of the
                orders; by default `config.output_hidden_states`.
            derivative_orders: What to show the encoder instead of `config.classifier_orders`, as many orders.

        Returns:
            A [`ViDiDiForActionDetectionOutput`], or a tuple of its fields that are set if the keyword
            `return_dict=False` was given (or the configuration says so).

        Raises:
            ValueError: If the shape is not that of clips which the network can take, the number of orders differs, or
                boxes and clips do not fit each other.
        """
        outputs = self.encode(pixel_values, derivative_orders, output_hidden_states)
        if len(boxes) != len(pixel_values) or any(one.ndim != 2 or one.shape[1] != 4 for one in boxes):
            shapes = [tuple(one.shape) for one in boxes]
            raise ValueError(f"boxes must be {len(pixel_values)} tensors (boxes, 4), one a clip, got shapes {shapes}")
        height, width = pixel_values.shape[-2:]
        regions = self._on_grid(boxes, height, width)
        features = torch.cat([self._pool(output.last_hidden_state, regions) for output in outputs], dim=-1)
        logits = self.classifier(self.dropout(features))
        loss = None if labels is None else classification_loss(logits, labels, self._problem_type(labels))
        return ViDiDiForActionDetectionOutput(loss=loss, logits=logits, hidden_states=outputs[0].hidden_states)

    def _on_grid(self, boxes: Sequence[Tensor], height: int, width: int) -> list[Tensor]:
        """Boxes in cells of the feature map, whose feature j has its center at j + 0.5."""
        stride, offset = feature_grid(self.vididi.backbone, self.is_dense)
        return [
            (one.float() * one.new_tensor([width, height, width, height]).float() - offset) / stride + 0.5
            for one in boxes
        ]

    @staticmethod
    def _pool(hidden: Tensor | None, regions: list[Tensor]) -> Tensor:
        """The maximum over each region (boxes, hidden_size) of features averaged over time."""
        assert hidden is not None
        maps = hidden.mean(dim=2)
        pooled = roi_align(maps, [one.to(maps.dtype) for one in regions], ROI_SIZE, aligned=True)
        return pooled.amax(dim=(-2, -1))


__all__ = ["ViDiDiForActionDetection", "ViDiDiForActionDetectionOutput"]
