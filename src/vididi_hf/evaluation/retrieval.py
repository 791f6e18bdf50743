"""Video retrieval: does the nearest training video show the same action?"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vididi_hf.evaluation.features import VideoFeatures
from vididi_hf.evaluation.frozen import EmbeddedVideos, FrozenEvaluator
from vididi_hf.evaluation.inputs import INPUTS
from vididi_hf.evaluation.knn import knn_accuracy, nearest_neighbors
from vididi_hf.evaluation.metrics.recall_at_k import RECALL_AT, mean_average_precision, recall_at_k
from vididi_hf.evaluation.results import EvaluationResult
from vididi_hf.modeling_vididi import ViDiDiModel

__all__ = ["INPUTS", "RECALL_AT", "RetrievalEvaluator", "RetrievalResult", "nearest_neighbors", "recall_at_k"]

KNN = 20


@dataclass
class RetrievalResult(EvaluationResult):
    """What retrieval found.

    The metrics are, by input ("frames", "derivative", "both"), R@k, mAP and the accuracy of a k-NN classifier:
    `{"R@1": …, "mAP": …, "20-NN": …}`.

    Attributes:
        neighbors: By input, int64 (queries, 50): *rows of the gallery data set*, nearest first; -1 where `group_column`
            leaves a query fewer to be compared with.
        queries: The features of the queries, whose `rows` are the rows of the query data set.
    """

    neighbors: dict[str, Tensor] = field(kw_only=True)
    queries: VideoFeatures = field(kw_only=True)


@dataclass
class RetrievalEvaluator(FrozenEvaluator):
    """Retrieves training videos for test videos by the cosine of their features.

    Features of both frames and derivative are set side by side, each of unit length: the cosine is then the mean of the
    two cosines, so "both" is the ensemble too.

    Source: the usual protocol of video self-supervision: split 1, gallery = train, queries = test, 10 clips averaged,
    cosine, R@1/5/10/20/50 with any hit; here every video is kept (short ones looped).
    """

    task = "retrieval"
    primary_metric = "R@1"

    def __call__(self, model: ViDiDiModel) -> RetrievalResult:
        """Embeds both data sets and ranks the gallery for every query.

        Raises:
            ValueError: If no video can be decoded, or `group_column` leaves a query nothing to be compared with.
        """
        return self.score(*self.embed(model))

    def score(self, gallery: EmbeddedVideos, queries: EmbeddedVideos) -> RetrievalResult:
        """Ranks the gallery for every query, by features that are known already.

        Args:
            gallery: What `embed` returned, perhaps with other labels.
            queries: Likewise.
        """
        metrics, neighbors = {}, {}
        for name in self.inputs:
            asked, searched = (part.features.combined(INPUTS[name]) for part in (queries, gallery))
            nearest, mean_precision = self._rank(asked, searched, gallery, queries)
            missing = nearest < 0
            recalls = recall_at_k(gallery.labels[nearest].masked_fill(missing, -1), queries.labels)
            accuracy = knn_accuracy(asked, searched, nearest[:, :KNN], gallery.labels, queries.labels)
            metrics[name] = {
                **{f"R@{k}": recall for k, recall in recalls.items()},
                "mAP": mean_precision,
                f"{KNN}-NN": accuracy,
            }
            neighbors[name] = gallery.features.rows[nearest].masked_fill(missing, -1)
        return RetrievalResult(
            self.task,
            metrics,
            self.protocol(gallery, queries, similarity="cosine"),
            primary=self.primary_metric,
            greater_is_better=self.greater_is_better,
            dataset=self.dataset,
            split=self.split,
            neighbors=neighbors,
            queries=queries.features,
        )

    @staticmethod
    def _rank(
        asked: Tensor, searched: Tensor, gallery: EmbeddedVideos, queries: EmbeddedVideos, chunk: int = 256
    ) -> tuple[Tensor, float]:
        """Returns the first neighbors of every query, and the mAP of the whole rankings, which are not kept."""
        nearest, precisions = [], []
        for rows in torch.arange(len(asked)).split(chunk):
            groups = None if queries.groups is None else queries.groups[rows]
            ranking = nearest_neighbors(
                asked[rows], searched, len(searched), query_groups=groups, gallery_groups=gallery.groups
            )
            labels = gallery.labels[ranking].masked_fill(ranking < 0, -1)
            precisions.append(mean_average_precision(labels, queries.labels[rows]) * len(rows))
            nearest.append(ranking[:, : max(RECALL_AT)])
        return torch.cat(nearest), sum(precisions) / len(asked)
