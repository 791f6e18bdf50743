"""Batches of augmented key frames for training, a pure function of (seed, epoch, step, rank)."""

from __future__ import annotations

from typing import Any, TypedDict

import datasets
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vididi_hf.data.loading import EpochBatches, EpochLoader, SampleKey, make_or_replace, stack_frames
from vididi_hf.data.seeding import seeded_random
from vididi_hf.detection.augment import BoxAugmentation
from vididi_hf.detection.key_frames import KeyFrameReader, class_names


class KeyFrameBatch(TypedDict):
    """One batch as the loader yields it.

    `clips`: uint8 (batch, frames, 3, height, width). `boxes`: a tensor (boxes, 4) for each clip. `labels`: float32
    (boxes of all clips, classes), 1 for each class that the person in a box shows. `broken`: reasons by name of the
    videos that could not be decoded and were replaced.
    """

    clips: Tensor
    boxes: list[Tensor]
    labels: Tensor
    broken: dict[str, str]


class TrainingKeyFrames(Dataset):
    """Map-style data set from (epoch, index) to an augmented clip around a key frame, with its boxes.

    Args:
        rows: Key frames; those without boxes are passed over.
        num_frames: Frames per clip.
        stride: Frames of the video from one frame of a clip to the next.
        extra_frames: Extra frames at the end of each clip, one for each derivative order.
        augmentation: What each clip goes through.
        seed: The seed of the augmentation and of the order.

    Raises:
        ValueError: If no row has a box. On access, if a key frame and 20 others, or all others, are broken.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        *,
        num_frames: int,
        stride: int,
        extra_frames: int,
        augmentation: BoxAugmentation,
        seed: int = 0,
    ) -> None:
        with_boxes = [index for index, boxes in enumerate(rows["boxes"]) if boxes]
        if not with_boxes:
            raise ValueError("no key frame has a box")
        self.reader = KeyFrameReader(rows.select(with_boxes), num_frames, stride, extra_frames)
        self.num_classes = len(class_names(rows))
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        epoch, index = key
        return make_or_replace(lambda row: self._sample(row, key), index, range(len(self)), self.seed, epoch)

    def _sample(self, index: int, key: SampleKey) -> dict[str, Any]:
        clip, row = self.reader.read(index)
        generator = seeded_random("detection augmentation", self.seed, *key)
        clip, boxes, kept = self.augmentation(clip, torch.tensor(row["boxes"]), generator)
        labels = torch.zeros(len(kept), self.num_classes)
        for place, box in enumerate(kept.tolist()):
            labels[place, row["box_labels"][box]] = 1
        return {"clip": clip, "boxes": boxes, "labels": labels}


def collate_key_frames(samples: list[dict[str, Any]]) -> KeyFrameBatch:
    """Stacks samples of `TrainingKeyFrames` into a `KeyFrameBatch`."""
    broken: dict[str, str] = {}
    for sample in samples:
        broken |= sample["broken"]
    return {
        "clips": stack_frames([sample["clip"] for sample in samples]),
        "boxes": [sample["boxes"] for sample in samples],
        "labels": torch.cat([sample["labels"] for sample in samples]),
        "broken": broken,
    }


class KeyFrameLoader(EpochLoader[KeyFrameBatch]):
    """Yields the batches of one epoch.

    Args:
        samples: The key frames.
        batch_size: Key frames per batch of one rank.
        num_workers: Worker processes that decode and augment; 0 does it in this process.
        rank: This process.
        world_size: All processes.
        pin_memory: Put batches in page-locked memory.
    """

    def __init__(
        self,
        samples: TrainingKeyFrames,
        batch_size: int,
        *,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        batches = EpochBatches(len(samples), batch_size, seed=samples.seed, rank=rank, world_size=world_size)
        running: dict[str, Any] = {"num_workers": num_workers, "pin_memory": pin_memory}
        super().__init__(samples, batches, collate_key_frames, batch_sampler=batches, **running)
