"""Action recognition: the encoder with a linear classifier, for frames, derivatives or both."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import can_return_tuple

from .batch_norm_vididi import keep_frozen_parts
from .choices_vididi import TRAINED_PARTS
from .configuration_vididi import MIN_NUM_FRAMES, ViDiDiConfig
from .derivatives_vididi import derivative_view
from .modeling_vididi import ViDiDiModel, ViDiDiModelOutput, ViDiDiPreTrainedModel, views_by_order


class ViDiDiClassifier(ViDiDiPreTrainedModel):
    """Base of the models with a linear classifier; loads the checkpoint of a pretrained encoder."""

    def __init__(self, config: ViDiDiConfig) -> None:
        super().__init__(config)
        self.vididi = ViDiDiModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size * len(config.classifier_orders), len(config.id2label or {}))
        self.post_init()

    def encode(
        self, views: dict[int, Tensor], derivative_orders: Sequence[int] | None, output_hidden_states: bool | None
    ) -> list[ViDiDiModelOutput]:
        """Encodes each order. Unless all are given, differentiates the frames and cuts all orders to one length."""
        orders = self.config.classifier_orders if derivative_orders is None else tuple(derivative_orders)
        if len(orders) != (count := len(self.config.classifier_orders)):
            raise ValueError(f"the classifier takes {count} derivative orders (config.classifier_orders), got {orders}")
        are_given = set(orders) <= views.keys()
        if not are_given and 0 not in views:
            raise ValueError(f"pixel_values is missing: the derivative orders {orders} need frames, got {list(views)}")
        shape = tuple(views[orders[0] if are_given else 0].shape)
        needed = MIN_NUM_FRAMES + (0 if are_given else max(orders))
        if len(shape) != 5 or shape[1] < needed:
            wanted = f"(batch, at least {needed} frames, channels, height, width) for the derivative orders {orders}"
            raise ValueError(f"pixel_values must be {wanted}, got shape {shape}")
        if not are_given:
            views = {order: derivative_view(views[0], order, shape[1] - max(orders)) for order in orders}
        return [
            self.vididi(views[order], output_hidden_states, derivative_order=order, return_dict=True)
            for order in orders
        ]

    def classify(
        self, features: list[Tensor], labels: Tensor | None, num_clips: int = 1
    ) -> tuple[Tensor | None, Tensor]:
        """The loss of the labels, if there are any, and the logits of the features of all orders."""
        logits = self.classifier(self.dropout(torch.cat(features, dim=-1)))
        if labels is not None and self.config.problem_type is None:
            several: Any = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
            self.config.problem_type = "regression" if self.config.num_labels == 1 else several
        if num_clips > 1:
            logits = average_clips(logits.unflatten(0, (-1, num_clips)), self.config.problem_type)
        if labels is None:
            return None, logits
        if self.config.problem_type == "regression":
            return F.mse_loss(logits, labels.to(logits.dtype).view_as(logits)), logits
        if self.config.problem_type == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype)), logits
        return F.cross_entropy(logits, labels), logits

    def train_only(self, part: str) -> None:
        """Chooses what training changes, one of `TRAINED_PARTS`; the rest keeps weights and BatchNorm statistics."""
        if part not in TRAINED_PARTS:
            raise ValueError(f"the part to train must be one of {', '.join(TRAINED_PARTS)}, got {part!r}")
        self.requires_grad_(part == "all")
        self.classifier.requires_grad_(True)
        if part == "last_stage":
            for parameter in self.vididi.backbone.depths()[-1]:
                parameter.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> "ViDiDiClassifier":
        """Switches all modules but the frozen ones, which keep their BatchNorm statistics, to training mode."""
        super().train(mode)
        keep_frozen_parts(self.vididi)
        return self


def average_clips(logits: Tensor, problem_type: str | None) -> Tensor:
    """The logits (batch, labels) of the mean probabilities of clips (batch, clips, labels); of numbers, their mean."""
    if problem_type == "multi_label_classification":
        return F.logsigmoid(logits).logsumexp(dim=1) - F.logsigmoid(-logits).logsumexp(dim=1)
    if problem_type == "regression" or logits.shape[-1] == 1:
        return logits.mean(dim=1)
    return logits.log_softmax(dim=-1).logsumexp(dim=1) - math.log(logits.shape[1])


class ViDiDiForVideoClassification(ViDiDiClassifier):
    """The encoder, dropout, and a linear classifier of the pooled features.

    The model takes frames and differentiates them itself: with `config.classifier_orders=(0,)` it classifies the
    frames, with `(1,)` their first derivative, with `(0, 1)` both. Thus it works in `pipeline("video-classification")`.
    It averages the probabilities of several clips of a video, as `ClassificationEvaluator` does.

    Args:
        config: Encoder; `num_labels` or `id2label`; `classifier_orders`, `classifier_dropout`.

    Example:
        >>> import torch
        >>> from vididi_hf import ViDiDiConfig, ViDiDiForVideoClassification
        >>> config = ViDiDiConfig(hidden_sizes=(8, 16, 32, 64), depths=(1, 1, 1, 1), num_labels=5)
        >>> model = ViDiDiForVideoClassification(config)
        >>> output = model(torch.rand(2, 8, 3, 40, 40), labels=torch.tensor([0, 4]))
        >>> output.logits.shape, output.loss.shape
        (torch.Size([2, 5]), torch.Size([]))
    """

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        derivative_orders: Sequence[int] | None = None,
        **derivatives: Tensor,
    ) -> ImageClassifierOutput:
        """Classifies videos by a clip, or by the mean probabilities of several clips.

        Args:
            pixel_values: Normalized *frames* (batch, frames, channels, height, width) or (batch, clips, frames,
                channels, height, width). The model uses the first `frames − max(derivative_orders)` frames of every
                derivative.
            labels: Classes (batch,) for cross-entropy, zeros and ones (batch, labels) for binary cross-entropy, or
                numbers for regression. If `config.problem_type` is `None`, the labels decide, for later calls, too.
            output_hidden_states: Return the outputs of the encoder's stem and stages, for the first order.
            derivative_orders: As many orders to use instead of `config.classifier_orders`.
            **derivatives: `pixel_values_order_1`, `pixel_values_order_2`, …, as the processor returns them. If all
                orders are given, the model does not differentiate.

        Returns:
            An `ImageClassifierOutput` with `logits` (batch, labels) and, if there are labels, `loss`, or a tuple with
            `return_dict=False`. The `logits` of several clips are those of their mean probabilities.

        Raises:
            TypeError: For an unknown keyword.
            ValueError: If the network cannot take clips of this shape, or the number of orders differs.
        """
        views = views_by_order(pixel_values, 0, derivatives)
        num_clips = next((view.shape[1] for view in views.values() if view.ndim == 6), 1)
        views = {order: view.flatten(0, 1) if view.ndim == 6 else view for order, view in views.items()}
        outputs = self.encode(views, derivative_orders, output_hidden_states)
        loss, logits = self.classify([output["pooler_output"] for output in outputs], labels, num_clips)
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=outputs[0].hidden_states)
