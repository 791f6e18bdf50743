"""All choices of a fine-tuning run in one dataclass: the command line and the file beside the model share it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vididi_hf.classification_vididi import TRAINED_PARTS
from vididi_hf.data.augment import ClipAugmentation
from vididi_hf.evaluation.inputs import CLASSIFIER_INPUTS, INPUTS, check_inputs
from vididi_hf.options import option

RECIPE_FILE = "finetuning.json"

PRESETS: dict[str, dict[str, Any]] = {
    # For hundreds of videos on a small machine: the same optimizer, fewer passes, clips as in pretraining.
    "small": {
        "epochs": 30,
        "batch_size": 16,
        "warmup_epochs": 2.0,
        "label_smoothing": 0.1,
        "num_frames": None,
        "frame_stride": None,
    },
    # What the authors' code of ViDiDi (arXiv 2409.02371) runs.
    "paper": {
        "epochs": 120,
        "batch_size": 128,
        "warmup_epochs": 0.0,
        "label_smoothing": 0.0,
        "num_frames": 16,
        "frame_stride": 4,
    },
}

_CHOICES = {"preset": tuple(PRESETS), "train": TRAINED_PARTS, "mixed_precision": ("no", "bf16", "fp16")}
_SMALLEST = {
    **dict.fromkeys(("epochs", "batch_size", "test_clips", "test_batch_size", "save_epochs", "frame_stride"), 1),
    **dict.fromkeys(("learning_rate", "momentum", "weight_decay", "dropout", "label_smoothing"), 0),
    **dict.fromkeys(("warmup_epochs", "flip_probability", "color_probability", "num_workers", "seed"), 0),
    **{"num_frames": 2, "image_size": 32},
}
_LARGEST = {"flip_probability": 1, "color_probability": 1}
_BELOW = {"dropout": 1, "label_smoothing": 1, "momentum": 1}

# What a resumed run may do differently and still be the same run.
_MAY_CHANGE = frozenset(
    {
        "dataset",
        "dataset_root",
        "model",
        "num_workers",
        "output_dir",
        "preset",
        "progress",
        "resume",
        "save_epochs",
        "test_batch_size",
        "test_clips",
        "test_inputs",
        "test_split",
    }
)


@dataclass(kw_only=True)
class FinetuningRecipe:
    """Every choice of a fine-tuning run.

    A field is a flag of `scripts/finetune.py` and a line of the `finetuning.json` saved beside the model. What each one
    means is in its `help`. Fields whose default is None here get it from the preset.

    Raises:
        ValueError: If a value is impossible; the message names the field.

    Source: SGD and its schedule, dropout and clips of `"paper"`: the fine-tuning recipe of the authors' code of ViDiDi.

    Example:
        ```python
        >>> from vididi_hf.finetuning.recipe import FinetuningRecipe
        >>> recipe = FinetuningRecipe(model="runs/mine", preset="paper", epochs=60)
        >>> recipe.batch_size, [recipe.learning_rate_factor(epoch) for epoch in (29, 30, 40, 50)]
        (128, [1.0, 0.1, 0.01, 0.001])

        ```
    """

    # What to start from and to learn
    model: str = option(help="Folder of a checkpoint, or the id of a model on the Hub: an encoder, or a classifier.")
    random_init: bool = option(
        default=False, help="Replace its weights by random ones: what the labels alone teach this architecture."
    )
    dataset: str = option(
        default="motion",
        help="A set in docs/datasets.md, a folder of videos, a CSV or Parquet list, a saved data set, or a Hub id.",
    )
    dataset_root: str | None = option(default=None, help="Where a built-in set lies or is made: docs/datasets.md.")
    train_split: str = option(default="train", help="The split that is learnt.")
    test_split: str = option(default="test", help="The split that is tested on once, after the last epoch.")
    output_dir: str = option(default="runs/finetune", help="Folder of the classifier, its state and the metrics.")
    preset: str = option(default="small", help=f"Defaults for other options: {' or '.join(PRESETS)}.")
    train: str = option(default="all", help=f"What is trained: {', '.join(TRAINED_PARTS)}; the rest is frozen.")

    # What the network sees
    inputs: list[str] = option(
        default_factory=lambda: ["frames"],
        help="frames, derivative, or both together; 'frames derivative' take turns from batch to batch.",
    )
    test_inputs: list[str] | None = option(
        default=None,
        help=f"What is tested: some of {', '.join(CLASSIFIER_INPUTS)}; by default the inputs of training, and their "
        "ensemble where there are two.",
    )
    num_frames: int | None = option(default=None, help="Frames per clip; the preset's or else the checkpoint's.")
    frame_stride: int | None = option(
        default=None, help="Frames of the video from one of a clip to the next; the preset's or else the checkpoint's."
    )
    image_size: int | None = option(default=None, help="Height and width in pixels; the checkpoint's by default.")
    crop_area: list[float] = option(
        default_factory=lambda: [0.3, 1.0], help="Smallest and largest share of the frame that a crop covers."
    )
    flip_probability: float = option(
        default=0.5, help="Probability of a horizontal flip; 0 where left and right are different classes."
    )
    color_probability: float = option(default=0.8, help="Probability of color jitter.")

    # Optimization
    epochs: int | None = option(default=None, help="Passes over the videos.")
    batch_size: int | None = option(default=None, help="Videos per batch and process.")
    learning_rate: float = option(default=0.16, help="Peak learning rate for a global batch of 128; scaled linearly.")
    momentum: float = option(default=0.9, help="Momentum of SGD.")
    weight_decay: float = option(default=1e-4, help="Weight decay; biases and BatchNorm are exempt.")
    drops: list[float] = option(
        default_factory=lambda: [1 / 2, 2 / 3, 5 / 6],
        help="Shares of the run after which the learning rate falls to a tenth; of 120 epochs after 60, 80 and 100.",
    )
    warmup_epochs: float | None = option(default=None, help="Epochs in which the learning rate rises from 0.")
    dropout: float = option(default=0.5, help="Share of the features that the classifier drops.")
    label_smoothing: float | None = option(default=None, help="Probability that the targets spread over all classes.")
    mixed_precision: str = option(default="no", help="no, bf16 or fp16.")
    seed: int = option(default=0, help="Seed of the classifier, order, clips, augmentation and dropout.")

    # Test and running
    test_clips: int = option(default=10, help="Clips per test video, spread evenly; their probabilities are averaged.")
    test_batch_size: int = option(default=4, help="Test videos per forward pass.")
    num_workers: int = option(default=2, help="Processes that decode and augment, per training process.")
    save_epochs: int = option(default=1, help="Save the state to resume from every so many epochs.")
    resume: bool = option(default=False, help="Continue the run in output_dir, if there is one.")
    progress: bool = option(default=True, help="Show progress bars.")

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        for name, smallest in _SMALLEST.items():
            value = getattr(self, name)
            # Not the other way round: NaN compares false with everything.
            if value is not None and not smallest <= value <= _LARGEST.get(name, math.inf):
                upper = f" and at most {_LARGEST[name]}" if name in _LARGEST else ""
                raise ValueError(f"{name} must be at least {smallest}{upper}, got {value}")
        for name, bound in _BELOW.items():
            if getattr(self, name) >= bound:
                raise ValueError(f"{name} must be below {bound}, got {getattr(self, name)}")
        if self.drops != sorted(self.drops) or not all(0 < drop <= 1 for drop in self.drops):
            raise ValueError(f"drops must be rising shares of the run, above 0 and at most 1, got {self.drops}")
        if len(self.crop_area) != 2 or not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop_area must be two shares 0 < smallest <= largest <= 1, got {self.crop_area}")
        check_inputs(self.inputs, tuple(INPUTS))
        if len({len(INPUTS[name]) for name in self.inputs}) > 1:
            raise ValueError(f"inputs must be 'both' alone, or frames and derivative in turn, got {self.inputs}")
        if self.test_inputs is None:
            self.test_inputs = [*self.inputs, "ensemble"] if len(set(self.inputs)) == 2 else list(self.inputs)
        check_inputs(self.test_inputs, CLASSIFIER_INPUTS)
        if ("both" in self.inputs) != ("both" in self.test_inputs) or ("both" in self.inputs and self.test_inputs[1:]):
            raise ValueError(f"a classifier of {self.inputs} cannot be tested with {self.test_inputs}")

    @property
    def extra_frames(self) -> int:
        """Extra frames per clip, which the derivatives of the inputs use up."""
        return max(order for name in self.inputs for order in INPUTS[name])

    def augmentation(self, image_size: int) -> ClipAugmentation:
        """Builds the augmentation of a training clip: crop, flip and colors."""
        return ClipAugmentation(
            image_size,
            area=(self.crop_area[0], self.crop_area[1]),
            flip_probability=self.flip_probability,
            jitter_probability=self.color_probability,
            gray_probability=0.0,
            blur_probability=0.0,
        )

    def learning_rate_factor(self, epoch: float) -> float:
        """Returns the learning rate as a share of its peak.

        Args:
            epoch: Epochs since the beginning of the run, with their fractions.
        """
        assert self.epochs is not None
        assert self.warmup_epochs is not None
        rise = min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else 1.0
        passed = sum(epoch >= self.epochs * drop - 1e-6 for drop in self.drops)
        return rise / 10**passed

    def save(self, folder: str | Path) -> None:
        """Writes `finetuning.json` into a folder."""
        (Path(folder) / RECIPE_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    def check_continues(self, saved: dict[str, Any]) -> None:
        """Checks that a run with this recipe may go on from the state of a run with another one.

        Args:
            saved: The fields of that run's recipe.

        Raises:
            ValueError: If they differ in what has to stay; the message names the fields and both values.
        """
        changed = [
            f"{name} was {saved.get(name)!r} and is {value!r}"
            for name, value in asdict(self).items()
            if name not in _MAY_CHANGE and value != saved.get(name)
        ]
        if changed:
            raise ValueError(f"a resumed run must be the run that it continues, but {'; '.join(changed)}")
