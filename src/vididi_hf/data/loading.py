"""From rows of a video data set to batches of augmented training clips.

The content of a batch depends only on (seed, epoch, step, rank): not on the number of workers, a restart, or speed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from vididi_hf.data.augment import ClipAugmentation
from vididi_hf.data.clips import sample_training_clips
from vididi_hf.data.decoding import BrokenVideoError, decode_clips
from vididi_hf.data.seeding import seeded_generator, seeded_random
from vididi_hf.data.workers import leave_process_group
from vididi_hf.decoding_vididi import source_name

if TYPE_CHECKING:
    import datasets

# How many other videos to try in place of a broken one. If all are broken, the data set is at fault.
SUBSTITUTES = 20

Batch = TypeVar("Batch")
Asked = TypeVar("Asked")

SampleKey = tuple[int, int]
"""(epoch, index of the row): all that a worker needs to make a training sample."""


# The order of an epoch


@dataclass(eq=False)
class EpochSampler(Sampler[Asked]):
    """The batches of one rank, in an order that depends only on (seed, epoch), from any step on.

    Every video comes once per epoch. If the last global batch is short, it is filled up with the first videos of the
    same epoch, so that all processes have equally many equal batches. `batch_size` counts the videos of one rank.
    """

    num_samples: int
    batch_size: int
    _: KW_ONLY
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    epoch: int = field(default=0, init=False)
    first_step: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.num_samples < self.batch_size * self.world_size:
            raise ValueError(
                f"the data set has {self.num_samples} videos, fewer than one global batch: "
                f"batch_size {self.batch_size} × {self.world_size} processes; lower batch_size"
            )

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Chooses the epoch and the first step of the next iteration."""
        self.epoch, self.first_step = epoch, first_step

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of a whole epoch."""
        return -(-self.num_samples // (self.batch_size * self.world_size))

    def __len__(self) -> int:
        return self.steps_per_epoch - self.first_step

    @abstractmethod
    def __iter__(self) -> Iterator[Asked]:
        """Yields the content of each batch, from the chosen step on."""


class EpochBatches(EpochSampler[list[SampleKey]]):
    """Batches of sample keys in random order."""

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = torch.randperm(self.num_samples, generator=seeded_generator("order", self.seed, self.epoch))
        global_batch = self.batch_size * self.world_size
        order = torch.cat([order, order[: self.steps_per_epoch * global_batch - self.num_samples]])
        for step in range(self.first_step, self.steps_per_epoch):
            first = step * global_batch + self.rank * self.batch_size
            yield [(self.epoch, index) for index in order[first : first + self.batch_size].tolist()]


class EpochLoader(Generic[Batch]):
    """Yields the batches of one epoch, from any step on. `how` passes `batches`, their order, to the `DataLoader`."""

    def __init__(
        self,
        samples: Dataset,
        batches: EpochSampler,
        collate: Callable[[Any], Batch],
        *,
        num_workers: int,
        pin_memory: bool,
        **how: Any,
    ):
        self.batches = batches
        self._loader = DataLoader(
            samples,
            collate_fn=collate,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            worker_init_fn=leave_process_group,
            # No draw depends on torch's global generator. Without its own, a loader would advance it.
            generator=torch.Generator(),
            **how,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of a whole epoch."""
        return self.batches.steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Iterates over the batches of an epoch, from `first_step` on."""
        self.batches.set_epoch(epoch, first_step)
        return iter(self._loader)


# Samples


def make_or_replace(
    make: Callable[[int], dict[str, Any]], index: int, rows: Sequence[int], seed: int, epoch: int
) -> dict[str, Any]:
    """Makes the training sample of a row, or of another one of `rows` if its video is broken.

    The substitute depends only on (seed, epoch, index), so a broken video has another one in every epoch. `make` raises
    `BrokenVideoError`. The sample also gets `broken`, the reason for each video that could not be decoded, by name.
    """
    broken: dict[str, str] = {}
    for row in _candidates(index, rows, seed, epoch):
        try:
            return {**make(row), "broken": broken}
        except BrokenVideoError as error:
            broken[error.source] = error.reason
    listed = "; ".join(f"{source}: {reason}" for source, reason in list(broken.items())[:3])
    raise ValueError(f"{len(broken)} videos in a row cannot be decoded, among them {listed}")


def _candidates(index: int, rows: Sequence[int], seed: int, epoch: int) -> Iterator[int]:
    yield index
    others = [row for row in rows if row != index]
    order = torch.randperm(len(others), generator=seeded_generator("substitutes", seed, epoch, index))
    yield from (others[place] for place in order[:SUBSTITUTES].tolist())


@dataclass(frozen=True)
class ClipMaker:
    """Makes the augmented clips of a video from (seed, epoch, index); see `TrainingClips` for the attributes."""

    num_clips: int
    num_frames: int
    frame_stride: int
    extra_frames: int
    augmentation: ClipAugmentation
    seed: int

    def __call__(self, video: Any, key: SampleKey) -> Tensor:
        """Decodes and augments one video: uint8 (clips, frames, 3, height, width), channels last in memory."""
        clips = decode_clips(video, partial(self.choose_frames, key))
        generator = seeded_random("augmentation", self.seed, *key)
        size = self.augmentation.image_size
        augmented = torch.empty(*clips.shape[:2], size, size, 3, dtype=torch.uint8).movedim(-1, -3)
        for clip, out in zip(clips, augmented):
            self.augmentation(clip, generator, out)
        return augmented

    def choose_frames(self, key: SampleKey, num_video_frames: int) -> Tensor:
        """Chooses the frames of each clip: int64 (clips, frames)."""
        # A new generator for each call: it is called again if the video is shorter than its header says.
        generator = seeded_random("clip", self.seed, *key)
        shape = self.num_clips, self.num_frames, self.frame_stride
        return sample_training_clips(num_video_frames, *shape, generator, self.extra_frames)

    def sample(self, video: dict[str, Any] | None, key: SampleKey, row: int) -> dict[str, Any]:
        """Makes the training sample `key` from the video of a row."""
        if video is None or (video["path"] is None and video["bytes"] is None):
            raise BrokenVideoError(f"<row {row}>", "the row holds no video")
        return {"clips": self(video, key), "index": key[1], "row": row, "source": source_name(video)}


class TrainingClips(Dataset):
    """Map-style data set from (epoch, index) to the augmented clips of one video.

    Args:
        rows: A data set with a `video` column of type `datasets.Video`.
        num_clips: Clips per video.
        num_frames: Frames per clip.
        frame_stride: Distance of the frames of a clip, in video frames.
        extra_frames: Extra frames at the end of each clip, one per derivative order.
        augmentation: Augmentation of each clip.
        seed: Seed of the choice of frames and of the augmentation.

    Example:
        >>> from vididi_hf import load_video_dataset
        >>> rows = load_video_dataset("motion", num_train=8, num_test=8)
        >>> clips = TrainingClips(rows, num_frames=8, frame_stride=1, extra_frames=2, augmentation=ClipAugmentation(40))
        >>> epoch, index = 0, 5
        >>> clips[epoch, index]["clips"].shape
        torch.Size([2, 10, 3, 40, 40])
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        *,
        num_clips: int = 2,
        num_frames: int,
        frame_stride: int,
        extra_frames: int,
        augmentation: ClipAugmentation,
        seed: int = 0,
    ):
        import datasets  # here, because machines without it use the rest of this module

        if "video" not in rows.column_names:
            raise ValueError(f"the data set has no column 'video', only {rows.column_names}")
        if len(rows) == 0:
            raise ValueError("the data set holds no videos")
        # Paths or bytes instead of decoders: a decoder does not survive a fork, so each worker opens its own.
        self.rows = rows.select_columns(["video"]).cast_column("video", datasets.Video(decode=False))
        self.seed = seed
        self._make_clips = ClipMaker(num_clips, num_frames, frame_stride, extra_frames, augmentation, seed)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        def make(row: int) -> dict[str, Any]:
            return self._make_clips.sample(self.rows[row]["video"], key, row)

        return make_or_replace(make, key[1], range(len(self)), self.seed, epoch=key[0])


