"""Mean class accuracy: every class counts alike, however many videos it has."""

from __future__ import annotations

import datasets
import evaluate
import torch
from torch import Tensor


def mean_class_accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Computes the mean over classes of the share of their videos that are recognized.

    Args:
        predicted: int64 (videos,), the predicted classes.
        labels: int64 (videos,), the right ones. Classes without a video do not count.

    Returns:
        The mean, between 0 and 1.

    Example:
        ```python
        >>> import torch
        >>> from vididi_hf.evaluation.metrics.mean_class_accuracy import mean_class_accuracy
        >>> mean_class_accuracy(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]))
        0.5

        ```
    """
    classes, numbers = labels.unique(return_inverse=True)
    hits = torch.zeros(len(classes), dtype=torch.float64).index_add_(0, numbers, (predicted == labels).double())
    return (hits / numbers.bincount(minlength=len(classes))).mean().item()


class MeanClassAccuracy(evaluate.Metric):
    """`mean_class_accuracy` as a metric of 🤗 Evaluate; predictions and references are labels.

    Example:
        ```python
        >>> from vididi_hf.evaluation.metrics import MeanClassAccuracy
        >>> MeanClassAccuracy(keep_in_memory=True).compute(predictions=[0, 0, 0, 0], references=[0, 0, 0, 1])
        {'mean-class': 0.5}

        ```
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Mean over classes of the share of their videos that are recognized.",
            citation="",
            inputs_description="predictions: predicted labels. references: labels.",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"mean-class": mean_class_accuracy(torch.tensor(predictions), torch.tensor(references))}
