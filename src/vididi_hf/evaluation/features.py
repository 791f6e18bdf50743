"""Features of whole data sets, and the base of all evaluators of a frozen encoder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from vididi_hf.data.registry import rows_of
from vididi_hf.data.workers import ordered_loader
from vididi_hf.evaluation.checks import check_classes, check_finite, count_unlabeled, shared_files
from vididi_hf.evaluation.inputs import INPUTS, check_inputs, orders_of, sampling_facts
from vididi_hf.evaluation.results import EvaluationResult
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.options import _AcceptsOldNames, option
from vididi_hf.video_processing_vididi import BrokenVideoError, ViDiDiVideoProcessor


@dataclass
class VideoFeatures:
    """Features of the videos of a data set that can be decoded."""

    by_order: dict[int, Tensor]  # float32 (videos, hidden_size) for each derivative order
    rows: Tensor  # int64 (videos,), the rows of the data set that the features belong to
    broken: dict[str, str] = field(default_factory=dict)  # why the others cannot be decoded, by file

    def labels(self, dataset: datasets.Dataset) -> Tensor:
        return torch.from_numpy(np.asarray(dataset["label"], dtype=np.int64))[self.rows]

    def combined(self, orders: Sequence[int]) -> Tensor:
        """Concatenates features of unit length (videos, orders · hidden_size): cosines are means of cosines."""
        return torch.cat([F.normalize(self.by_order[order], dim=-1) for order in orders], dim=-1)

    def embeddings(self, orders: Sequence[int]) -> Tensor:
        """Returns one vector of unit length per video, float32 (videos, orders · hidden_size)."""
        return F.normalize(self.combined(orders), dim=-1)


class NothingDecodedError(ValueError):
    """None of the videos can be decoded."""


class DecodedRows(Dataset):
    """Base of the clips that an evaluation uses. Workers decode and crop them, and return `uint8`."""

    unit = "videos"

    def __init__(self, wanted: Sequence[int]) -> None:
        self.wanted = wanted  # rows
        # Why videos cannot be decoded, by file and by row. `batches` fills both.
        self.broken: dict[str, str] = {}
        self.broken_rows: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.wanted)

    def read(self, row: int) -> Tensor:
        raise NotImplementedError

    def __getitem__(self, place: int) -> tuple[int, Tensor | None, dict[str, str]]:
        row = self.wanted[place]
        try:
            return row, self.read(row), {}
        except BrokenVideoError as error:
            return row, None, {error.source: error.reason}

    def batches(
        self, batch_size: int, num_workers: int = 0, progress: bool = False, title: str = "features"
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yields the rows that can be decoded and their clips, grouped by size."""
        loader = ordered_loader(self, batch_size, num_workers)
        for samples in tqdm(loader, desc=title, unit="batch", disable=not progress, leave=False):
            by_size: dict[torch.Size, dict[int, Tensor]] = {}
            for row, clips, reasons in samples:
                for source, reason in reasons.items():
                    self.broken[source] = self.broken_rows[row] = reason
                if clips is not None:
                    by_size.setdefault(clips.shape, {})[row] = clips
            for group in by_size.values():
                yield list(group), torch.stack(list(group.values()))
        if len(self.broken_rows) == len(self):
            examples = "; ".join(f"{source}: {reason}" for source, reason in list(self.broken.items())[:3])
            raise NothingDecodedError(f"none of the {len(self)} {self.unit} can be decoded: {examples}")


class EvaluationClips(DecodedRows):
    """Evenly spaced clips (clips, frames + extra_frames, channels, height, width) of each video."""

    def __init__(self, rows: datasets.Dataset, processor: ViDiDiVideoProcessor, num_clips: int, extra_frames: int):
        super().__init__(range(len(rows)))
        self.rows = rows.select_columns(["video"]).cast_column("video", datasets.Video(decode=False))
        self.processor = processor
        self.settings: Any = {"num_clips": num_clips, "extra_frames": extra_frames}  # derivatives use up the latter

    def read(self, row: int) -> Tensor:
        video = self.rows[row]["video"]
        if video is None or (video["path"] is None and video["bytes"] is None):
            raise BrokenVideoError(f"row {row}", "there is no video in it")
        return self.processor.sample_clips(video, **self.settings)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode meanwhile; each of its modules gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()  # not inference_mode, because its tensors cannot train a classifier
