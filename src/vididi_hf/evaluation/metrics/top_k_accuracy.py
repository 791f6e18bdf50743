"""Top-k accuracy: is the right class among the k with the highest scores?"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
import torch
from torch import Tensor


def top_k_accuracy(scores: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> dict[int, float]:
    """Computes the share of videos whose label is among the k classes with the highest scores.

    Of equal scores the class with the lower number comes first, as `argmax` has it; so a classifier that gives all
    classes one score gains nothing.

    Args:
        scores: (videos, classes), in any units that rank.
        labels: int64 (videos,), between 0 and classes − 1.
        ks: The ranks; one beyond the number of classes counts all of them.

    Returns:
        Accuracy for each k, between 0 and 1.

    Raises:
        ValueError: If a score is NaN, which would rank anywhere, or a label is none of the classes.

    Example:
        ```python
        >>> import torch
        >>> from vididi_hf.evaluation.metrics.top_k_accuracy import top_k_accuracy
        >>> top_k_accuracy(torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]), torch.tensor([1, 0]), ks=(1, 2))
        {1: 0.5, 2: 1.0}

        ```
    """
    if scores.isnan().any():
        raise ValueError(f"the scores of {int(scores.isnan().any(dim=1).sum())} videos hold NaN")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(f"labels must lie in 0 … {scores.shape[1] - 1}, got {int(labels.min())} … {int(labels.max())}")
    ranked = scores.sort(dim=1, descending=True, stable=True).indices
    rank = (ranked == labels[:, None]).int().argmax(dim=1)
    return {k: (rank < k).double().mean().item() for k in ks}


class TopKAccuracy(evaluate.Metric):
    """`top_k_accuracy` as a metric of 🤗 Evaluate.

    A prediction is the list of the scores of all classes; a reference is a label. `compute(…, ks=(1, 5))` returns
    `{"top-1": …, "top-5": …}`.

    Example:
        ```python
        >>> from vididi_hf.evaluation.metrics import TopKAccuracy
        >>> TopKAccuracy(keep_in_memory=True).compute(predictions=[[0.2, 0.8], [0.6, 0.4]], references=[1, 1], ks=(1,))
        {'top-1': 0.5}

        ```
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of videos whose label is among the k classes with the highest scores.",
            citation="",
            inputs_description="predictions: scores of all classes. references: labels.",
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(
        self, predictions: list[list[float]], references: list[int], ks: Sequence[int] = (1, 5)
    ) -> dict[str, float]:
        scores = torch.tensor(predictions, dtype=torch.float64)
        return {f"top-{k}": value for k, value in top_k_accuracy(scores, torch.tensor(references), ks).items()}
