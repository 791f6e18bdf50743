"""Metrics of classifiers: top-k accuracy and mean class accuracy."""

from collections.abc import Sequence
from typing import ClassVar

import datasets
import numpy as np
import torch
from sklearn.metrics import recall_score
from torch import Tensor

from vididi_hf.evaluation.inputs import single_inputs
from vididi_hf.evaluation.metrics.base import VideoMetric


class TopKAccuracy(VideoMetric):
    """Share of videos whose label is among the k classes with the highest scores.

    A prediction is the list of the scores of all classes; a reference is a label. Among equal scores the class with the
    lower number comes first, as in `argmax`, so a classifier that gives all classes one score gains nothing.

    `compute(..., ks=(1, 5))` returns `{"top-1": ..., "top-5": ...}`, between 0 and 1. A k beyond the number of classes
    counts all of them. It raises a ValueError if a score is NaN or a label is not one of the classes.

    Example:
        >>> TopKAccuracy(keep_in_memory=True).compute(predictions=[[0.2, 0.8], [0.6, 0.4]], references=[1, 1], ks=(1,))
        {'top-1': 0.5}
    """

    columns: ClassVar = {"predictions": datasets.List(datasets.Value("float64")), "references": datasets.Value("int64")}

    def _compute(
        self, predictions: list[list[float]], references: list[int], ks: Sequence[int] = (1, 5)
    ) -> dict[str, float]:
        scores, labels = np.asarray(predictions), np.asarray(references)
        if np.isnan(scores).any():
            raise ValueError(f"the scores of {np.isnan(scores).any(axis=1).sum()} videos contain NaN")
        if labels.min() < 0 or labels.max() >= scores.shape[1]:
            raise ValueError(f"labels must lie in 0 … {scores.shape[1] - 1}, got {labels.min()} … {labels.max()}")
        ranked = np.argsort(-scores, axis=1, kind="stable")
        rank = (ranked == labels[:, None]).argmax(axis=1)
        return {f"top-{k}": float((rank < k).mean()) for k in ks}


class MeanClassAccuracy(VideoMetric):
    """Mean over classes of the share of their videos that are recognized, so every class counts the same.

    Predictions and references are labels. Classes without a video do not count. `compute` returns
    `{"mean-class": ...}`, between 0 and 1.

    Example:
        >>> MeanClassAccuracy(keep_in_memory=True).compute(predictions=[0, 0, 0, 0], references=[0, 0, 0, 1])
        {'mean-class': 0.5}
    """

    columns: ClassVar = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        classes = np.unique(references)
        return {"mean-class": float(recall_score(references, predictions, labels=classes, average="macro"))}


def score_inputs(
    inputs: Sequence[str], probabilities: dict[str, Tensor], labels: Tensor
) -> dict[str, dict[str, float]]:
    """Returns top-1, top-5 and mean-class by input, from the probabilities (videos, classes) of each single input."""
    metrics = {}
    for name in inputs:
        scores = torch.stack([probabilities[part] for part in single_inputs([name])]).mean(dim=0).numpy()
        top, mean = TopKAccuracy(keep_in_memory=True), MeanClassAccuracy(keep_in_memory=True)
        metrics[name] = {
            **top.compute(predictions=scores, references=labels.numpy()),
            **mean.compute(predictions=scores.argmax(axis=1), references=labels.numpy()),
        }
    return metrics
