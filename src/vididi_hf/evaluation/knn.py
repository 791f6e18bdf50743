"""k-NN classification: the nearest training videos vote."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vididi_hf.evaluation.checks import require_finite
from vididi_hf.evaluation.features import EmbeddedVideos, FrozenEvaluator
from vididi_hf.evaluation.inputs import CLASSIFIER_INPUTS, INPUTS, single_inputs
from vididi_hf.evaluation.metrics.accuracy import score_inputs
from vididi_hf.evaluation.results import EvaluationResult


def nearest_neighbors(
    queries: Tensor,
    gallery: Tensor,
    k: int,
    chunk: int = 1024,
    *,
    query_groups: Tensor | None = None,
    gallery_groups: Tensor | None = None,
) -> Tensor:
    """Finds the k gallery items of other groups with the highest cosine, (queries, min(k, gallery)); -1 fills up.

    NaN or infinity raises a ValueError: a NaN would come first for every query.
    """
    require_finite(queries=queries, gallery=gallery)
    gallery = F.normalize(gallery, dim=-1)
    found = []
    for rows in torch.arange(len(queries)).split(chunk):
        similarity = F.normalize(queries[rows], dim=-1) @ gallery.T
        if query_groups is not None and gallery_groups is not None:
            similarity.masked_fill_(query_groups[rows, None] == gallery_groups, -torch.inf)
        # Stable, unlike topk: of equally similar items the first wins, on every device.
        values, indices = similarity.sort(dim=-1, descending=True, stable=True)
        found.append(indices[:, :k].masked_fill(values[:, :k] == -torch.inf, -1))
    return torch.cat(found)


def knn_probabilities(
    queries: Tensor,
    gallery: Tensor,
    nearest: Tensor,
    gallery_labels: Tensor,
    num_classes: int,
    temperature: float = 0.07,
    chunk: int = 256,
) -> Tensor:
    """Returns the share of the votes (queries, classes): `nearest` (queries, k) vote with exp(cosine / temperature)."""
    scores = []
    for rows in torch.arange(len(queries)).split(chunk):  # which limits the memory
        voters = F.normalize(gallery[nearest[rows]], dim=-1)
        similarity = torch.einsum("qd,qkd->qk", F.normalize(queries[rows], dim=-1), voters)
        votes = (similarity.masked_fill(nearest[rows] < 0, -torch.inf) / temperature).softmax(dim=1)
        scores.append(votes.new_zeros(len(rows), num_classes).scatter_add_(1, gallery_labels[nearest[rows]], votes))
    return torch.cat(scores)


@dataclass
class KNNEvaluator(FrozenEvaluator):
    """Classifies videos by the weighted vote of their nearest neighbors.

    Nothing is trained or tuned. The input "ensemble" averages the votes of the neighbors by frames and by derivative.
    "both" finds neighbors by the mean of the two cosines.

    Args:
        k: Neighbors that vote.
        temperature: At lower values, the nearest neighbors count more.

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (CVPR 2018), with its
    temperature. DINO (Caron et al., ICCV 2021) uses it with k = 20.

    Example:
        >>> from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor, load_video_dataset
        >>> model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1)))
        >>> train, test = (load_video_dataset("motion", split=s, num_train=8, num_test=8) for s in ("train", "test"))
        >>> processor = ViDiDiVideoProcessor(size=32, crop_size=32)
        >>> result = KNNEvaluator(train, test, processor, inputs=("ensemble",), num_clips=1, k=3)(model)
        >>> sorted(result["metrics"]["ensemble"]), result["protocol"]["query_videos"]
        (['mean-class', 'top-1', 'top-5'], 8)
    """

    k: int = 20
    temperature: float = 0.07

    task = "knn"
    known_inputs = CLASSIFIER_INPUTS
    primary_metric = "top-1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    def score(self, gallery: EmbeddedVideos, queries: EmbeddedVideos) -> EvaluationResult:
        """Lets the gallery vote on every query, with features from `embed`."""
        num_classes = 1 + int(torch.cat([gallery.labels, queries.labels]).max())
        groups: Any = {"query_groups": queries.groups, "gallery_groups": gallery.groups}
        probabilities = {}
        for name in single_inputs(self.inputs):
            asked, searched = (part.features.combined(INPUTS[name]) for part in (queries, gallery))
            nearest = nearest_neighbors(asked, searched, self.k, **groups)
            probabilities[name] = knn_probabilities(
                asked, searched, nearest, gallery.labels, num_classes, self.temperature
            )
        metrics = score_inputs(self.inputs, probabilities, queries.labels)
        how = {"similarity": "cosine", "neighbors": self.k, "temperature": self.temperature}
        return self.result(gallery, queries, metrics, **how)
