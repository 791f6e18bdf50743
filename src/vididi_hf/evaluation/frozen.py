"""What all evaluations of a frozen encoder share: two data sets, their features, who may be compared with whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import torch
from torch import Tensor

from vididi_hf.evaluation.features import VideoFeatures, extract_features
from vididi_hf.evaluation.inputs import INPUTS, check_inputs, orders_of
from vididi_hf.evaluation.labels import with_class_labels
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


@dataclass
class EmbeddedVideos:
    """The features of one of the two data sets.

    Attributes:
        features: The features, in the order of the rows that could be decoded.
        labels: int64 (videos,).
        groups: int64 (videos,), numbers of the values in the column `group_column`; None where nothing is left out.
    """

    features: VideoFeatures
    labels: Tensor
    groups: Tensor | None = None


@dataclass
class FrozenEvaluator:
    """Base of the evaluators that look at the features of a frozen encoder.

    The encoder is in evaluation mode while it embeds: nothing in it changes.

    Args:
        gallery: The labeled videos that are searched, or learnt from (the training split).
        queries: The labeled videos that are asked about (the test split). With `group_column` it may be `gallery` itself,
            whose features are then computed once.
        processor: Chooses and prepares the clips; says their frames and stride.
        inputs: What the encoder is shown; the first is the one that models are compared by.
        num_clips: Clips per video, whose features are averaged.
        batch_size: Videos per forward pass.
        num_workers: Processes that decode.
        progress: Whether to show progress bars.
        group_column: A column of both data sets, such as the recording a video was cut from. A query is then compared only
            with videos that differ from it in this column. For sets without a split of their own.
        dataset: The name of the data set, for the result.
        split: The split that `queries` are, for the result.

    Raises:
        ValueError: If a data set has no labels or no column `group_column`, an input is unknown, or the queries would find
            themselves.
    """

    gallery: datasets.Dataset
    queries: datasets.Dataset
    processor: ViDiDiVideoProcessor
    inputs: Sequence[str] = tuple(INPUTS)
    num_clips: int = 10
    batch_size: int = 16
    num_workers: int = 0
    progress: bool = False
    group_column: str | None = None
    dataset: str = "unknown"
    split: str = "test"

    task: ClassVar[str]
    known_inputs: ClassVar[tuple[str, ...]] = tuple(INPUTS)
    primary_metric: ClassVar[str]
    greater_is_better: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for rows, role in ((self.gallery, "gallery"), (self.queries, "query")):
            if "label" not in rows.column_names:
                raise ValueError(f"{self.task} needs labels, and the {role} data set has no column 'label'")
            if self.group_column is not None and self.group_column not in rows.column_names:
                raise ValueError(
                    f"group_column is {self.group_column!r}, which is no column of the {role} data set; "
                    f"it has {', '.join(rows.column_names)}"
                )
        if self.queries is self.gallery and self.group_column is None:
            raise ValueError("gallery and queries are one data set, so every query would find itself: set group_column")
        check_inputs(self.inputs, self.known_inputs)
        self.gallery, self.queries = with_class_labels(self.gallery, self.queries)

    def embed(self, model: ViDiDiModel) -> tuple[EmbeddedVideos, EmbeddedVideos]:
        """Computes the features of gallery and queries.

        Raises:
            ValueError: If no video can be decoded, or `group_column` leaves a query nothing to be compared with.
        """
        gallery = EmbeddedVideos(features := self._features(model, self.gallery), features.labels(self.gallery))
        queries = gallery
        if self.queries is not self.gallery:
            queries = EmbeddedVideos(features := self._features(model, self.queries), features.labels(self.queries))
        if self.group_column is not None:
            # The same numbers in both data sets.
            columns = [rows[self.group_column][:] for rows in (self.gallery, self.queries)]
            numbers = {value: number for number, value in enumerate(dict.fromkeys([*columns[0], *columns[1]]))}
            searched, asked = (
                torch.tensor([numbers[value] for value in column])[part.features.rows]
                for part, column in zip((gallery, queries), columns)
            )
            if (searched == searched[0]).all() and (asked == searched[0]).any():
                raise ValueError(
                    f"group_column {self.group_column!r} leaves some queries nothing to be compared with: "
                    "the videos need at least 2 different values in this column"
                )
            gallery.groups, queries.groups = searched, asked
        return gallery, queries

    def protocol(self, gallery: EmbeddedVideos, queries: EmbeddedVideos, **more: Any) -> dict[str, Any]:
        """Says how the numbers were measured.

        Args:
            gallery: What was searched, or learnt from.
            queries: What was asked about.
            **more: What the evaluator adds.
        """
        return {
            "gallery_videos": len(gallery.labels),
            "query_videos": len(queries.labels),
            "classes": len(torch.cat([gallery.labels, queries.labels]).unique()),
            "clips_per_video": self.num_clips,
            "frames_per_clip": self.processor.num_frames,
            "frame_stride": self.processor.frame_stride,
            "crop": "center",
            "group_column": self.group_column,
            "failed_videos": sorted(gallery.features.broken | queries.features.broken),
            **more,
        }

    def _features(self, model: ViDiDiModel, rows: datasets.Dataset) -> VideoFeatures:
        return extract_features(
            model,
            self.processor,
            rows,
            orders=orders_of(self.inputs),
            num_clips=self.num_clips,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            progress=self.progress,
        )


def num_classes_of(*parts: EmbeddedVideos) -> int:
    """Counts the classes that videos may have, those without a video among them: the highest number and one."""
    return 1 + max(int(part.labels.max()) for part in parts)
