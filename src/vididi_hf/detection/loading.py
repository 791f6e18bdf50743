"""Training samples of augmented key frames, as a pure function of (seed, epoch, index)."""

from __future__ import annotations

from typing import Any

import datasets
import torch
from torch.utils.data import Dataset

from vididi_hf.data.loading import SampleKey, make_or_replace, stack_frames
from vididi_hf.data.seeding import seeded_random
from vididi_hf.detection.boxes import BoxAugmentation
from vididi_hf.detection.key_frames import KeyFrameReader, class_names


class TrainingKeyFrames(Dataset):
    """Map-style data set from (epoch, index) to an augmented clip around a key frame, with its boxes.

    Key frames without boxes are skipped. A broken video is replaced by another one.
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


def collate_key_frames(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stacks samples of `TrainingKeyFrames` to a batch.

    Returns:
        `clips`: uint8 (batch, frames, 3, height, width). `boxes`: a tensor (boxes, 4) for each clip. `labels`: float32
        (boxes of all clips, classes), 1 for each class of a box. `broken`: the reasons, by name of a replaced video.
    """
    return {
        "clips": stack_frames([sample["clip"] for sample in samples]),
        "boxes": [sample["boxes"] for sample in samples],
        "labels": torch.cat([sample["labels"] for sample in samples]),
        "broken": {name: reason for sample in samples for name, reason in sample["broken"].items()},
    }
