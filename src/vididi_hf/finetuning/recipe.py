"""The choices of a fine-tuning run: flags of `vididi finetune` and `vididi detect`, and keys of `finetuning.json`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from vididi_hf.choices_vididi import TRAINED_PARTS
from vididi_hf.data.options import DATASET_HELP, FRAME_DISTANCES, DatasetChoice
from vididi_hf.detection.options import BoxOptions
from vididi_hf.evaluation.inputs import CLASSIFIER_INPUTS, INPUTS
from vididi_hf.options import option
from vididi_hf.pretraining.recipe import PRECISIONS, TRACKERS

RECIPE_FILE = "finetuning.json"
_MILESTONES_HELP = "Shares of the run after which the learning rate is divided by 10."


@dataclass(kw_only=True)
class FinetuningRecipe(DatasetChoice):
    """Every choice of a fine-tuning run. The `help` of a field says what it means.

    A field whose default is None here gets its value from the preset.

    Raises:
        ValueError: If a value is impossible or of the wrong type. The message names the field.

    Source: SGD with its schedule, dropout and the clips of `"paper"`: the authors' code of ViDiDi (arXiv 2409.02371).

    Example:
        >>> recipe = FinetuningRecipe(model="runs/mine", preset="paper", epochs=60)
        >>> recipe.batch_size, [recipe.learning_rate_factor(epoch) for epoch in (29, 30, 40, 50)]
        (128, [1.0, 0.1, 0.01, 0.001])
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # For hundreds of videos on a small machine: fewer epochs, and the clips of pretraining.
        "small": {"epochs": 30, "batch_size": 16, "warmup_epochs": 2.0, "label_smoothing": 0.1},
        # What the authors' code runs.
        "paper": {"epochs": 120, "batch_size": 128, "warmup_epochs": 0.0, "label_smoothing": 0.0}
        | {"num_frames": 16, "frame_stride": 4},
    }
    alternatives = FRAME_DISTANCES

    # Model and data
    model: str = option(may_change=True, help="Folder or Hub id of an encoder or a classifier.")
    random_init: bool = option(default=False, help="Start from random weights, to measure training from scratch.")
    dataset: str = option(default="motion", may_change=True, help=DATASET_HELP)
    train_split: str = option(default="train", help="Split to train on.")
    test_split: str = option(default="test", may_change=True, help="Split to test on, once after the last epoch.")
    output_dir: str = option(default="runs/finetune", may_change=True, help="Folder of the model and all results.")
    preset: str = option(
        default="small",
        choices=tuple(presets),
        may_change=True,
        help="Defaults for few videos, or those of the authors' code.",
    )
    train: str = option(default="all", choices=TRAINED_PARTS, help="Part to train; the rest is frozen.")

    # Input
    inputs: list[str] = option(
        default_factory=lambda: ["frames"],
        choices=tuple(INPUTS),
        help="What the encoder sees. 'frames derivative' alternates by batch.",
    )
    test_inputs: list[str] | None = option(
        default=None,
        choices=CLASSIFIER_INPUTS,
        may_change=True,
        help="Inputs of the test. Default: those of training, and their ensemble.",
    )
    num_frames: int | None = option(default=None, at_least=2, help="Frames per clip. Default: preset or checkpoint.")
    frame_interval: float | None = option(
        default=None, at_least=0.001, help="Seconds between frames. Default: preset or checkpoint."
    )
    frame_stride: int | None = option(default=None, at_least=1, help="Frame distance, instead of seconds.")
    image_size: int | None = option(default=None, at_least=32, help="Pixels per side. Default: the checkpoint's.")
    crop_area: list[float] = option(default_factory=lambda: [0.3, 1.0], help="Shares of the frame that crops cover.")
    flip_probability: float = option(
        default=0.5, at_least=0, at_most=1, help="Probability of a flip. Use 0 if left and right are different classes."
    )
    color_probability: float = option(
        default=0.8, at_least=0, at_most=1, old_names=("colour_probability",), help="Probability of color jitter."
    )

    # Optimization
    epochs: int | None = option(default=None, at_least=1, help="Passes over the videos. Default: preset.")
    batch_size: int | None = option(default=None, at_least=1, help="Videos per batch and process. Default: preset.")
    learning_rate: float = option(default=0.16, at_least=0, help="Peak for a global batch of 128; scales linearly.")
    momentum: float = option(default=0.9, at_least=0, below=1, help="Momentum of SGD.")
    weight_decay: float = option(default=1e-4, at_least=0, help="Weight decay, except for biases and BatchNorm.")
    lr_milestones: list[float] = option(
        default_factory=lambda: [1 / 2, 2 / 3, 5 / 6], old_names=("drops",), help=_MILESTONES_HELP
    )
    warmup_epochs: float | None = option(default=None, at_least=0, help="Epochs of linear warmup. Default: preset.")
    dropout: float = option(default=0.5, at_least=0, below=1, help="Share of the features that dropout removes.")
    label_smoothing: float | None = option(default=None, at_least=0, below=1, help="Label smoothing. Default: preset.")
    mixed_precision: str = option(default="no", choices=PRECISIONS, help="Precision on a GPU.")
    seed: int = option(default=0, at_least=0, help="Seed of all random numbers.")

    # Running
    test_clips: int = option(default=10, at_least=1, may_change=True, help="Evenly spaced clips per test video.")
    test_batch_size: int = option(default=4, at_least=1, may_change=True, help="Test videos per forward pass.")
    num_workers: int = option(default=2, at_least=0, may_change=True, help="Data-loading workers per process.")
    save_epochs: int = option(default=1, at_least=1, may_change=True, help="Epochs between checkpoints.")
    resume: bool = option(default=False, may_change=True, help="Continue from the newest checkpoint, if there is one.")
    accept_changed_data: bool = option(
        default=False, may_change=True, help="Resume although videos were added, removed, replaced or moved."
    )
    tracker: str = option(default="none", choices=TRACKERS, may_change=True, help="Experiment tracker.")
    progress: bool = option(default=True, may_change=True, help="Show progress bars.")

    def __post_init__(self) -> None:
        given = {name: value for name in self.alternatives if (value := getattr(self, name)) is not None}
        for name, value in self.overrule(self.presets.get(self.preset, {}), given).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        super().__post_init__()
        shares = self.lr_milestones
        if shares != sorted(shares) or not all(0 < share <= 1 for share in shares):
            raise ValueError(f"lr_milestones must be rising shares of the run, above 0 and at most 1, got {shares}")
        if len(self.crop_area) != 2 or not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop_area must be two shares 0 < smallest <= largest <= 1, got {self.crop_area}")
        if not self.inputs or len({len(INPUTS[name]) for name in self.inputs}) > 1:
            raise ValueError(f"inputs must be 'both' alone, or some of frames and derivative, got {self.inputs}")
        if not self.test_inputs:
            self.test_inputs = [*self.inputs, "ensemble"] if len(set(self.inputs)) == 2 else list(self.inputs)
        possible = {*self.inputs, *(["ensemble"] if len(set(self.inputs)) == 2 else [])}
        if not possible.issuperset(self.test_inputs):
            raise ValueError(f"a classifier trained with {self.inputs} cannot be tested with {self.test_inputs}")

    @property
    def extra_frames(self) -> int:
        """Extra frames per clip, which the derivatives use up."""
        return max(order for name in self.inputs for order in INPUTS[name])

    def learning_rate_factor(self, epoch: float) -> float:
        """Returns the learning rate as a share of its peak, after a number of epochs that may have a fraction."""
        assert self.epochs is not None
        rise = min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else 1.0
        return rise / 10 ** sum(epoch >= self.epochs * share - 1e-6 for share in self.lr_milestones)


