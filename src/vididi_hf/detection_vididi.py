"""Action detection: the encoder, RoIAlign of the person boxes, and a linear classifier."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import can_return_tuple

from .backbone_vididi import S3D, InceptionBlock, VideoBackbone
from .classification_vididi import ViDiDiClassifier
from .configuration_vididi import ViDiDiConfig
from .encoders_vididi import HubEncoder
from .modeling_vididi import views_by_order

ROI_SIZE = 7


class DensePool(nn.Module):
    """[`HalvingPool`] at every place instead of every second one."""

    def forward(self, hidden: Tensor) -> Tensor:
        frames = min(2, hidden.shape[2])
        return F.max_pool3d(hidden, (frames, 2, 2), stride=(frames, 1, 1))


class DilatedPool(nn.Module):
    """3 x 3 x 3 max-pooling with a dilation of 2 in space that keeps the size."""

    def forward(self, hidden: Tensor) -> Tensor:
        padded = F.pad(hidden, (2, 2, 2, 2), value=-math.inf)  # more than max_pool3d may pad
        return F.max_pool3d(padded, 3, stride=1, padding=(1, 0, 0), dilation=(1, 2, 2))


def densify_last_stage(backbone: VideoBackbone) -> None:
    """Takes the spatial stride out of the last stage: every second row and column are the old features (à trous)."""
    if isinstance(backbone, S3D):
        first = backbone.BOUNDS[-2]
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


def feature_grid(backbone: VideoBackbone | HubEncoder, dense: bool) -> tuple[int, float]:
    """Stride and offset in pixels: the receptive field of feature j has its center at `offset + stride · j`."""
    if isinstance(backbone, HubEncoder):  # patches
        return backbone.stride, backbone.stride / 2
    # Kernels of an odd size lie around one pixel, and the first pixel has its center at 0.5. The last pooling of S3D
    # lies between two features 16 pixels apart.
    stride, offset = (32, 8.5) if isinstance(backbone, S3D) else (16, 0.5)
    return (stride // 2 if dense else stride), offset


class ViDiDiForActionDetection(ViDiDiClassifier):
    """Classifies the action of each person box at the middle of a clip.

    The model averages the features of the last stage over time, pools each box with RoIAlign (7 × 7) and a maximum
    over its bins, and applies dropout and a linear layer. `config.problem_type` is `"multi_label_classification"` (AVA)
    or `"single_label_classification"` (JHMDB, UCF101-24). The model takes frames and differentiates them itself.

    Args:
        config: Encoder; `num_labels` or `id2label`; `problem_type`, `classifier_orders`, `classifier_dropout`,
            `detection_stride`.

    Raises:
        ValueError: If the network cannot have this `detection_stride`.

    Source: the head of SlowFast (https://arxiv.org/abs/1812.03982). It treats features as adjacent cells, which shifts
    those of a padded network by half a stride. Here the centers of the receptive fields place the boxes.

    Example:
        >>> import torch
        >>> from vididi_hf import ViDiDiConfig, ViDiDiForActionDetection
        >>> config = ViDiDiConfig(hidden_sizes=(8, 16, 32, 64), depths=(1, 1, 1, 1), num_labels=5)
        >>> model = ViDiDiForActionDetection(config)
        >>> boxes = torch.tensor([[0.0, 0.2, 0.5, 0.9], [0.5, 0.1, 1.0, 0.9], [0.2, 0.2, 0.8, 1.0]])
        >>> output = model(torch.rand(2, 8, 3, 64, 64), boxes.split([2, 1]), labels=torch.tensor([0, 4, 1]))
        >>> output.logits.shape, output.loss.shape
        (torch.Size([3, 5]), torch.Size([]))
    """

    def __init__(self, config: ViDiDiConfig) -> None:
        super().__init__(config)
        stride, backbone = config.detection_stride, self.vididi.backbone
        self.is_dense = False
        if isinstance(backbone, HubEncoder):  # has the stride of its patches
            return
        coarse, fine = (feature_grid(backbone, dense)[0] for dense in (False, True))
        if stride not in (coarse, fine):
            raise ValueError(
                f"detection_stride of backbone {config.backbone!r} must be {coarse} or {fine}, got {stride}"
            )
        self.is_dense = stride == fine
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
        **derivatives: Tensor,
    ) -> ImageClassifierOutput:
        """Classifies the persons of clips.

        Args:
            pixel_values: Normalized *frames* (batch, frames, channels, height, width). The model uses the first
                `frames − max(derivative_orders)` frames of every derivative.
            boxes: For each clip (boxes, 4): x1, y1, x2, y2 as fractions of width and height, from the left and top
                edges of the picture.
            labels: For the boxes of all clips in order: classes (boxes,), or zeros and ones (boxes, labels). If
                `config.problem_type` is `None`, the labels decide, for later calls, too.
            output_hidden_states: Return the outputs of the encoder's stem and stages, for the first order.
            derivative_orders: As many orders to use instead of `config.classifier_orders`.
            **derivatives: `pixel_values_order_1`, `pixel_values_order_2`, …, as the processor returns them. If all
                orders are given, the model does not differentiate.

        Returns:
            An `ImageClassifierOutput` with `logits` (boxes, labels), for the boxes of all clips in order, and, if there
            are labels, `loss`, the mean over boxes; or a tuple with `return_dict=False`.

        Raises:
            ValueError: If the network cannot take clips of this shape, the number of orders differs, or boxes and
                clips do not match.
        """
        views = views_by_order(pixel_values, 0, derivatives)
        outputs = self.encode(views, derivative_orders, output_hidden_states)
        if len(boxes) != len(pixel_values) or any(one.ndim != 2 or one.shape[1] != 4 for one in boxes):
            shapes = [tuple(one.shape) for one in boxes]
            raise ValueError(f"boxes must be {len(pixel_values)} tensors (boxes, 4), one per clip, got shapes {shapes}")
        height, width = pixel_values.shape[-2:]
        size = torch.tensor([width, height, width, height], dtype=torch.float32, device=pixel_values.device)
        stride, offset = feature_grid(self.vididi.backbone, self.is_dense)
        cells = [(one.float() * size - offset) / stride + 0.5 for one in boxes]  # feature j has its center at j + 0.5
        features = []
        for output in outputs:
            maps = output["last_hidden_state"].mean(dim=2)
            regions = [one.to(maps.dtype) for one in cells]
            features.append(roi_align(maps, regions, ROI_SIZE, aligned=True).amax(dim=(-2, -1)))
        loss, logits = self.classify(features, labels)
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=outputs[0].hidden_states)
