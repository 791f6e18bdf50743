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
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

RECALL_AT = (1, 5, 10, 20, 50)
INPUTS: dict[str, tuple[int, ...]] = {"frames": (0,), "derivative": (1,), "both": (0, 1)}
"""What the encoder is shown: V, ∂V, or both with their features side by side."""


def nearest_neighbours(queries: Tensor, gallery: Tensor, k: int, chunk: int = 1024) -> Tensor:
    """Finds the gallery items most alike by cosine similarity.

    Args:
        queries: (queries, dimensions).
        gallery: (gallery, dimensions).
        k: How many to find; at most all of the gallery are.
        chunk: Queries compared at a time, which bounds the memory.

    Returns:
        int64 (queries, min(k, gallery)), most alike first.
    """
    gallery = F.normalize(gallery, dim=-1)
    k = min(k, len(gallery))
    return torch.cat([(F.normalize(part, dim=-1) @ gallery.T).topk(k, dim=-1).indices for part in queries.split(chunk)])


def recall_at_k(neighbour_labels: Tensor, query_labels: Tensor, ks: Sequence[int] = RECALL_AT) -> dict[int, float]:
    """Computes the share of queries that find their label among the first k neighbours.

    Args:
        neighbour_labels: Labels of the neighbours, nearest first, int64 (queries, neighbours).
        query_labels: int64 (queries,).
        ks: The ranks; one beyond the number of neighbours counts all of them.

    Returns:
        Recall for each k, between 0 and 1.

    Source: R@k of the video self-supervision literature (any hit counts), e.g. VCOP (Xu et al., CVPR 2019).
    """
    hits = (neighbour_labels == query_labels[:, None]).cummax(dim=1).values
    return {k: hits[:, min(k, hits.shape[1]) - 1].float().mean().item() for k in ks}


@dataclass
class RetrievalResult:
    """What retrieval found.

    Attributes:
        metrics: By input ("frames", "derivative", "both"), R@k as `{"R@1": …}`.
        neighbours: By input, int64 (queries, 50): *rows of the gallery data set*, nearest first.
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
        queries: The data set asked with (the test split), with labels.
        processor: Chooses and prepares the clips; says their frames and stride.
        inputs: What the encoder is shown, some of "frames", "derivative", "both".
        num_clips: Clips per video.
        batch_size: Videos per forward pass.
        num_workers: Processes that decode.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If a data set has no labels, or an input is unknown.

    Source: RECIPE of the field: split 1, gallery = train, queries = test, 10 clips averaged, cosine, R@1/5/10/20/50 with any
    hit, every video kept (short ones looped).
    """

    gallery: datasets.Dataset
    queries: datasets.Dataset
    processor: ViDiDiVideoProcessor
    inputs: Sequence[str] = ("frames", "derivative", "both")
    num_clips: int = 10
    batch_size: int = 16
    num_workers: int = 0
    progress: bool = False

    primary_metric = "R@1"
    greater_is_better = True

    def __post_init__(self) -> None:
        for rows, role in ((self.gallery, "gallery"), (self.queries, "query")):
            if "label" not in rows.column_names:
                raise ValueError(f"retrieval needs labels, and the {role} data set has no column 'label'")
        for name in self.inputs:
            if name not in INPUTS:
                raise ValueError(f"unknown input {name!r}; choose from {', '.join(INPUTS)}")

    def __call__(self, model: ViDiDiModel) -> RetrievalResult:
        """Embeds both data sets and ranks the gallery for every query."""
        orders = sorted({order for name in self.inputs for order in INPUTS[name]})
        gallery, queries = (
            extract_features(
                model,
                self.processor,
                rows,
                orders=orders,
                num_clips=self.num_clips,
                batch_size=self.batch_size,
                num_workers=self.num_workers,
                progress=self.progress,
            )
            for rows in (self.gallery, self.queries)
        )
        gallery_labels, query_labels = gallery.labels(self.gallery), queries.labels(self.queries)
        metrics, neighbours = {}, {}
        for name in self.inputs:
            nearest = nearest_neighbours(queries.combined(INPUTS[name]), gallery.combined(INPUTS[name]), max(RECALL_AT))
            recalls = recall_at_k(gallery_labels[nearest], query_labels)
            metrics[name] = {f"R@{k}": recall for k, recall in recalls.items()}
            neighbours[name] = gallery.rows[nearest]
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
            "failed_videos": sorted(gallery.broken | queries.broken),
        }
        return RetrievalResult(metrics, neighbours, queries, protocol)