@dataclass(kw_only=True)
class DetectionRecipe(BoxOptions, FinetuningRecipe):
    """Every choice of a run that trains an action detector, as in `FinetuningRecipe`.

    Raises:
        ValueError: If a value is impossible or of the wrong type. The message names the field.

    Example:
        >>> recipe = DetectionRecipe(model="runs/mine", epochs=20)
        >>> recipe.dataset, [recipe.learning_rate_factor(epoch) for epoch in (0, 1, 10, 15)]
        ('jhmdb', [0.0, 1.0, 0.1, 0.01])
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    dataset: str = option(
        default="jhmdb", may_change=True, help="jhmdb, ucf101-24, ava, or any data set with the same box columns."
    )
    output_dir: str = option(default="runs/detection", may_change=True, help="Folder of the model and all results.")
    every: int = option(default=8, at_least=1, help="Train on frames 0, n, 2n … of each video; of AVA, on all.")
    labels: str = option(
        default="auto",
        choices=("auto", "single", "multi"),
        help="single: one class per person (softmax). multi: several (sigmoid). auto: single if all boxes have one.",
    )
    detection_stride: int = option(
        default=16, help="Pixels between features of the last stage: 16 or 8 (r3d_18 and others), 32 or 16 (s3d)."
    )
    epochs: int | None = option(default=20, at_least=1, help="Passes over the key frames.")
    batch_size: int | None = option(default=16, at_least=1, help="Key frames per batch and process.")
    warmup_epochs: float | None = option(default=1.0, at_least=0, help="Epochs of linear warmup.")
    lr_milestones: list[float] = option(
        default_factory=lambda: [1 / 2, 3 / 4], old_names=("drops",), help=_MILESTONES_HELP
    )
    test_batch_size: int = option(default=16, at_least=1, may_change=True, help="Test key frames per forward pass.")

    # Not options of detection
    preset: str = field(default="small", init=False)
    label_smoothing: float | None = field(default=0.0, init=False)
    test_clips: int = field(default=1, init=False)

    @classmethod
    def read_values(cls, path: str | Path) -> dict[str, Any]:
        """Reads some or all fields from a JSON file, except those that are not options of detection."""
        values = super().read_values(path)
        return {spec.name: values[spec.name] for spec in fields(cls) if spec.init and spec.name in values}
