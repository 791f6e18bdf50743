"""Video retrieval: does the nearest training video show the same action?"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
from torch import Tensor

from vididi_hf.data.folders import MissingSplitError
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.data.saved import DatasetObject
from vididi_hf.evaluation.features import EmbeddedVideos, FrozenEvaluator, VideoFeatures
from vididi_hf.evaluation.inputs import INPUTS
from vididi_hf.evaluation.knn import knn_probabilities, nearest_neighbors
from vididi_hf.evaluation.metrics import RecallAtK, TopKAccuracy
from vididi_hf.evaluation.metrics.recall_at_k import RECALL_AT, mean_average_precision
from vididi_hf.evaluation.results import EvaluationResult

KNN = 20
ROW = "row"
"""A column that numbers the videos. As `group_column`, it compares each video with all others."""


class RetrievalSplits(NamedTuple):
    """The two sides of retrieval."""

    gallery: datasets.Dataset
    queries: datasets.Dataset  # the gallery itself if there is no test split
    group_column: str | None  # in which a query must differ from the videos it is compared with


def load_retrieval_splits(
    name: str | Path | DatasetObject,
    *,
    gallery_split: str = "train",
    query_split: str = "test",
    group_column: str | None = None,
    **place: Any,
) -> RetrievalSplits:
    """Loads gallery and queries. Without a `query_split`, each video of the gallery is compared with all the others.

    `place` are more arguments of `load_video_dataset`, such as `root`.
    """
    gallery = load_video_dataset(name, split=gallery_split, **place)
    if group_column is not None:
        return RetrievalSplits(gallery, gallery, group_column)
    try:
        return RetrievalSplits(gallery, load_video_dataset(name, split=query_split, **place), None)
    except MissingSplitError:
        gallery = gallery.add_column(ROW, list(range(len(gallery))))
        return RetrievalSplits(gallery, gallery, ROW)


@dataclass
class RetrievalResult(EvaluationResult):
    """The metrics R@k, mAP and the accuracy of a k-NN classifier by input, and the neighbors."""

    # By input, int64 (queries, 50): *rows of the gallery data set*, nearest first; -1 if `group_column` leaves fewer.
    neighbors: dict[str, Tensor] = field(kw_only=True)
    queries: VideoFeatures = field(kw_only=True)


@dataclass
class RetrievalEvaluator(FrozenEvaluator):
    """Retrieves training videos for test videos by the cosine of their features.

    "both" concatenates the features of frames and derivative, each of unit length. Their cosine is then the mean of the
    two cosines, so "both" is the ensemble too.

    Source: the usual protocol of video self-supervision: split 1, gallery = train, queries = test, 10 clips averaged,
    cosine, R@1/5/10/20/50 with any hit. Here every video counts.

    Example:
        >>> from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor, load_video_dataset
        >>> model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1)))
        >>> train, test = (load_video_dataset("motion", split=s, num_train=8, num_test=8) for s in ("train", "test"))
        >>> processor = ViDiDiVideoProcessor(size=32, crop_size=32)
        >>> result = RetrievalEvaluator(train, test, processor, inputs=("frames",), num_clips=1)(model)
        >>> list(result["metrics"]["frames"])
        ['R@1', 'R@5', 'R@10', 'R@20', 'R@50', 'mAP', '20-NN']
    """

    task = "retrieval"
    primary_metric = "R@1"

    def score(self, gallery: EmbeddedVideos, queries: EmbeddedVideos) -> RetrievalResult:
        """Ranks the gallery for every query, with features from `embed`, perhaps with other labels."""
        metrics, neighbors = {}, {}
        num_classes = 1 + int(torch.cat([gallery.labels, queries.labels]).max())
        wanted = queries.labels.numpy()
        for name in self.inputs:
            asked, searched = (part.features.combined(INPUTS[name]) for part in (queries, gallery))
            nearest, mean_precision = _rank(asked, searched, gallery, queries)
            found = gallery.labels[nearest].masked_fill(nearest < 0, -1)
            recalls = RecallAtK(keep_in_memory=True).compute(predictions=found.numpy(), references=wanted)
            votes = knn_probabilities(asked, searched, nearest[:, :KNN], gallery.labels, num_classes).numpy()
            knn = TopKAccuracy(keep_in_memory=True).compute(predictions=votes, references=wanted, ks=(1,))
            metrics[name] = {**recalls, "mAP": mean_precision, f"{KNN}-NN": knn["top-1"]}
            neighbors[name] = gallery.features.rows[nearest].masked_fill(nearest < 0, -1)
        result = self.result(gallery, queries, metrics, similarity="cosine")
        return RetrievalResult(**vars(result), neighbors=neighbors, queries=queries.features)


def _rank(asked: Tensor, searched: Tensor, gallery: EmbeddedVideos, queries: EmbeddedVideos) -> tuple[Tensor, float]:
    """Returns the first neighbors of every query, and the mAP of the whole rankings, which do not fit into memory."""
    nearest, precisions = [], []
    for rows in torch.arange(len(asked)).split(256):
        groups: Any = {} if queries.groups is None else {"query_groups": queries.groups[rows]}
        ranking = nearest_neighbors(asked[rows], searched, len(searched), gallery_groups=gallery.groups, **groups)
        labels = gallery.labels[ranking].masked_fill(ranking < 0, -1)
        precisions.append(mean_average_precision(labels, queries.labels[rows]) * len(rows))
        nearest.append(ranking[:, : max(RECALL_AT)])
    return torch.cat(nearest), sum(precisions) / len(asked)
