"""Features of whole data sets: several clips a video, frames or derivatives, averaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from vididi_hf.data.workers import ordered_loader
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import BrokenVideoError, ViDiDiVideoProcessor


@dataclass
class VideoFeatures:
    """Features of the videos of a data set.

    Attributes:
        by_order: For each derivative order, float32 (videos, hidden_size).
        rows: int64 (videos,), the rows of the data set that the features belong to.
        broken: Videos that could not be decoded, with the reasons; they have no row here.
    """

    by_order: dict[int, Tensor]
    rows: Tensor
    broken: dict[str, str] = field(default_factory=dict)

    def labels(self, dataset: datasets.Dataset) -> Tensor:
        """Returns the labels of the videos, int64 (videos,)."""
        return torch.from_numpy(np.asarray(dataset["label"], dtype=np.int64))[self.rows]

    def combined(self, orders: Sequence[int]) -> Tensor:
        """Returns one vector a video: the features of the orders, each of unit length, side by side.

        The cosine of two such vectors is the mean of the orders' cosines: none outweighs another by its length.

        Args:
            orders: Some of the orders in `by_order`.

        Returns:
            float32 (videos, orders · hidden_size).
        """
        return torch.cat([F.normalize(self.by_order[order], dim=-1) for order in orders], dim=-1)


class NothingDecodedError(ValueError):
    """Of some videos, none can be decoded."""


class EvaluationClips(Dataset):
    """The clips that evaluation looks at, decoded and cropped in the workers but still `uint8`.

    Args:
        rows: A data set with a column `video`.
        processor: Chooses, resizes and crops the clips.
        num_clips: Clips per video, spread evenly over it.
        extra_frames: Extra frames per clip, which derivatives use up.

    Attributes:
        broken: Videos that could not be decoded, with the reasons; filled while `batches` is iterated.
        broken_rows: Their rows, with the reasons.
    """

    def __init__(self, rows: datasets.Dataset, processor: ViDiDiVideoProcessor, num_clips: int, extra_frames: int):
        self.rows = rows.select_columns(["video"]).cast_column("video", datasets.Video(decode=False))
        self.processor = processor
        self.num_clips = num_clips
        self.extra_frames = extra_frames
        self.broken: dict[str, str] = {}
        self.broken_rows: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, Tensor | None, dict[str, str]]:
        video = self.rows[index]["video"]
        if video is None:
            return index, None, {f"row {index}": "there is no video in it"}
        try:
            clips = self.processor.sample_clips(video, num_clips=self.num_clips, extra_frames=self.extra_frames)
        except BrokenVideoError as error:
            return index, None, {error.source: error.reason}
        return index, clips, {}

    def batches(
        self, batch_size: int, num_workers: int = 0, progress: bool = False, title: str = "features"
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Iterates over the videos that can be decoded, in their order.

        Args:
            batch_size: Videos per batch.
            num_workers: Processes that decode.
            progress: Whether to show a progress bar.
            title: What the bar is called.

        Yields:
            The rows of the videos, and uint8 (videos, clips, frames + extra_frames, channels, height, width).

        Raises:
            NothingDecodedError: At the end, if no video could be decoded; a `ValueError`.
        """
        loader = ordered_loader(self, batch_size, num_workers)
        nothing_yet = True
        for samples in tqdm(loader, desc=title, unit="batch", disable=not progress, leave=False):
            for index, _, reasons in samples:
                for source, reason in reasons.items():
                    self.broken[source] = self.broken_rows[index] = reason
            good = [(index, clips) for index, clips, _ in samples if clips is not None]
            if good:
                nothing_yet = False
                yield [index for index, _ in good], torch.stack([clips for _, clips in good])
        if nothing_yet:
            examples = "; ".join(f"{source}: {reason}" for source, reason in list(self.broken.items())[:3])
            raise NothingDecodedError(f"none of the {len(self)} videos can be decoded: {examples}")


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode, and afterwards each of its modules into the mode in which it came."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()  # not inference_mode, whose tensors a classifier on top could not be trained with
def iterate_features(
    model: ViDiDiModel,
    clips: EvaluationClips,
    orders: Sequence[int],
    batch_size: int,
    num_workers: int = 0,
    progress: bool = False,
) -> Iterator[tuple[list[int], dict[int, Tensor]]]:
    """Computes features batch by batch; see `extract_features`.

    Args:
        model: The encoder; its device is used.
        clips: The clips of the videos, with as much `extra_frames` as the highest order.
        orders: The derivative orders to embed.
        batch_size: Videos per forward pass.
        num_workers: Processes that decode.
        progress: Whether to show a progress bar.

    Yields:
        The rows of a batch and, for each order, float32 (videos, hidden_size) on the CPU.

    Raises:
        NothingDecodedError: At the end, if no video could be decoded.
    """
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
    """Computes the pooled features of every video, averaged over clips spread evenly over it.

    The model is used in evaluation mode (BatchNorm's running statistics are used and do not move), and each of its
    modules is left in the mode in which it came. Short videos are looped; videos that cannot be decoded are left out
    and named. Nothing is drawn at random.

    Args:
        model: The encoder; its device is used.
        processor: Chooses, resizes and crops the clips; says how many frames a clip has and their stride.
        dataset: A data set with a column `video`.
        orders: The derivative orders to embed: 0 is the frames.
        num_clips: Clips per video.
        batch_size: Videos per forward pass.
        num_workers: Processes that decode.
        progress: Whether to show a progress bar.

    Returns:
        The features of each order, and which rows they belong to.

    Raises:
        ValueError: If no video can be decoded, or an argument is impossible.

    Source: the retrieval protocol of the authors' code of ViDiDi (arXiv 2409.02371): 10 clips, mean of pooled features.

    Example:
        ```python
        >>> from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor, load_video_dataset
        >>> model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(8, 16, 32, 64), depths=(1, 1, 1, 1)))
        >>> rows = load_video_dataset("motion", split="test", num_train=8, num_test=8)
        >>> features = extract_features(model, ViDiDiVideoProcessor(), rows, orders=(0, 1), num_clips=2)
        >>> features.by_order[1].shape
        torch.Size([8, 64])

        ```
    """
    clips = EvaluationClips(dataset, processor, num_clips, max(orders, default=0))
    vectors: dict[int, list[Tensor]] = {order: [] for order in orders}
    rows: list[int] = []
    for batch_rows, features in iterate_features(model, clips, orders, batch_size, num_workers, progress):
        rows += batch_rows
        for order, part in features.items():
            vectors[order].append(part)
    return VideoFeatures(
        {order: torch.cat(parts) for order, parts in vectors.items()}, torch.tensor(rows), clips.broken
    )
