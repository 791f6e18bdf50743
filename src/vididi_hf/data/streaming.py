"""Train from sharded Parquet without downloading it: the streaming counterpart of `ClipLoader`.

The streams of 🤗 Datasets lose the content of their shuffle buffer when they are resumed, and so skip samples. Here
the order of an epoch is a permutation that is known beforehand, from the footers alone: to resume is to start elsewhere
in it. It is chosen such that whoever walks along it needs few row groups at a time:

1. The row groups come in random order, and the rows of all are counted through.
2. This sequence is cut into equal parts, one for each process, and filled up from its own beginning.
3. Within a part each row waits for a random number of places, up to the shuffle window, and others overtake it.

A process fetches each row group once, ahead of its use, and hands the bytes of a batch to one of its workers, which
decodes. What a batch holds is thus a pure function of (seed, epoch, step, rank), whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vididi_hf.data.decoding import BrokenVideoError
from vididi_hf.data.epochs import EpochLoader, EpochSampler
from vididi_hf.data.loading import ClipBatch, ClipMaker, collate_clips
from vididi_hf.data.parquet_videos import ParquetVideos
from vididi_hf.data.seeding import seeded_generator
from vididi_hf.data.substitutes import SUBSTITUTES, make_or_replace
from vididi_hf.decoding_vididi import source_name

# A batch knows at least so many videos, so that a broken one can be replaced without another fetch.
_CANDIDATES = SUBSTITUTES + 1
# Row groups are fetched for so many batches beyond those that workers have been given.
_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class StreamedBatch:
    """What a worker needs to make a batch.

    Attributes:
        epoch: The epoch.
        asked: The numbers of the videos of the batch.
        videos: The videos by number: those asked for, and where these are few, others to replace broken ones.
    """

    epoch: int
    asked: list[int]
    videos: dict[int, dict[str, Any] | None]


class StreamedClips(Dataset):
    """Makes training samples from the videos that come with a batch, as `TrainingClips` does from a data set.

    Args:
        make_clips: Decodes and augments.
    """

    def __init__(self, make_clips: ClipMaker):
        self.make_clips = make_clips

    def __getitem__(self, batch: StreamedBatch) -> list[dict[str, Any]]:
        """Makes the samples of a batch.

        Raises:
            ValueError: If a video and all that could replace it are broken.
        """
        return [self._sample(batch, index) for index in batch.asked]

    def _sample(self, batch: StreamedBatch, index: int) -> dict[str, Any]:
        def make(row: int) -> dict[str, Any]:
            video = batch.videos[row]
            if video is None:
                raise BrokenVideoError(f"<row {row}>", "the row holds no video")
            clips = self.make_clips(video, (batch.epoch, index))
            return {"clips": clips, "index": index, "row": row, "source": source_name(video)}

        return make_or_replace(make, index, list(batch.videos), self.make_clips.seed, batch.epoch)


class StreamedBatches(EpochSampler[StreamedBatch]):
    """The batches of one rank with the bytes of their videos.

    Args:
        videos: The shards.
        batch_size: Videos per batch of *one* rank.
        shuffle_window: How far, in videos, two can lie apart in the shards' (random) order and still change places. As
            many videos are held in memory at most, beside the rest of their row groups.
        num_threads: Row groups that are fetched at the same time.
        **of_the_rank: `seed`, `rank` and `world_size`, as for `EpochSampler`.

    Raises:
        ValueError: If there are fewer videos than one global batch needs, or the window is not positive.
    """

    def __init__(
        self,
        videos: ParquetVideos,
        batch_size: int,
        *,
        shuffle_window: int = 1024,
        num_threads: int = 4,
        **of_the_rank: int,
    ):
        super().__init__(len(videos), batch_size, **of_the_rank)
        if shuffle_window < 1:
            raise ValueError(f"shuffle_window must be at least 1, got {shuffle_window}")
        self.videos = videos
        self.shuffle_window = shuffle_window
        self.num_threads = num_threads

    def order(self, epoch: int) -> Tensor:
        """Returns the numbers of this rank's videos in an epoch, in order: int64 (steps_per_epoch · batch_size,)."""
        # Row groups in random order, their rows counted through.
        generator = seeded_generator("stream-groups", self.seed, epoch)
        groups = torch.randperm(len(self.videos.group_sizes), generator=generator)
        sizes = self.videos.group_sizes[groups]
        shifts = self.videos.group_starts[groups] - (sizes.cumsum(0) - sizes)
        rows = torch.arange(len(self.videos)) + shifts.repeat_interleave(sizes)
        # This rank's part of it.
        length = self.steps_per_epoch * self.batch_size
        places = torch.arange(self.rank * length, (self.rank + 1) * length)
        rows = rows[places % len(rows)]
        # Rows wait, and others overtake them.
        generator = seeded_generator("stream-rows", self.seed, epoch, self.rank)
        delays = self.shuffle_window * torch.rand(length, generator=generator, dtype=torch.float64)
        return rows[torch.argsort(torch.arange(length) + delays, stable=True)]

    def __iter__(self) -> Iterator[StreamedBatch]:
        epoch, first_step = self.epoch, self.first_step
        order = self.order(epoch)
        asked = order.split(self.batch_size)[first_step:]
        # The candidates of a batch begin with it, except at the end of the order.
        count = min(max(self.batch_size, _CANDIDATES), len(order))
        starts = [min(step * self.batch_size, len(order) - count) for step in range(first_step, self.steps_per_epoch)]
        candidates = [order[start : start + count] for start in starts]
        for rows, videos in zip(asked, self._fetch(candidates)):
            yield StreamedBatch(epoch, rows.tolist(), videos)

    def _fetch(self, batches: list[Tensor]) -> Iterator[dict[int, dict[str, Any] | None]]:
        """Yields the videos of batches of row numbers, holding each row group from its first to its last use."""
        needed = [self.videos.groups_of(rows).unique().tolist() for rows in batches]
        last_use = {group: step for step, groups in enumerate(needed) for group in groups}
        fetched: dict[int, Future[list[dict[str, Any] | None]]] = {}
        requested = 0
        pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="row-groups")
        try:
            for step, rows in enumerate(batches):
                while requested < min(step + 1 + _BATCHES_AHEAD, len(needed)):
                    for group in needed[requested]:
                        if group not in fetched:
                            fetched[group] = pool.submit(self.videos.read_group, group)
                    requested += 1
                groups = self.videos.groups_of(rows)
                offsets = rows - self.videos.group_starts[groups]
                places = zip(rows.tolist(), groups.tolist(), offsets.tolist())
                yield {row: fetched[group].result()[offset] for row, group, offset in places}
                for group in needed[step]:
                    if last_use[group] == step:
                        del fetched[group]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class StreamingClipLoader(EpochLoader[ClipBatch]):
    """Yields the batches of training clips of one epoch, from any step on, from Parquet that lies anywhere.

    It offers what `ClipLoader` offers. `indices` and `rows` of a batch are numbers of videos in the shards.

    Args:
        videos: The shards.
        make_clips: Decodes and augments; its seed is also that of the order.
        batch_size: Videos per batch of one rank.
        num_workers: Worker processes that decode and augment; 0 does it in this process. Fetching is done by threads of
            this process in either case.
        rank: This process.
        world_size: All processes.
        pin_memory: Put batches in page-locked memory, from which a GPU copies while it computes.
        shuffle_window: See `StreamedBatches`.

    Example:
        ```python
        >>> import tempfile
        >>> from vididi_hf import load_video_dataset
        >>> from vididi_hf.data.augment import ClipAugmentation
        >>> from vididi_hf.data.loading import ClipMaker
        >>> from vididi_hf.data.parquet_videos import ParquetVideos, find_shards
        >>> from vididi_hf.data.preparation.prepare import PreparationOptions, prepare_dataset
        >>> from vididi_hf.data.streaming import StreamingClipLoader
        >>> make_clips = ClipMaker(
        ...     num_clips=2, num_frames=8, frame_stride=1, extra_frames=2, augmentation=ClipAugmentation(40), seed=0
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_video_dataset("motion", num_train=8, num_test=8).save_to_disk(f"{folder}/saved")
        ...     options = PreparationOptions(dataset=f"{folder}/saved", output_dir=f"{folder}/shards", splits=["train"])
        ...     options.num_workers, options.progress = 0, False
        ...     _ = prepare_dataset(options)
        ...     videos = ParquetVideos(find_shards(f"{folder}/shards", "train"))
        ...     batch = next(StreamingClipLoader(videos, make_clips, batch_size=4).epoch(0))
        >>> batch["clips"].shape
        torch.Size([4, 2, 10, 3, 40, 40])

        ```
    """

    def __init__(
        self,
        videos: ParquetVideos,
        make_clips: ClipMaker,
        batch_size: int,
        *,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        shuffle_window: int = 1024,
    ):
        batches = StreamedBatches(
            videos,
            batch_size,
            seed=make_clips.seed,
            rank=rank,
            world_size=world_size,
            shuffle_window=shuffle_window,
        )
        # They are batches already: the data loader makes none.
        how: dict[str, Any] = {"sampler": batches, "batch_size": None}
        running: dict[str, Any] = {"num_workers": num_workers, "pin_memory": pin_memory}
        super().__init__(StreamedClips(make_clips), batches, collate_clips, **running, **how)
