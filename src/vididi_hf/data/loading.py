"""From rows of a video data set to batches of augmented training clips.

What a batch holds is a pure function of (seed, epoch, step, rank): the order of the videos, the frames of each clip and
its augmentation depend on nothing else. The number of workers, a restart, the machine's speed change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

import datasets
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from vididi_hf.data.augment import ClipAugmentation
from vididi_hf.data.clips import sample_training_clips
from vididi_hf.data.decoding import BrokenVideoError, decode_clips
from vididi_hf.data.epochs import EpochBatches, EpochLoader, SampleKey
from vididi_hf.data.seeding import seeded_random
from vididi_hf.data.substitutes import make_or_replace
from vididi_hf.decoding_vididi import source_name


class ClipBatch(TypedDict):
    """One batch as the loader yields it.

    `clips`: uint8 (batch, clips, frames, 3, height, width), channels last in memory. `indices`: int64 (batch,), the
    rows that were *asked for*. `rows`: int64 (batch,), the rows that the clips come from, and whose labels are theirs.
    `sources`: their files. `broken`: reasons by name of the videos that could not be decoded and were replaced.
    """

    clips: Tensor
    indices: Tensor
    rows: Tensor
    sources: list[str]
    broken: dict[str, str]


@dataclass(frozen=True)
class ClipMaker:
    """Makes the augmented clips of a video, as a pure function of (seed, epoch, index of the sample).

    Attributes: see the arguments of `TrainingClips`.
    """

    num_clips: int
    num_frames: int
    frame_stride: int
    extra_frames: int
    augmentation: ClipAugmentation
    seed: int

    def __call__(self, video: Any, key: SampleKey) -> Tensor:
        """Decodes and augments the clips of one video.

        Args:
            video: What `decode_clips` takes.
            key: What the choice of frames and the augmentation depend on.

        Returns:
            uint8 (clips, frames, 3, height, width), channels last in memory.

        Raises:
            BrokenVideoError: If the video cannot be decoded.
        """
        clips = decode_clips(video, partial(self.choose_frames, key))
        generator = seeded_random("augmentation", self.seed, *key)
        size = self.augmentation.image_size
        augmented = torch.empty(*clips.shape[:2], size, size, 3, dtype=torch.uint8).movedim(-1, -3)
        for clip, out in zip(clips, augmented):
            self.augmentation(clip, generator, out)
        return augmented

    def choose_frames(self, key: SampleKey, num_video_frames: int) -> Tensor:
        """Chooses the frames of the clips of a video of so many frames: int64 (clips, frames)."""
        # A generator of its own each time: a video that proves shorter than promised is asked for again.
        return sample_training_clips(
            num_video_frames,
            num_clips=self.num_clips,
            num_frames=self.num_frames,
            stride=self.frame_stride,
            generator=seeded_random("clip", self.seed, *key),
            extra_frames=self.extra_frames,
        )


class TrainingClips(Dataset):
    """Map-style data set from (epoch, index) to the augmented clips of one video.

    Args:
        rows: A data set with a `video` column of type `datasets.Video`.
        num_clips: Clips per video.
        num_frames: Frames per clip.
        frame_stride: Frames of the video from one frame of a clip to the next.
        extra_frames: Extra frames at the end of each clip, one for each derivative order.
        augmentation: What each clip goes through.
        seed: The seed of clip choice and augmentation.

    Raises:
        ValueError: If `rows` is empty or has no `video` column. On access, if a video and 20 others, or all others, are
            broken.

    Example:
        ```python
        >>> from vididi_hf import load_video_dataset
        >>> from vididi_hf.data.augment import ClipAugmentation
        >>> from vididi_hf.data.loading import TrainingClips
        >>> rows = load_video_dataset("motion", num_train=8, num_test=8)
        >>> clips = TrainingClips(rows, num_frames=8, frame_stride=1, extra_frames=2, augmentation=ClipAugmentation(40))
        >>> epoch, index = 0, 5
        >>> clips[epoch, index]["clips"].shape
        torch.Size([2, 10, 3, 40, 40])

        ```
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
        if "video" not in rows.column_names:
            raise ValueError(f"the data set has no column 'video', only {rows.column_names}")
        if len(rows) == 0:
            raise ValueError("the data set holds no videos")
        # Paths or bytes, not decoders: each worker opens its own, since a decoder does not survive a fork.
        self.rows = rows.select_columns(["video"]).cast_column("video", datasets.Video(decode=False))
        self.seed = seed
        self._make_clips = ClipMaker(num_clips, num_frames, frame_stride, extra_frames, augmentation, seed)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        epoch, index = key

        def make(row: int) -> dict[str, Any]:
            video = self._video(row)
            return {"clips": self._make_clips(video, key), "index": index, "row": row, "source": source_name(video)}

        return make_or_replace(make, index, range(len(self)), self.seed, epoch)

    def _video(self, row: int) -> dict[str, Any]:
        video = self.rows[row]["video"]
        if video is None or (video["path"] is None and video["bytes"] is None):
            raise BrokenVideoError(f"<row {row}>", "the row holds no video")
        return video


def stack_frames(clips: Sequence[Tensor]) -> Tensor:
    """Stacks clips (…, 3, height, width) to (clips, …, 3, height, width), with channels last in memory.

    This is how frames are decoded and augmented, and how convolutions like their input best: `torch.stack` would sort
    every pixel into planes on the way. Where a worker of a `DataLoader` does it, the result lies in shared memory.
    """
    return default_collate([clip.movedim(-3, -1) for clip in clips]).movedim(-1, -3)


def collate_clips(samples: list[dict[str, Any]]) -> ClipBatch:
    """Stacks samples of `TrainingClips` into a `ClipBatch`."""
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

    Args:
        clips: The samples.
        batch_size: Videos per batch of one rank.
        num_workers: Worker processes that decode and augment; 0 does it in this process.
        rank: This process.
        world_size: All processes.
        pin_memory: Put batches in page-locked memory, from which a GPU copies while it computes.
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
