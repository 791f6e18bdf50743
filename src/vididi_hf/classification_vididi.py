"""Action recognition: the encoder with a linear classifier, for frames, derivatives or both."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import can_return_tuple

from .choices_vididi import TRAINED_PARTS
from .configuration_vididi import MIN_NUM_FRAMES, ViDiDiConfig
from .derivatives_vididi import FRAMES_DIM, derivative_view
from .modeling_vididi import ViDiDiModel, ViDiDiModelOutput, ViDiDiPreTrainedModel


def classification_loss(logits: Tensor, labels: Tensor, problem_type: str) -> Tensor:
    """Mean squared error, binary cross-entropy or cross-entropy of logits (batch, labels), by `config.problem_type`."""
    if problem_type == "regression":
        return F.mse_loss(logits, labels.to(logits.dtype).view_as(logits))
    if problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return F.cross_entropy(logits, labels)


class ViDiDiClassifier(ViDiDiPreTrainedModel):
    """Base of the models with a linear classifier; loads the checkpoint of a pretrained encoder.

    A module whose parameters need no gradient keeps its BatchNorm statistics as well: it stays in evaluation mode when
    a trainer calls `train()`.
    """

    def __init__(self, config: ViDiDiConfig) -> None:
        super().__init__(config)
        self.vididi = ViDiDiModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        num_features, num_labels = config.hidden_size * len(config.classifier_orders), len(config.id2label or {})
        self.classifier = nn.Linear(num_features, num_labels)
        self.post_init()

    def encode(
        self,
        pixel_values: Tensor,
        derivative_orders: Sequence[int] | None = None,
        output_hidden_states: bool | None = None,
    ) -> list[ViDiDiModelOutput]:
        """Differentiates frames, cuts all derivatives to the same length, and encodes each of them."""
        orders = self.config.classifier_orders if derivative_orders is None else tuple(derivative_orders)
        if len(orders) != len(self.config.classifier_orders):
            raise ValueError(
                f"the classifier takes {len(self.config.classifier_orders)} derivative orders "
                f"(config.classifier_orders is {self.config.classifier_orders}), got {orders}"
            )
        if pixel_values.ndim != 5:
            raise ValueError(
                f"pixel_values must be (batch, frames, channels, height, width), got shape {tuple(pixel_values.shape)}"
            )
        num_frames = pixel_values.shape[FRAMES_DIM] - max(orders)
        if num_frames < MIN_NUM_FRAMES:
            raise ValueError(
                f"pixel_values must have at least {MIN_NUM_FRAMES + max(orders)} frames for the derivative orders "
                f"{orders}, got shape {tuple(pixel_values.shape)}"
            )
        return [
            self.vididi(
                derivative_view(pixel_values, order, num_frames),
                output_hidden_states=output_hidden_states,
                derivative_order=order,
                return_dict=True,
            )
            for order in orders
        ]

    def train_only(self, part: str) -> None:
        """Chooses what training changes; the rest keeps its weights and its BatchNorm statistics.

        Args:
            part: `"all"`, `"last_stage"` (of the encoder, and the classifier) or `"head"` (the classifier only).

        Raises:
            ValueError: If the part is none of these.
        """
        if part not in TRAINED_PARTS:
            raise ValueError(f"the part to train must be one of {', '.join(TRAINED_PARTS)}, got {part!r}")
        self.requires_grad_(part == "all")
        self.classifier.requires_grad_(True)
        if part == "last_stage":
            self.vididi.backbone.stages()[-1].requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> "ViDiDiClassifier":
        """Switches all modules but the frozen ones to training mode, or all to evaluation mode."""
        super().train(mode)
        for module in self.vididi.modules():
            own = list(module.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                module.training = False
        return self

    def _problem_type(self, labels: Tensor) -> str:
        if self.config.problem_type is None:
            kind = "multi" if labels.is_floating_point() else "single"
            self.config.problem_type = "regression" if self.config.num_labels == 1 else f"{kind}_label_classification"
        return self.config.problem_type


class ViDiDiForVideoClassification(ViDiDiClassifier):
    """The encoder, dropout, and a linear classifier of the pooled features.

    The model takes frames and differentiates them itself, as `config.classifier_orders` says: `(0,)` classifies the
    frames, `(1,)` their first derivative, `(0, 1)` both, with concatenated features. Therefore it works wherever a
    model of frames works, such as in `pipeline("video-classification")`.

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
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        derivative_orders: Sequence[int] | None = None,
    ) -> ImageClassifierOutput:
        """Classifies clips.

        Args:
            pixel_values: Normalized *frames* (batch, frames, channels, height, width). The model uses the first
                `frames − max(derivative_orders)` frames of every derivative.
            labels: Classes (batch,) for cross-entropy, zeros and ones (batch, labels) for binary cross-entropy, or
                numbers (batch, labels) or (batch,) for regression. `config.problem_type` says which; if it is `None`,
                the model infers it from the labels, as usual in transformers, and remembers it.
            output_hidden_states: Whether to return the outputs of the encoder's stem and stages, for the first order.
                Default: `config.output_hidden_states`.
            derivative_orders: As many orders to use instead of `config.classifier_orders`.

        Returns:
            An `ImageClassifierOutput` with `logits` (batch, labels) and, if there are labels, `loss`; a tuple with
            `return_dict=False`.

        Raises:
            ValueError: If the network cannot take clips of this shape, or the number of orders differs.
        """
        outputs = self.encode(pixel_values, derivative_orders, output_hidden_states)
        features = torch.cat([output["pooler_output"] for output in outputs], dim=-1)
        logits = self.classifier(self.dropout(features))
        loss = None if labels is None else classification_loss(logits, labels, self._problem_type(labels))
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=outputs[0].hidden_states)
