"""All choices of a pretraining run in one dataclass: the command line, the JSON file and the checkpoint share it."""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from huggingface_hub.errors import StrictDataclassError

from vididi_hf.command_line import build_parser, errors_in_one_line, option
from vididi_hf.configuration_vididi import OBJECTIVE_NAMES, ViDiDiConfig
from vididi_hf.data.augment import ClipAugmentation
from vididi_hf.pretraining.optimizers import OPTIMIZER_NAMES
from vididi_hf.pretraining.schedule import SCHEDULES, AlternatingSchedule

RECIPE_FILE = "recipe.json"

PRESETS: dict[str, dict[str, Any]] = {
    # What we recommend; the fields' own defaults.
    "clean": {},
    # What the authors' code of ViDiDi (arXiv 2409.02371) runs: flicker in the colours, VICReg's loss divided by 25,
    # LARS for 400 epochs in fp16.
    "paper": {
        "vicreg_weights": [1.0, 1.0, 0.04],
        "batch_norm": "shared",
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

_CHOICES = {
    "preset": tuple(PRESETS),
    "objective": OBJECTIVE_NAMES,
    "schedule": tuple(SCHEDULES),
    "optimizer": OPTIMIZER_NAMES,
    "mixed_precision": ("no", "bf16", "fp16"),
    "tracker": ("none", "tensorboard", "trackio", "wandb"),
}
_SMALLEST = {
    **dict.fromkeys(("epochs", "batch_size", "shuffle_window", "frame_stride", "save_epochs", "keep_checkpoints"), 1),
    "gradient_accumulation": 1,
    **dict.fromkeys(("learning_rate", "weight_decay", "warmup_epochs", "max_grad_norm", "seed"), 0),
    **dict.fromkeys(("num_workers", "save_steps", "evaluate_epochs", "final_learning_rate", "target_decay"), 0),
    **dict.fromkeys(("chunk_size", "monitor_steps"), 0),
}
_LARGEST = {"final_learning_rate": 1, "target_decay": 1}

# What a resumed run may do differently and still be the same run: how long and how fast it trains, where it reads and
# writes. All else would contradict the state that a checkpoint holds, or mix two experiments.
_MAY_CHANGE = frozenset(
    {
        "preset",
        "dataset",
        "dataset_root",
        "output_dir",
        "epochs",
        "learning_rate",
        "max_grad_norm",
        "mixed_precision",
        "activation_checkpointing",
        "channels_last",
        "torch_compile",
        "num_workers",
        "save_epochs",
        "save_steps",
        "keep_checkpoints",
        "resume",
        "evaluate_epochs",
        "monitor_steps",
        "leave_out",
        "tracker",
        "progress",
    }
)


@dataclass
class PretrainingRecipe:
    """Every choice of a pretraining run.

    A field is a flag of `scripts/pretrain.py`, a key of the JSON file that `--config` reads, and a line of the
    `recipe.json` saved beside every checkpoint. What each one means is in its `help`. The field `preset` only says
    which defaults the others were taken from: make a preset's recipe with `from_preset`.

    Raises:
        ValueError: If a value is impossible or of the wrong type; the message names the field.

    Example:
        ```python
        >>> from vididi_hf.pretraining.recipe import PretrainingRecipe
        >>> recipe = PretrainingRecipe.from_preset("paper", schedule="first-order", epochs=3)
        >>> recipe.optimizer, recipe.epochs, recipe.model_config().derivative_orders
        ('lars', 3, (0, 1))

        ```
    """

    # What to learn from
    dataset: str = option(
        default="motion",
        help="A set in docs/datasets.md, a folder of videos, a CSV or Parquet list, a saved data set, or a Hub id.",
    )
    dataset_root: str | None = option(default=None, help="Where a built-in set lies or is made: docs/datasets.md.")
    split: str = option(default="train", help="The split to train on; labels are not used.")
    streaming: bool = option(
        default=False,
        help="Fetch videos from sharded Parquet (a folder, URL or id on the Hub) as they are needed, not all at first.",
    )
    shuffle_window: int = option(
        default=1024, help="Streaming: videos that are shuffled with each other, and held in memory by each process."
    )
    output_dir: str = option(default="runs/pretrain", help="Folder of the encoder, the checkpoints and metrics.jsonl.")

    # What to learn
    preset: str = option(default="clean", help=f"Defaults for all other options: {' or '.join(PRESETS)}.")
    objective: str = option(default="vicreg", help="vicreg, byol or simclr.")
    schedule: str = option(default="paper", help=f"Derivative orders of the two views: {', '.join(SCHEDULES)}.")
    projector_sizes: list[int] | None = option(
        default=None, help="Widths of the projector and of BYOL's predictor; the objective's own by default."
    )
    vicreg_weights: list[float] | None = option(
        default=None, help="VICReg: weights of invariance, variance and covariance; its own, 25 25 1, by default."
    )
    view_forward: str = option(
        default="separate",
        help="One forward pass per view (BatchNorm sees one derivative order at a time), or one 'joint' pass.",
    )
    batch_norm: str = option(
        default="per_order", help="BatchNorm's running statistics: kept 'per_order' of derivative, or 'shared' by all."
    )
    derivative_scale: str = option(
        default="none", help="Derivatives as they are, or each clip's divided by its root mean square: 'unit'."
    )

    # The encoder and its input
    backbone: str = option(default="r3d_18", help="r3d_18, r2plus1d_18, mc3_18 or s3d.")
    hidden_sizes: list[int] | None = option(default=None, help="Widths of the four stages (not s3d); 64 128 256 512.")
    depths: list[int] | None = option(default=None, help="Blocks of the four stages (not s3d); 2 2 2 2.")
    num_frames: int = option(default=8, help="Frames per clip that the encoder sees.")
    frame_stride: int = option(default=3, help="Frames of the video from one frame of a clip to the next.")
    image_size: int = option(default=112, help="Height and width of the input in pixels.")

    # Augmentation
    crop_area: list[float] = option(
        default_factory=lambda: [0.08, 1.0], help="Smallest and largest share of the frame that a crop covers."
    )
    per_frame_colour: bool = option(
        default=False, help="Draw colour jitter for each frame (the authors' code: flicker) instead of once a clip."
    )

    # Optimisation
    epochs: int = option(default=100, help="Passes over the videos.")
    batch_size: int = option(default=64, help="Videos per batch and process.")
    optimizer: str = option(default="lars", help="lars, adamw or sgd.")
    learning_rate: float = option(default=4.8, help="Peak learning rate for a global batch of 256; scaled linearly.")
    weight_decay: float = option(default=1e-6, help="Weight decay; biases and BatchNorm are exempt.")
    warmup_epochs: float = option(default=10.0, help="Epochs of linear warm-up (at most a tenth of the run).")
    final_learning_rate: float = option(default=1e-3, help="End of the cosine, as a fraction of the peak.")
    target_decay: float = option(default=0.99, help="BYOL: first decay of the moving average; rises to 1 on a cosine.")
    max_grad_norm: float = option(default=0.0, help="Clip the gradient's norm to this; 0 does not clip.")
    mixed_precision: str = option(default="no", help="no, bf16 or fp16.")
    gradient_accumulation: int = option(
        default=1, help="Pass a batch in so many parts: the objective of each alone, and the mean of their gradients."
    )
    chunk_size: int = option(
        default=0, help="Pass a batch in chunks of so many videos: the objective of all at once (0: no chunks)."
    )
    activation_checkpointing: bool = option(
        default=False, help="Recompute activations in the backward pass: less memory."
    )
    channels_last: bool = option(default=True, help="Keep the weights of 3-D convolutions in channels-last memory.")
    torch_compile: bool = option(default=False, help="Compile the encoder, once for each derivative order.")
    fused_optimizer: bool = option(default=False, help="adamw, sgd: update each tensor in one pass over its memory.")
    seed: int = option(default=0, help="Seed of initialisation, order, clips, augmentation and schedule.")

    # Running
    num_workers: int = option(default=2, help="Processes that decode and augment, per training process.")
    save_epochs: int = option(default=10, help="Write a checkpoint every so many epochs, and at the end.")
    save_steps: int = option(default=0, help="Also write one every so many steps; 0 does not.")
    keep_checkpoints: int = option(
        default=2, help="Keep the newest so many checkpoints, and the one of the best evaluation."
    )
    resume: bool = option(default=False, help="Continue from the newest checkpoint in output_dir, if there is one.")
    evaluate_epochs: int = option(default=0, help="Retrieval on train/test labels every so many epochs; 0 never.")
    monitor_steps: int = option(
        default=10, help="Measure rank, spread and agreement of the embeddings every so many steps; 0 never."
    )
    leave_out: str | None = option(
        default=None, help="Retrieval without a test split: leave out one value of this column at a time."
    )
    tracker: str = option(default="none", help="none, tensorboard, trackio or wandb.")
    progress: bool = option(default=True, help="Show a progress bar.")

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(PretrainingRecipe).items():
            if isinstance(value := getattr(self, name), tuple):
                setattr(self, name, list(value))  # as JSON has it, so that a recipe equals the one it is read back as
            if not _is_a(getattr(self, name), kind):
                raise ValueError(f"{name} must be {_describe(kind)}, got {value!r}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name, smallest in _SMALLEST.items():
            # Not the other way round: NaN compares false with everything.
            if not smallest <= getattr(self, name) <= _LARGEST.get(name, math.inf):
                upper = f" and at most {_LARGEST[name]}" if name in _LARGEST else ""
                raise ValueError(f"{name} must be at least {smallest}{upper}, got {getattr(self, name)}")
        if len(self.crop_area) != 2 or not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop_area must be two shares 0 < smallest <= largest <= 1, got {self.crop_area}")
        if self.projector_sizes is not None and not (self.projector_sizes and min(self.projector_sizes) > 0):
            raise ValueError(f"projector_sizes must be one or more positive integers, got {self.projector_sizes}")
        if self.vicreg_weights is not None and len(self.vicreg_weights) != 3:
            raise ValueError(f"vicreg_weights must be three numbers, got {self.vicreg_weights}")
        if self.gradient_accumulation > 1 and self.chunk_size:
            raise ValueError(
                "gradient_accumulation and chunk_size are two ways to pass a batch in parts, choose one: "
                f"got {self.gradient_accumulation} and {self.chunk_size}"
            )
        for name, divisor in (("gradient_accumulation", self.gradient_accumulation), ("chunk_size", self.chunk_size)):
            if divisor and self.batch_size % divisor:
                raise ValueError(f"{name} must divide batch_size ({self.batch_size}), got {divisor}")
        if self.fused_optimizer and self.optimizer == "lars":
            raise ValueError("fused_optimizer is for adamw and sgd, of which torch has fused forms, got optimizer lars")
        if self.torch_compile and self.activation_checkpointing:
            raise ValueError(
                "torch_compile and activation_checkpointing do not go together, got both: a compiled graph keeps "
                "BatchNorm's statistics for recomputing, and the next view changes them"
            )
        if self.streaming and self.dataset_root is not None:
            raise ValueError(f"dataset_root is for built-in sets, which are not streamed, got {self.dataset_root!r}")
        self.model_config()  # its own checks: a wrong backbone or size stops here, before any data is touched

    @classmethod
    def from_preset(cls, preset: str, **options: Any) -> PretrainingRecipe:
        """Builds the recipe of a preset.

        Args:
            preset: `"clean"`, the default, or `"paper"`, what the authors' code runs.
            **options: Fields that shall differ from the preset.

        Raises:
            ValueError: If there is no such preset, or a value is impossible.
            TypeError: If there is no such field.
        """
        return cls(**{**preset_defaults(preset), **options})

    def model_config(self) -> ViDiDiConfig:
        """Builds the configuration of the encoder and its objective.

        Raises:
            ValueError: If the network cannot be built.
        """
        options: dict[str, Any] = {}
        if self.projector_sizes is not None:
            options["projector_sizes"] = self.projector_sizes
            if self.objective == "byol":
                options["predictor_sizes"] = self.projector_sizes
        if self.vicreg_weights is not None and self.objective == "vicreg":
            names = ("invariance_weight", "variance_weight", "covariance_weight")
            options |= dict(zip(names, self.vicreg_weights))
        try:
            return ViDiDiConfig(
                backbone=self.backbone,
                hidden_sizes=self.hidden_sizes,
                depths=self.depths,
                num_frames=self.num_frames,
                image_size=self.image_size,
                derivative_orders=tuple(range(self.build_schedule().max_order + 1)),
                objective=self.objective,
                objective_options=options,
                view_forward=self.view_forward,
                batch_norm=self.batch_norm,
                derivative_scale=self.derivative_scale,
            )
        except StrictDataclassError as error:
            raise ValueError(str(error.__cause__)) from None

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

    def check_continues(self, saved: dict[str, Any]) -> None:
        """Checks that a run with this recipe may go on from a checkpoint of a run with another one.

        Args:
            saved: The fields of the checkpoint's recipe.

        Raises:
            ValueError: If they differ in what has to stay; the message names the fields and both values.
        """
        mine = asdict(self)
        changed = [
            f"{name} was {value!r} and is {mine[name]!r}"
            for name, value in saved.items()
            if name not in _MAY_CHANGE and value != mine[name]
        ]
        if changed:
            raise ValueError(f"a resumed run must be the run that it continues, but {'; '.join(changed)}")


def preset_defaults(name: str) -> dict[str, Any]:
    """Returns the fields that a preset sets, its own name among them.

    Raises:
        ValueError: If there is no such preset.
    """
    if name not in tuple(PRESETS):  # a tuple compares even what cannot be hashed
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return {"preset": name, **PRESETS[name]}


def read_recipe_file(path: str | Path) -> dict[str, Any]:
    """Reads a JSON file of recipe fields, `recipe.json` or one written by hand with only some of them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a JSON object or names a field that does not exist.
    """
    try:
        values = json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object of options, got a {type(values).__name__}")
    unknown = sorted(set(values) - {field.name for field in fields(PretrainingRecipe)})
    if unknown:
        raise ValueError(f"{path} holds what is no field of the recipe: {', '.join(unknown)}")
    return values


def parse_recipe(arguments: Sequence[str] | None = None, description: str | None = None) -> PretrainingRecipe:
    """Makes a recipe from command-line arguments.

    Precedence, weakest first: the fields' defaults, `--preset`, the file of `--config`, the flags. The `recipe.json` of
    a run holds every field, and therefore leaves `--preset` nothing to set but its own name.

    Args:
        arguments: The arguments; those of the process by default.
        description: The first lines of `--help`.

    Returns:
        The checked recipe. A wrong flag or value ends the process with a message that names it, and status 2.
    """
    early = ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config")
    early.add_argument("--preset")
    chosen, _ = early.parse_known_args(arguments)

    parser = build_parser(PretrainingRecipe, description, usage="%(prog)s [--help] [--option value …]")
    parser.add_argument(
        "--config", help="JSON file of options, such as the recipe.json of another run; stronger than --preset."
    )
    with errors_in_one_line(parser.prog):
        from_file = read_recipe_file(chosen.config) if chosen.config else {}
        preset = chosen.preset or from_file.get("preset", "clean")
        parser.set_defaults(**{**preset_defaults(preset), **from_file})
        values = vars(parser.parse_args(arguments))
        values.pop("config")
        return PretrainingRecipe(**values)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value has an annotated type; an integer will do for a float, but True is no integer."""
    if get_origin(kind) is UnionType:
        return any(_is_a(value, option) for option in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_a(item, get_args(kind)[0]) for item in value)
    return type(value) in ((int, float) if kind is float else (kind,))


def _describe(kind: Any) -> str:
    """An annotated type in words."""
    if get_origin(kind) is UnionType:
        return " or ".join(_describe(option) for option in get_args(kind))
    if get_origin(kind) is list:
        return f"a list of {get_args(kind)[0].__name__}"
    return {str: "text", int: "an integer", float: "a number", bool: "true or false"}.get(kind, "nothing (null)")
