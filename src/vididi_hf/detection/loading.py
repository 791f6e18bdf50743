"""Training samples of augmented key frames, as a pure function of (seed, epoch, index)."""

from __future__ import annotations

from typing import Any

import datasets
import torch
from torch.utils.data import Dataset

from vididi_hf.data.augment import ClipAugmentation
from vididi_hf.data.loading import SampleKey, make_or_replace, stack_frames
from vididi_hf.data.seeding import seeded_random
from vididi_hf.detection.boxes import augment_with_boxes
from vididi_hf.detection.key_frames import KeyFrameReader, class_names


class TrainingKeyFrames(Dataset):
    """Maps (epoch, index) to an augmented clip around a key frame that has boxes; `how` goes to `KeyFrameReader`."""

    def __init__(self, rows: datasets.Dataset, augmentation: ClipAugmentation, seed: int = 0, **how: Any) -> None:
        with_boxes = [index for index, boxes in enumerate(rows["boxes"]) if boxes]
        if not with_boxes:
            raise ValueError("no key frame has a box")
        self.reader = KeyFrameReader(rows.select(with_boxes), **how)
        self.rows = self.reader.rows
        self.num_classes, self.augmentation, self.seed = len(class_names(rows)), augmentation, seed

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        def make(index: int) -> dict[str, Any]:
            clip, row = self.reader.read(index)
            generator = seeded_random("detection augmentation", self.seed, *key)
            clip, boxes, kept = augment_with_boxes(self.augmentation, clip, torch.tensor(row["boxes"]), generator)
            labels = torch.zeros(len(kept), self.num_classes)
            for place, box in enumerate(kept.tolist()):
                labels[place, row["box_labels"][box]] = 1
            return {"clip": clip, "boxes": boxes, "labels": labels}

        return make_or_replace(make, key[1], range(len(self)), self.seed, epoch=key[0])


def collate_key_frames(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "clips": stack_frames([sample["clip"] for sample in samples]),  # uint8 (batch, frames, 3, height, width)
        "boxes": [sample["boxes"] for sample in samples],
        "labels": torch.cat([sample["labels"] for sample in samples]),  # float32 (boxes of all clips, classes)
        "broken": {name: reason for sample in samples for name, reason in sample["broken"].items()},
    }