def iterate_features(
    model: ViDiDiModel, clips: EvaluationClips, orders: Sequence[int], batch_size: int, num_workers: int, progress: bool
) -> Iterator[tuple[list[int], dict[int, Tensor]]]:
    """Yields rows and, by order, features float32 (videos, hidden_size) of each batch."""
    with evaluation_mode(model):
        for rows, batch in clips.batches(batch_size, num_workers, progress):
            views = clips.processor.views(batch.flatten(0, 1).to(model.device, non_blocking=True), orders)
            vectors = {}
            for order, view in zip(orders, views):
                pooled = model(view.to(model.dtype), derivative_order=order).pooler_output
                vectors[order] = pooled.unflatten(0, (len(rows), -1)).mean(1).float().cpu()
            yield rows, vectors


def extract_features(
    model: ViDiDiModel,
    processor: ViDiDiVideoProcessor,
    dataset: datasets.Dataset,
    *,
    orders: Sequence[int] = (0,),
    num_clips: int = 10,
    batch_size: int = 16,
    num_workers: int = 0,
    progress: bool = False,
) -> VideoFeatures:
    """Computes the pooled features of the videos that can be decoded, averaged over evenly spaced clips.

    Source: the retrieval protocol of the authors' code of ViDiDi (arXiv 2409.02371): 10 clips, mean of pooled features.
    """
    clips = EvaluationClips(dataset, processor, num_clips, max(orders, default=0))
    rows: list[int] = []
    parts: list[dict[int, Tensor]] = []
    for batch_rows, features in iterate_features(model, clips, orders, batch_size, num_workers, progress):
        rows += batch_rows
        parts.append(features)
    by_order = {order: torch.cat([part[order] for part in parts]) for order in orders}
    return VideoFeatures(by_order, torch.tensor(rows), clips.broken)


@dataclass
class EmbeddedVideos:
    """The features of a gallery or of queries."""

    features: VideoFeatures
    labels: Tensor  # int64 (videos,)
    groups: Tensor | None = None  # int64 (videos,), numbers of the values of `group_column`


