"""All choices of a pretraining run in one dataclass: the command line, the JSON file and the checkpoint share it."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from transformers import HfArgumentParser
from transformers.hf_argparser import HfArg

from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.data.augment import ClipAugmentation
from vididi_hf.pretraining.schedule import SCHEDULES, AlternatingSchedule

RECIPE_FILE = "recipe.json"

PRESETS: dict[str, dict[str, Any]] = {
    # What we recommend; the fields' own defaults.
    "clean": {},
    # What the authors ran (RECIPE: their code): flicker in the colours, loss scaled by 1/25, LARS for 400 epochs in fp16.
    "paper": {
        "per_frame_colour": True,
        "optimizer": "lars",
        "learning_rate": 4.8,
        "weight_decay": 1e-6,
        "epochs": 400,
        "batch_size": 8,  # on each of 8 GPUs: 64 in all
        "mixed_precision": "fp16",
        "max_grad_norm": 0.0,
    },
}
_PAPER_VICREG_WEIGHTS = {"invariance_weight": 1.0, "variance_weight": 1.0, "covariance_weight": 0.04}

ObjectiveName = Literal["vicreg", "byol", "simclr"]


@dataclass
class PretrainingRecipe:
    """Every choice of a pretraining run.

    A field is a flag of `scripts/pretrain.py`, a key of the JSON file that `--config` reads, and a line of the `recipe.json`
    saved beside every checkpoint. What each one means is in its `help`.

    Raises:
        ValueError: If a value is impossible; the message names the field.

    Example:
        ```python
        >>> from vididi_hf.pretraining.recipe import PretrainingRecipe
        >>> PretrainingRecipe(schedule="baseline", epochs=3).model_config().hidden_size
        512

        ```
    """

    # What to learn from
    dataset: str = HfArg(
        default="motion",
        help="A built-in set, a folder of videos, a CSV or Parquet list, a saved data set, or a data set's id on the Hub.",
    )
    dataset_root: str | None = HfArg(default=None, help="Where a built-in set lies, or shall be made.")
    split: str = HfArg(default="train", help="The split to train on; labels are not used.")
    output_dir: str = HfArg(default="runs/pretrain", help="Folder of the encoder, the checkpoints and metrics.jsonl.")

    # What to learn
    preset: str = HfArg(default="clean", help=f"Defaults for all other options: {' or '.join(PRESETS)}.")
    objective: str = HfArg(default="vicreg", help="vicreg, byol or simclr.")
    schedule: str = HfArg(default="paper", help=f"Derivative orders of the two views: {', '.join(SCHEDULES)}.")
    projector_sizes: list[int] | None = HfArg(
        default=None, help="Widths of the projector; the objective's own by default."
    )
    view_forward: str = HfArg(
        default="separate",
        help="One forward pass per view (BatchNorm sees one derivative order at a time), or one 'joint' pass.",
    )

    # The encoder and its input
    backbone: str = HfArg(default="r3d_18", help="r3d_18, r2plus1d_18, mc3_18 or s3d.")
    hidden_sizes: list[int] | None = HfArg(default=None, help="Widths of the four stages (not s3d); 64 128 256 512.")
    depths: list[int] | None = HfArg(default=None, help="Blocks of the four stages (not s3d); 2 2 2 2.")
    num_frames: int = HfArg(default=8, help="Frames per clip that the encoder sees.")
    frame_stride: int = HfArg(default=3, help="Frames of the video from one frame of a clip to the next.")
    image_size: int = HfArg(default=112, help="Height and width of the input in pixels.")

    # Augmentation
    crop_area: list[float] = HfArg(
        default_factory=lambda: [0.08, 1.0], help="Smallest and largest share of the frame that a crop covers."
    )
    per_frame_colour: bool = HfArg(
        default=False, help="Draw colour jitter for each frame (the authors' code: flicker) instead of once a clip."
    )

    # Optimisation
    epochs: int = HfArg(default=100, help="Passes over the videos.")
    batch_size: int = HfArg(default=64, help="Videos per batch and process.")
    optimizer: str = HfArg(default="lars", help="lars, adamw or sgd.")
    learning_rate: float = HfArg(default=4.8, help="Peak learning rate for a global batch of 256; scaled linearly.")
    weight_decay: float = HfArg(default=1e-6, help="Weight decay; biases and BatchNorm are exempt.")
    warmup_epochs: float = HfArg(default=10.0, help="Epochs of linear warm-up (at most a tenth of the run).")
    final_learning_rate: float = HfArg(default=1e-3, help="End of the cosine, as a fraction of the peak.")
    target_decay: float = HfArg(default=0.99, help="BYOL: first decay of the moving average; rises to 1 on a cosine.")
    max_grad_norm: float = HfArg(default=0.0, help="Clip the gradient's norm to this; 0 does not clip.")
    mixed_precision: str = HfArg(default="no", help="no, bf16 or fp16.")
    activation_checkpointing: bool = HfArg(
        default=False, help="Recompute activations in the backward pass: less memory."
    )
    seed: int = HfArg(default=0, help="Seed of initialisation, order, clips, augmentation and schedule.")

    # Running
    num_workers: int = HfArg(default=2, help="Processes that decode and augment, per training process.")
    save_epochs: int = HfArg(default=10, help="Write a checkpoint every so many epochs, and at the end.")
    save_steps: int = HfArg(default=0, help="Also write one every so many steps; 0 does not.")
    keep_checkpoints: int = HfArg(default=2, help="Keep the newest so many checkpoints.")
    resume: bool = HfArg(default=False, help="Continue from the newest checkpoint in output_dir, if there is one.")
    evaluate_epochs: int = HfArg(default=0, help="Retrieval on train/test labels every so many epochs; 0 never.")
    tracker: str = HfArg(default="none", help="none, tensorboard, trackio or wandb.")
    progress: bool = HfArg(default=True, help="Show a progress bar.")

    def __post_init__(self) -> None:
        choices = {
            "preset": tuple(PRESETS),
            "objective": get_args(ObjectiveName),
            "schedule": tuple(SCHEDULES),
            "optimizer": ("lars", "adamw", "sgd"),
            "mixed_precision": ("no", "bf16", "fp16"),
            "tracker": ("none", "tensorboard", "trackio", "wandb"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("epochs", "batch_size", "frame_stride", "save_epochs", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in (
            "learning_rate",
            "weight_decay",
            "warmup_epochs",
            "max_grad_norm",
            "num_workers",
            "save_steps",
            "evaluate_epochs",
            "seed",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if len(self.crop_area) != 2 or not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop_area must be two shares 0 < smallest <= largest <= 1, got {self.crop_area}")
        self.model_config()  # its own checks: a wrong backbone or size stops here, before any data is touched

    def model_config(self) -> ViDiDiConfig:
        """Builds the configuration of the encoder and its objective."""
        options: dict[str, Any] = {}
        if self.projector_sizes:
            options["projector_sizes"] = self.projector_sizes
        if self.preset == "paper" and self.objective == "vicreg":
            options |= _PAPER_VICREG_WEIGHTS
        shape = {name: getattr(self, name) for name in ("hidden_sizes", "depths") if getattr(self, name)}
        return ViDiDiConfig(
            backbone=self.backbone,
            num_frames=self.num_frames,
            image_size=self.image_size,
            derivative_orders=tuple(range(self.build_schedule().max_order + 1)),
            objective=self.objective,
            objective_options=options,
            view_forward=self.view_forward,
            **shape,
        )

    def build_schedule(self) -> AlternatingSchedule:
        """Builds the schedule of derivative orders."""
        return AlternatingSchedule.from_preset(self.schedule, seed=self.seed)

    def augmentation(self) -> ClipAugmentation:
        """Builds the augmentation of a training clip."""
        area = (self.crop_area[0], self.crop_area[1])
        return ClipAugmentation(self.image_size, area=area, per_frame_colour=self.per_frame_colour)

    def save(self, folder: str | Path) -> None:
        """Writes `recipe.json` into a folder."""
        (Path(folder) / RECIPE_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")


def read_recipe_file(path: str | Path) -> dict[str, Any]:
    """Reads a JSON file of recipe fields, `recipe.json` or one written by hand with only some of them.

    Raises:
        ValueError: If it is not a JSON object or names a field that does not exist.
    """
    try:
        values = json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    known = {f.name for f in fields(PretrainingRecipe)}
    unknown = sorted(set(values) - known) if isinstance(values, dict) else ["(not an object)"]
    if unknown:
        raise ValueError(f"{path} holds what is no field of the recipe: {', '.join(unknown)}")
    return values


def parse_recipe(arguments: Sequence[str] | None = None, description: str | None = None) -> PretrainingRecipe:
    """Makes a recipe from command-line arguments.

    Precedence, weakest first: the fields' defaults, `--preset`, the file of `--config`, the flags.

    Args:
        arguments: The arguments; those of the process by default.
        description: The first lines of `--help`.

    Returns:
        The checked recipe. A wrong flag or value ends the process with a message that names it.
    """
    early = ArgumentParser(add_help=False)
    early.add_argument("--config")
    early.add_argument("--preset")
    chosen, _ = early.parse_known_args(arguments)

    parser = HfArgumentParser([PretrainingRecipe], description=description)  # type: ignore[arg-type]
    parser.add_argument("--config", help="JSON file of options, such as the recipe.json of another run.")
    try:
        from_file = read_recipe_file(chosen.config) if chosen.config else {}
        preset = chosen.preset or from_file.get("preset", "clean")
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        parser.set_defaults(**PRESETS[preset])
        parser.set_defaults(**from_file)
        values = vars(parser.parse_args(arguments))
        values.pop("config")
        return PretrainingRecipe(**values)
    except (ValueError, OSError) as error:
        parser.error(str(error))