# Batches


class ClipBatch(TypedDict):
    """One batch. `rows` differ from the requested `indices` where `broken` videos (reasons by name) were replaced."""

    clips: Tensor  # uint8 (batch, clips, frames, 3, height, width), channels last in memory
    indices: Tensor  # int64 (batch,)
    rows: Tensor  # int64 (batch,)
    sources: list[str]  # the files of the rows
    broken: dict[str, str]


def stack_frames(clips: Sequence[Tensor]) -> Tensor:
    """Stacks clips (…, 3, height, width), channels last in memory, which convolutions prefer.

    `torch.stack` would rearrange every pixel. In a `DataLoader` worker, the result lies in shared memory.
    """
    return default_collate([clip.movedim(-3, -1) for clip in clips]).movedim(-1, -3)


def collate_clips(samples: list[dict[str, Any]]) -> ClipBatch:
    broken: dict[str, str] = {}
    for sample in samples:
        broken |= sample["broken"]
    return {
        "clips": stack_frames([sample["clips"] for sample in samples]),
        "indices": torch.tensor([sample["index"] for sample in samples]),
        "rows": torch.tensor([sample["row"] for sample in samples]),
        "sources": [sample["source"] for sample in samples],
        "broken": broken,
    }


class ClipLoader(EpochLoader[ClipBatch]):
    """Yields the batches of training clips of one epoch, from any step on.

    `batch_size` counts the videos of one rank. `num_workers` processes decode and augment; 0 uses this process.
    """

    def __init__(
        self,
        clips: TrainingClips,
        batch_size: int,
        *,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ):
        batches = EpochBatches(len(clips), batch_size, seed=clips.seed, rank=rank, world_size=world_size)
        running: dict[str, Any] = {"num_workers": num_workers, "pin_memory": pin_memory}
        super().__init__(clips, batches, collate_clips, batch_sampler=batches, **running)
