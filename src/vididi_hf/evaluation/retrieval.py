"""Video retrieval: does the nearest training video show the same action?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
import torch.nn.functional as F
from torch import Tensor

from vididi_hf.evaluation.features import VideoFeatures, extract_features
from vididi_hf.evaluation.knn import knn_accuracy
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

RECALL_AT = (1, 5, 10, 20, 50)
KNN = 20
INPUTS: dict[str, tuple[int, ...]] = {"frames": (0,), "derivative": (1,), "both": (0, 1)}
"""What the encoder is shown: V, ∂V, or both with their features side by side."""


def nearest_neighbours(
    queries: Tensor,
    gallery: Tensor,
    k: int,
    chunk: int = 1024,
    *,
    query_groups: Tensor | None = None,
    gallery_groups: Tensor | None = None,
) -> Tensor:
    """Finds the gallery items most alike by cosine similarity.

    Args:
        queries: (queries, dimensions).
        gallery: (gallery, dimensions).
        k: How many to find; at most all of the gallery are.
        chunk: Queries compared at a time, which bounds the memory.
        query_groups: (queries,) integers; a query is not compared with gallery items of its own group. None compares
            everything.
        gallery_groups: (gallery,) integers, given if and only if `query_groups` is.

    Returns:
        int64 (queries, min(k, gallery)), most alike first, equally similar items in the gallery's order; -1 where the
        other groups hold fewer items than that.

    Example:
        ```python
        >>> import torch
        >>> from vididi_hf.evaluation.retrieval import nearest_neighbours
        >>> nearest_neighbours(torch.tensor([[1.0, 0.2]]), torch.tensor([[0.0, 1.0], [5.0, 0.0], [1.0, 1.0]]), k=2)
        tensor([[1, 2]])

        ```
    """
    gallery = F.normalize(gallery, dim=-1)
    k = min(k, len(gallery))
    found = []
    for rows in torch.arange(len(queries)).split(chunk):
        similarity = F.normalize(queries[rows], dim=-1) @ gallery.T
        if query_groups is not None and gallery_groups is not None:
            similarity.masked_fill_(query_groups[rows, None] == gallery_groups, -torch.inf)
        # Stable, unlike topk: of equally similar items the first wins, on every device.
        values, indices = similarity.sort(dim=-1, descending=True, stable=True)
        found.append(indices[:, :k].masked_fill(values[:, :k] == -torch.inf, -1))
    return torch.cat(found)


def recall_at_k(neighbour_labels: Tensor, query_labels: Tensor, ks: Sequence[int] = RECALL_AT) -> dict[int, float]:
    """Computes the share of queries that find their label among the first k neighbours.

    Args:
        neighbour_labels: Labels of the neighbours, nearest first, int64 (queries, neighbours).
        query_labels: int64 (queries,).
        ks: The ranks; one beyond the number of neighbours counts all of them.

    Returns:
        Recall for each k, between 0 and 1.

    Source: R@k of the video self-supervision literature (any hit counts), e.g. VCOP (Xu et al., CVPR 2019).

    Example:
        ```python
        >>> import torch
        >>> from vididi_hf.evaluation.retrieval import recall_at_k
        >>> recall_at_k(torch.tensor([[0, 1, 1], [0, 0, 0]]), torch.tensor([1, 1]), ks=(1, 2, 3))
        {1: 0.0, 2: 0.5, 3: 0.5}

        ```
    """
    hits = (neighbour_labels == query_labels[:, None]).cummax(dim=1).values
    return {k: hits[:, min(k, hits.shape[1]) - 1].double().mean().item() for k in ks}


@dataclass
class RetrievalResult:
    """What retrieval found.

    Attributes:
        metrics: By input ("frames", "derivative", "both"), R@k and the accuracy of a k-NN classifier, as
            `{"R@1": …, "20-NN": …}`.
        neighbours: By input, int64 (queries, 50): *rows of the gallery data set*, nearest first; -1 where `leave_out`
            leaves a query fewer to be compared with.
        queries: The features of the queries, whose `rows` are the rows of the query data set.
        protocol: How it was measured.
    """

    metrics: dict[str, dict[str, float]]
    neighbours: dict[str, Tensor]
    queries: VideoFeatures
    protocol: dict[str, Any]


@dataclass
class RetrievalEvaluator:
    """Retrieves training videos for test videos by the cosine of their features.

    Args:
        gallery: The data set searched (the training split), with labels.
        queries: The data set asked with (the test split), with labels. With `leave_out` it may be `gallery` itself,
            whose features are then computed once.
        processor: Chooses and prepares the clips; says their frames and stride.
        inputs: What the encoder is shown, some of "frames", "derivative", "both".
        num_clips: Clips per video.
        batch_size: Videos per forward pass.
        num_workers: Processes that decode.
        progress: Whether to show progress bars.
        leave_out: A column of both data sets, such as the recording a video was cut from. A query is then compared only
            with videos that differ from it in this column. For sets without a split of their own.

    Raises:
        ValueError: If a data set has no labels or no column `leave_out`, an input is unknown, or the queries would find
            themselves.

    Source: the usual protocol of video self-supervision: split 1, gallery = train, queries = test, 10 clips averaged,
    cosine, R@1/5/10/20/50 with any hit; here every video is kept (short ones looped).
    """

    gallery: datasets.Dataset
    queries: datasets.Dataset
    processor: ViDiDiVideoProcessor
    inputs: Sequence[str] = ("frames", "derivative", "both")
    num_clips: int = 10
    batch_size: int = 16
    num_workers: int = 0
    progress: bool = False
    leave_out: str | None = None

    primary_metric = "R@1"
    greater_is_better = True

    def __post_init__(self) -> None:
        for rows, role in ((self.gallery, "gallery"), (self.queries, "query")):
            if "label" not in rows.column_names:
                raise ValueError(f"retrieval needs labels, and the {role} data set has no column 'label'")
            if self.leave_out is not None and self.leave_out not in rows.column_names:
                raise ValueError(
                    f"leave_out is {self.leave_out!r}, which is no column of the {role} data set; "
                    f"it has {', '.join(rows.column_names)}"
                )
        if self.queries is self.gallery and self.leave_out is None:
            raise ValueError("gallery and queries are one data set, so every query would find itself: set leave_out")
        for name in self.inputs:
            if name not in INPUTS:
                raise ValueError(f"unknown input {name!r}; choose from {', '.join(INPUTS)}")

    def __call__(self, model: ViDiDiModel) -> RetrievalResult:
        """Embeds both data sets and ranks the gallery for every query.

        Raises:
            ValueError: If no video can be decoded, or `leave_out` leaves a query nothing to be compared with.
        """
        gallery = self._features(model, self.gallery)
        queries = gallery if self.queries is self.gallery else self._features(model, self.queries)
        gallery_groups, query_groups = self._groups(gallery, queries)
        gallery_labels, query_labels = gallery.labels(self.gallery), queries.labels(self.queries)
        metrics, neighbours = {}, {}
        for name in self.inputs:
            asked, searched = queries.combined(INPUTS[name]), gallery.combined(INPUTS[name])
            nearest = nearest_neighbours(
                asked, searched, max(RECALL_AT), query_groups=query_groups, gallery_groups=gallery_groups
            )
            if (nearest[:, 0] < 0).any():
                raise ValueError(
                    f"leave_out {self.leave_out!r} leaves some queries nothing to be compared with: "
                    "the videos need at least 2 different values in this column"
                )
            missing = nearest < 0
            recalls = recall_at_k(gallery_labels[nearest].masked_fill(missing, -1), query_labels)
            accuracy = knn_accuracy(asked, searched, nearest[:, :KNN], gallery_labels, query_labels)
            metrics[name] = {**{f"R@{k}": recall for k, recall in recalls.items()}, f"{KNN}-NN": accuracy}
            neighbours[name] = gallery.rows[nearest].masked_fill(missing, -1)
        classes = torch.cat([gallery_labels, query_labels]).unique()
        protocol = {
            "task": "video retrieval",
            "gallery_videos": len(gallery.rows),
            "query_videos": len(queries.rows),
            "classes": len(classes),
            "clips_per_video": self.num_clips,
            "frames_per_clip": self.processor.num_frames,
            "frame_stride": self.processor.frame_stride,
            "crop": "centre",
            "similarity": "cosine",
            "leave_out": self.leave_out,
            "failed_videos": sorted(gallery.broken | queries.broken),
        }
        return RetrievalResult(metrics, neighbours, queries, protocol)

    def _features(self, model: ViDiDiModel, rows: datasets.Dataset) -> VideoFeatures:
        return extract_features(
            model,
            self.processor,
            rows,
            orders=sorted({order for name in self.inputs for order in INPUTS[name]}),
            num_clips=self.num_clips,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            progress=self.progress,
        )

    def _groups(self, gallery: VideoFeatures, queries: VideoFeatures) -> tuple[Tensor | None, Tensor | None]:
        """Numbers the values of the column `leave_out` alike in both data sets."""
        if self.leave_out is None:
            return None, None
        columns = [rows[self.leave_out][:] for rows in (self.gallery, self.queries)]
        numbers = {value: number for number, value in enumerate(dict.fromkeys([*columns[0], *columns[1]]))}
        groups = [torch.tensor([numbers[value] for value in column]) for column in columns]
        return groups[0][gallery.rows], groups[1][queries.rows]
