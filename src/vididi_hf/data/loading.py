"""From rows of a video data set to batches of augmented training clips.

The content of a batch depends only on (seed, epoch, step, rank): not on the number of workers, a restart, or speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate
from torchvision.transforms.v2 import functional as vision

from vididi_hf.clips_vididi import frame_step, sample_training_clips
from vididi_hf.data.augment import ClipAugmentation
from vididi_hf.data.decoding import BrokenVideoError, VideoReader
from vididi_hf.data.seeding import seeded_generator, seeded_random
from vididi_hf.data.workers import SteadyLoader
from vididi_hf.decoding_vididi import source_name

if TYPE_CHECKING:
    import datasets

    from vididi_hf.data.inventory import VideoList

SUBSTITUTES = 20  # how many other videos to try in place of a broken one

Asked = TypeVar("Asked")

SampleKey = tuple[int, int]  # (epoch, index of the row)


@dataclass(eq=False)
class EpochSampler(Sampler[Asked]):
    """The batches of one rank, in an order that depends only on (seed, epoch), from any step on.

    Every video comes once per epoch, and the first ones again to fill the last batch, of `batch_size` per rank.
    """

    num_samples: int
    batch_size: int
    _: KW_ONLY
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    sizes: Sequence[int] = ()  # of data sets whose rows follow one another, and
    weights: Sequence[float] = ()  # their shares in an epoch; without weights, an epoch has every row once
    epoch: int = field(default=0, init=False)
    first_step: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.num_samples < self.batch_size * self.world_size:
            needed = f"batch_size {self.batch_size} × {self.world_size} processes; lower batch_size"
            raise ValueError(f"the data set has {self.num_samples} videos, fewer than one global batch: {needed}")

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        self.epoch, self.first_step = epoch, first_step

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_samples // (self.batch_size * self.world_size))

    def __len__(self) -> int:
        return self.steps_per_epoch - self.first_step


class EpochBatches(EpochSampler[list[SampleKey]]):
    """Batches of sample keys in random order."""

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = torch.randperm(self.num_samples, generator=seeded_generator("order", self.seed, self.epoch))
        epochs = torch.full_like(order, self.epoch)
        if self.weights:
            rows = self._weighted()
            # A row that comes again gets other clips: those of a far epoch.
            ordered, places = rows.sort(stable=True)
            again = torch.empty_like(rows)
            again[places] = torch.arange(len(rows)) - torch.searchsorted(ordered, ordered)
            order, epochs = rows[order], (self.epoch + (again << 32))[order]
        global_batch = self.batch_size * self.world_size
        keys = list(zip(epochs.tolist(), order.tolist()))
        keys += keys[: self.steps_per_epoch * global_batch - self.num_samples]
        for step in range(self.first_step, self.steps_per_epoch):
            first = step * global_batch + self.rank * self.batch_size
            yield keys[first : first + self.batch_size]

    def _weighted(self) -> Tensor:
        """The rows of an epoch, int64 (num_samples,), in which each data set has its share.

        Each data set is drawn in one random order after another, through all epochs: all its rows come equally often.
        """
        ends = (torch.tensor(self.weights).double().cumsum(0) / sum(self.weights) * self.num_samples).round().long()
        chosen, start, offset = [], 0, 0
        for number, (size, end) in enumerate(zip(self.sizes, ends.tolist())):
            first = self.epoch * (count := end - start)
            rounds = range(first // size, -(-(first + count) // size))
            drawn = [torch.randperm(size, generator=seeded_generator("mix", self.seed, number, i)) for i in rounds]
            chosen.append(offset + torch.cat([*drawn, torch.empty(0, dtype=torch.int64)])[first % size :][:count])
            start, offset = end, offset + size
        return torch.cat(chosen)


class EpochLoader:
    """The batches of an epoch, from any step on. `how` passes `batches`, their order, and more to the `DataLoader`."""

    def __init__(self, samples: Dataset, batches: EpochSampler, *, num_workers: int = 0, **how: Any):
        self.batches = batches
        self.steps_per_epoch = batches.steps_per_epoch
        how |= {"num_workers": num_workers, "persistent_workers": num_workers > 0}
        self._loader = SteadyLoader(samples, collate_fn=collate_clips, **how)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[ClipBatch]:
        """Iterates over the batches of an epoch, from `first_step` on."""
        self.batches.set_epoch(epoch, first_step)
        return iter(self._loader)


def make_or_replace(
    make: Callable[[int], dict[str, Any]], index: int, rows: Sequence[int], seed: int, epoch: int
) -> dict[str, Any]:
    """Makes the training sample of a row, or of another one of `rows` if `make` raises `BrokenVideoError`.

    The substitute depends only on (seed, epoch, index), so a broken video has another one in every epoch. The sample
    also gets `broken`, the reason for each video that could not be decoded, by name.
    """
    broken: dict[str, str] = {}

    def candidates() -> Iterator[int]:
        yield index
        others = [row for row in rows if row != index]
        order = torch.randperm(len(others), generator=seeded_generator("substitutes", seed, epoch, index))
        yield from (others[place] for place in order[:SUBSTITUTES].tolist())

    for row in candidates():
        try:
            return {**make(row), "broken": broken}
        except BrokenVideoError as error:
            broken[error.source] = error.reason
    listed = "; ".join(f"{source}: {reason}" for source, reason in list(broken.items())[:3])
    raise ValueError(f"{len(broken)} videos in a row cannot be decoded, among them {listed}")


@dataclass
class ClipMaker:
    """Makes the augmented clips of a video from (seed, epoch, index)."""

    num_clips: int
    num_frames: int  # per clip
    frame_stride: int  # distance of the frames of a clip
    extra_frames: int  # at the end of each clip, one per derivative order
    augmentation: ClipAugmentation
    seed: int
    frame_interval: float | None = None  # the same distance in seconds, which then counts
    shorter_side: int | None = None  # to which larger frames are shrunk first
    cache_bytes: int = 0  # that are left in each process to keep decoded frames in memory
    _kept: dict[int, VideoReader] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, video: Any, key: SampleKey, row: int | None = None) -> Tensor:
        """Decodes and augments one video: uint8 (clips, frames, 3, height, width), channels last in memory."""
        reader = self._open(video, row)
        size, length = self.augmentation.image_size, self.num_frames + self.extra_frames
        augmented = torch.empty(self.num_clips, length, size, size, 3, dtype=torch.uint8).movedim(-1, -3)
        # All clips at once, so that frames they share are decoded once; large frames clip by clip.
        step = min(self.num_clips, max(1, reader.frames_at_once // length))
        while True:
            expected, generator = reader.num_frames, seeded_random("augmentation", self.seed, *key)
            for first in range(0, self.num_clips, step):
                part = slice(first, first + step)
                clips = reader.read(
                    partial(self.choose_frames, key, frame_rate=reader.frame_rate, part=part), self._transform
                )
                if first and reader.num_frames != expected:
                    break  # the clips before were chosen from more frames
                expected = reader.num_frames
                for clip, out in zip(clips, augmented[part]):
                    self.augmentation(clip, generator, out)
            else:
                return augmented

    def _open(self, video: Any, row: int | None) -> VideoReader:
        """Opens a video, and keeps its frames if there is room. That changes nothing but the speed."""
        if row in self._kept:
            return self._kept[row]
        reader = VideoReader(video)
        if row is None or 3 * reader.height * reader.width * reader.num_frames > self.cache_bytes:
            return reader
        with suppress(BrokenVideoError):  # a clip of it may do
            if size := reader.keep_frames(self._transform):
                self._kept[row], self.cache_bytes = reader, self.cache_bytes - size
                return reader
        return VideoReader(video)

    @property
    def _transform(self) -> Callable[[Tensor], Tensor] | None:
        return self._shrink if self.shorter_side else None

    def _shrink(self, frames: Tensor) -> Tensor:
        assert self.shorter_side is not None
        is_small = min(frames.shape[-2:]) <= self.shorter_side
        return frames if is_small else vision.resize(frames, [self.shorter_side], antialias=True)

    def choose_frames(
        self, key: SampleKey, num_video_frames: int, frame_rate: float | None = None, part: slice = slice(None)
    ) -> Tensor:
        # A new generator for each call: it is called again if the video is shorter than its header says.
        generator = seeded_random("clip", self.seed, *key)
        step = frame_step(self.num_frames, frame_rate, self.frame_stride, self.frame_interval)
        shape = self.num_clips, self.num_frames, step
        return sample_training_clips(num_video_frames, *shape, generator, self.extra_frames)[part]

    def sample(self, video: dict[str, Any] | None, key: SampleKey, row: int) -> dict[str, Any]:
        if video is None or (video["path"] is None and video["bytes"] is None):
            raise BrokenVideoError(f"<row {row}>", "the row holds no video")
        return {"clips": self(video, key, row), "index": key[1], "row": row, "source": source_name(video)}


class TrainingClips(Dataset):
    """Map-style data set from (epoch, index) to the augmented clips of one video.

    `rows` has a `video` column of type `datasets.Video`. `clips` are the other fields of `ClipMaker`.
    """

    def __init__(self, rows: datasets.Dataset, *, num_clips: int = 2, seed: int = 0, **clips: Any):
        import datasets  # here, because training steps alone need no data-set library

        if "video" not in rows.column_names:
            raise ValueError(f"the data set has no column 'video', only {rows.column_names}")
        if len(rows) == 0:
            raise ValueError("the data set holds no videos")
        # Paths or bytes instead of decoders: a decoder does not survive a fork, so each worker opens its own.
        self.rows = rows.select_columns(["video"]).cast_column("video", datasets.Video(decode=False))
        self.seed = seed
        self._make_clips = ClipMaker(num_clips=num_clips, seed=seed, **clips)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        def make(row: int) -> dict[str, Any]:
            return self._make_clips.sample(self.rows[row]["video"], key, row)

        return make_or_replace(make, key[1], range(len(self)), self.seed, epoch=key[0])


class ClipBatch(TypedDict):
    """One batch. `rows` differ from the requested `indices` where `broken` videos (reasons by name) were replaced."""

    clips: Tensor  # uint8 (batch, clips, frames, 3, height, width), channels last in memory
    indices: Tensor  # int64 (batch,)
    rows: Tensor  # int64 (batch,)
    sources: list[str]  # the files of the rows
    broken: dict[str, str]


def stack_frames(clips: Sequence[Tensor]) -> Tensor:
    """Stacks clips (…, 3, height, width), channels last in memory; `torch.stack` would rearrange every pixel."""
    return default_collate([clip.movedim(-3, -1) for clip in clips]).movedim(-1, -3)


def collate_clips(samples: list[dict[str, Any]]) -> ClipBatch:
    return {
        "clips": stack_frames([sample["clips"] for sample in samples]),
        "indices": torch.tensor([sample["index"] for sample in samples]),
        "rows": torch.tensor([sample["row"] for sample in samples]),
        "sources": [sample["source"] for sample in samples],
        "broken": {name: reason for sample in samples for name, reason in sample["broken"].items()},
    }


class ClipLoader(EpochLoader):
    """The batches of training clips. `batch_size` counts the videos of one rank; `how` is as for `EpochLoader`."""

    def __init__(
        self,
        clips: TrainingClips,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        sizes: Sequence[int] = (),
        weights: Sequence[float] = (),
        **how: Any,
    ):
        order: Any = {"seed": clips.seed, "sizes": sizes, "weights": weights}
        batches = EpochBatches(len(clips), batch_size, rank=rank, world_size=world_size, **order)
        self.rows = clips.rows
        super().__init__(clips, batches, batch_sampler=batches, **how)

    def list_videos(self) -> VideoList:
        """Lists the videos with their sizes."""
        from vididi_hf.data.inventory import VideoList

        return VideoList.of(self.rows)