@dataclass
class FrozenEvaluator(metaclass=_AcceptsOldNames):
    """Base of the evaluators of a frozen encoder, which stays in evaluation mode and does not change.

    Args:
        gallery: The labeled videos to search or to learn from: a `Dataset`, or what else `load_video_dataset` takes,
            and then the training split of it.
        queries: The labeled test videos, or a data set whose `split` they are. With `group_column` it may be `gallery`
            itself, which is then embedded once.
        processor: Defines length, stride and size of the clips.
        inputs: What the encoder sees. The first one gives the primary metric.
        num_clips: Clips per video, whose features are averaged.
        batch_size: Videos per forward pass.
        num_workers: Processes that decode videos.
        progress: Whether to show progress bars.
        group_column: A column of both data sets, such as the recording that a clip was cut from. A query is compared
            only with videos that differ in this column. Use it for data sets without a test split.
        dataset: The name of the data set, for the result.
        split: The split of `queries`, for the result.

    Raises:
        ValueError: If a data set lacks labels or `group_column`, an input is unknown, the queries would find
            themselves, the gallery has one class, or, when called, no video can be decoded, `group_column` leaves
            nothing to compare with, or a feature is not finite.
    """

    gallery: datasets.Dataset
    queries: datasets.Dataset
    processor: ViDiDiVideoProcessor
    inputs: Sequence[str] = tuple(INPUTS)
    num_clips: int = 10
    batch_size: int = 16
    num_workers: int = 0
    progress: bool = False
    group_column: str | None = option(default=None, old_names=("leave_out",), help="See above.")
    dataset: str = "unknown"
    split: str = "test"

    task: ClassVar[str]
    known_inputs: ClassVar[tuple[str, ...]] = tuple(INPUTS)
    primary_metric: ClassVar[str]

    def __post_init__(self) -> None:
        self.gallery, self.queries = rows_of(self.gallery, "train"), rows_of(self.queries, self.split)
        for rows, role in ((self.gallery, "gallery"), (self.queries, "query")):
            if "label" not in rows.column_names:
                raise ValueError(f"{self.task} needs labels, and the {role} data set has no column 'label'")
            if self.group_column is not None and self.group_column not in rows.column_names:
                columns = ", ".join(rows.column_names)
                raise ValueError(f"the {role} data set has no column {self.group_column!r} (group_column) in {columns}")
        if self.queries is self.gallery and self.group_column is None:
            raise ValueError("gallery and queries are one data set, so every query would find itself: set group_column")
        check_inputs(self.inputs, self.known_inputs)
        self.gallery, self.queries = with_class_labels(self.gallery, self.queries)
        check_classes(label_names(self.gallery), "the gallery")
        if self.group_column is None and (both := shared_files(self.gallery, self.queries)):
            raise ValueError(
                f"{len(both)} query videos are in the gallery, too, such as {min(both)}: choose other splits"
            )

    def __call__(self, model: ViDiDiModel) -> EvaluationResult:
        """Embeds both data sets and scores the features."""
        return self.score(*self.embed(model))

    def score(self, gallery: EmbeddedVideos, queries: EmbeddedVideos) -> EvaluationResult:
        """Measures with features from `embed`, perhaps with other labels."""
        raise NotImplementedError

    def embed(self, model: ViDiDiModel) -> tuple[EmbeddedVideos, EmbeddedVideos]:
        """Computes the features of gallery and queries."""
        names = ("num_clips", "batch_size", "num_workers", "progress")
        settings: Any = {name: getattr(self, name) for name in names} | {"orders": orders_of(self.inputs)}
        parts = []
        for rows in [self.gallery] if self.queries is self.gallery else [self.gallery, self.queries]:
            features = extract_features(model, self.processor, rows, **settings)
            check_finite(torch.cat(list(features.by_order.values()), dim=1), features.rows, rows)
            parts.append(EmbeddedVideos(features, features.labels(rows)))
        check_classes(parts[0].labels.tolist(), "what can be decoded of the gallery")
        gallery, queries = parts[0], parts[-1]
        if self.group_column is not None:
            columns = [rows[self.group_column][:] for rows in (self.gallery, self.queries)]
            numbers = {value: number for number, value in enumerate(dict.fromkeys([*columns[0], *columns[1]]))}
            searched, asked = (torch.tensor([numbers[value] for value in column]) for column in columns)
            gallery.groups, queries.groups = searched[gallery.features.rows], asked[queries.features.rows]
            if (gallery.groups == gallery.groups[0]).all() and (queries.groups == gallery.groups[0]).any():
                raise ValueError(
                    f"group_column {self.group_column!r} leaves nothing to compare some queries with: "
                    "the videos need at least 2 different values in this column"
                )
        return gallery, queries

    def result(
        self, gallery: EmbeddedVideos, queries: EmbeddedVideos, metrics: dict[str, dict[str, float]], **more: Any
    ) -> EvaluationResult:
        """Builds the result; `more` says how this evaluator measured."""
        protocol = {
            "gallery_videos": len(gallery.labels),
            "query_videos": len(queries.labels),
            "classes": len(torch.cat([gallery.labels, queries.labels]).unique()),
            "clips_per_video": self.num_clips,
            **sampling_facts(self.processor),
            "crop": "center",
            "group_column": self.group_column,
            "failed_videos": sorted(gallery.features.broken | queries.features.broken),
            **more,
        }
        return EvaluationResult(
            self.task, metrics, protocol, self.primary_metric, dataset=self.dataset, split=self.split
        )


def with_class_labels(rows: datasets.Dataset, others: datasets.Dataset) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Numbers the labels of two data sets alike, by name: first the classes of `rows`, then those of `others` only."""
    for part in (rows, others):
        if missing := count_unlabeled(part):
            raise ValueError(f"{missing} of {len(part)} videos have no label")
    kinds = [part.features["label"] for part in (rows, others)]
    is_text = any(isinstance(kind, datasets.Value) and "string" in kind.dtype for kind in kinds)
    if not is_text and (kinds[0] == kinds[1] or not all(isinstance(kind, datasets.ClassLabel) for kind in kinds)):
        return rows, others
    names = list(dict.fromkeys([*_class_names(rows), *_class_names(others)]))
    numbered = _numbered(rows, names)
    return numbered, numbered if others is rows else _numbered(others, names)


def label_names(rows: datasets.Dataset) -> list[str]:
    """Returns the label of each video as text."""
    kind, labels = rows.features["label"], rows["label"][:]
    return kind.int2str(labels) if isinstance(kind, datasets.ClassLabel) else [str(label) for label in labels]


def _class_names(rows: datasets.Dataset) -> list[str]:
    kind = rows.features["label"]
    return kind.names if isinstance(kind, datasets.ClassLabel) else sorted(set(label_names(rows)))


def _numbered(rows: datasets.Dataset, names: list[str]) -> datasets.Dataset:
    labels: Any = [names.index(name) for name in label_names(rows)]
    # The new column comes first, because a data set without columns has no rows.
    rows = rows.add_column("label_number", labels, feature=datasets.ClassLabel(names=names))
    return rows.remove_columns("label").rename_column("label_number", "label")
