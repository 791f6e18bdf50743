"""All choices of a run that trains a detector: those of fine-tuning, and those about key frames and boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import datasets
from torch import Tensor

from vididi_hf.data.registry import ALL_ROWS
from vididi_hf.detection.augment import BoxAugmentation
from vididi_hf.detection.key_frames import load_key_frames
from vididi_hf.detection.sources import BOX_SOURCES, detect_persons, ground_truth_boxes, jittered_boxes, read_detections
from vididi_hf.finetuning.recipe import FinetuningRecipe
from vididi_hf.options import option

LABELS = ("auto", "single", "multi")


@dataclass(kw_only=True)
class BoxOptions:
    """Which key frames are tested, and where their boxes come from. Every field is a flag.

    Raises:
        ValueError: If a value is impossible; the message names the field.
    """

    test_every: int = option(default=1, help="Test frames 0, n, 2n … of each video; of AVA, all key frames are tested.")
    boxes: str = option(
        default="ground_truth", help=f"Where the boxes of the test come from: {', '.join(BOX_SOURCES)}."
    )
    jitter: float = option(
        default=0.1, help="For jittered boxes: how far they move and stretch, as a share of their width and height."
    )
    jitter_seed: int = option(default=0, help="Seed of the jitter.")
    detections: str | None = option(
        default=None,
        help="The file of detected persons, in AVA's format: it is read (boxes: file), or written (boxes: detector; "
        "persons-<detector>.csv in the output folder by default).",
    )
    detector: str = option(
        default="facebook/detr-resnet-50", help="The model for 🤗's object-detection pipeline (boxes: detector)."
    )
    min_score: float = option(default=0.9, help="The least score of a detected person.")

    def __post_init__(self) -> None:
        if self.boxes not in BOX_SOURCES:
            raise ValueError(f"boxes must be one of {', '.join(BOX_SOURCES)}, got {self.boxes!r}")
        if self.boxes == "file" and self.detections is None:
            raise ValueError("boxes from a file need its path: set detections")
        if self.test_every < 1:
            raise ValueError(f"test_every must be at least 1, got {self.test_every}")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter must be at least 0 and below 1, got {self.jitter}")
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score must lie between 0 and 1, got {self.min_score}")

    def load_test_rows(self, dataset: str, root: str | None, split: str) -> datasets.Dataset:
        """Loads the key frames of the test; with detected boxes also those where nobody is annotated."""
        return load_key_frames(
            dataset,
            root=root,
            split=None if split == ALL_ROWS else split,
            every=self.test_every,
            include_empty=self.boxes in ("file", "detector"),
        )

    def load_boxes(self, rows: datasets.Dataset, output: Path, progress: bool) -> tuple[list[Tensor], str]:
        """Gets the boxes of the test.

        Args:
            rows: The key frames.
            output: The folder of the results.
            progress: Whether to show a progress bar.

        Returns:
            The boxes of each row, and where they come from, in words.
        """
        if self.boxes == "jittered":
            return jittered_boxes(rows, self.jitter, self.jitter_seed), f"ground truth, jittered by {self.jitter:g}"
        if self.boxes == "file":
            assert self.detections is not None
            found = read_detections(self.detections, rows, self.min_score)
            return found, f"file, score >= {self.min_score:g}"
        if self.boxes == "detector":
            from transformers import pipeline

            # Not before a picture needs it: where all are in the file, it need not even be downloaded.
            load = cache(partial(pipeline, "object-detection", model=self.detector))
            # Named after the detector, lest another one's persons be taken for its own.
            path = Path(self.detections or output / f"persons-{Path(self.detector).name}.csv")
            found = detect_persons(
                rows, lambda image, **options: load()(image, **options), path, self.min_score, progress
            )
            return found, f"{self.detector}, score >= {self.min_score:g}"
        return ground_truth_boxes(rows), "ground truth"


def _fixed(value: Any) -> Any:
    """A choice of fine-tuning that has no meaning in detection: no flag, and this value."""
    return field(default=value, init=False)


@dataclass(kw_only=True)
class DetectionRecipe(BoxOptions, FinetuningRecipe):
    """Every choice of a run that trains a detector of actions on a pretrained encoder.

    A field is a flag of `scripts/finetune_detection.py` and a line of the `finetuning.json` saved beside the model.

    Raises:
        ValueError: If a value is impossible; the message names the field.

    Example:
        ```python
        >>> from vididi_hf.finetuning.detection_recipe import DetectionRecipe
        >>> recipe = DetectionRecipe(model="runs/mine", epochs=20)
        >>> recipe.dataset, [recipe.learning_rate_factor(epoch) for epoch in (0, 1, 10, 15)]
        ('jhmdb', [0.0, 1.0, 0.1, 0.01])

        ```
    """

    dataset: str = option(default="jhmdb", help="jhmdb, ucf101-24, ava, or any data set with their columns of boxes.")
    output_dir: str = option(default="runs/detection", help="Folder of the detector, its state and the results.")
    every: int = option(
        default=8, help="Learn frames 0, n, 2n … of each video, as neighbors are alike; of AVA, all key frames."
    )
    labels: str = option(
        default="auto",
        help="single: one class a person, softmax; multi: several, a sigmoid each; auto: multi if a training box has "
        "not exactly one.",
    )
    detection_stride: int = option(
        default=16, help="Pixels between features of the last stage: 16 or 8 (R networks), 32 or 16 (S3D)."
    )
    epochs: int | None = option(default=20, help="Passes over the key frames.")
    batch_size: int | None = option(default=16, help="Key frames per batch and process.")
    warmup_epochs: float | None = option(default=1.0, help="Epochs in which the learning rate rises from 0.")
    drops: list[float] = option(
        default_factory=lambda: [1 / 2, 3 / 4],
        help="Shares of the run after which the learning rate falls to a tenth; of 20 epochs after 10 and 15.",
    )
    test_batch_size: int = option(default=16, help="Key frames of the test per forward pass.")

    preset: str = _fixed("small")
    label_smoothing: float | None = _fixed(0.0)
    test_clips: int = _fixed(1)

    def __post_init__(self) -> None:
        BoxOptions.__post_init__(self)
        FinetuningRecipe.__post_init__(self)
        if self.labels not in LABELS:
            raise ValueError(f"labels must be one of {', '.join(LABELS)}, got {self.labels!r}")
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")

    def box_augmentation(self, image_size: int) -> BoxAugmentation:
        """Builds the augmentation of a training clip with its boxes."""
        return BoxAugmentation(
            image_size,
            area=(self.crop_area[0], self.crop_area[1]),
            flip_probability=self.flip_probability,
            color_probability=self.color_probability,
        )
