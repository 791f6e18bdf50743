"""Metrics of retrieval: R@k and mean average precision."""

from collections.abc import Sequence
from typing import ClassVar

import datasets
import numpy as np
import torch
from torch import Tensor

from vididi_hf.evaluation.metrics.base import VideoMetric

RECALL_AT = (1, 5, 10, 20, 50)


class RecallAtK(VideoMetric):
    """Share of queries that find their label among the first k neighbors.

    A prediction is the list of the neighbors' labels, nearest first, of the same length for every query; -1 is no
    neighbor. A reference is the label of the query, not negative.

    `compute(..., ks=(1, 5))` returns `{"R@1": ..., "R@5": ...}`, between 0 and 1. A k beyond the number of neighbors
    counts all of them.

    Source: R@k of the video self-supervision literature (any hit counts), e.g. VCOP (Xu et al., CVPR 2019).

    Example:
        >>> RecallAtK(keep_in_memory=True).compute(predictions=[[0, 1], [0, 0]], references=[1, 1], ks=(1, 2))
        {'R@1': 0.0, 'R@2': 0.5}
    """

    columns: ClassVar = {"predictions": datasets.List(datasets.Value("int64")), "references": datasets.Value("int64")}

    def _compute(
        self, predictions: list[list[int]], references: list[int], ks: Sequence[int] = RECALL_AT
    ) -> dict[str, float]:
        hits = np.asarray(predictions) == np.asarray(references)[:, None]
        return {f"R@{k}": float(hits[:, :k].any(axis=1).mean()) for k in ks}


def mean_average_precision(neighbor_labels: Tensor, query_labels: Tensor) -> float:
    """Computes the mAP of rankings of the *whole* gallery, where -1 is no neighbor; no hit counts as 0."""
    hits = (neighbor_labels == query_labels[:, None]).double()
    precision = hits.cumsum(dim=1) / torch.arange(1, hits.shape[1] + 1, device=hits.device)
    return ((precision * hits).sum(dim=1) / hits.sum(dim=1).clamp(min=1)).mean().item()
