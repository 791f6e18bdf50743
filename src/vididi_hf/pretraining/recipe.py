"""The choices of a pretraining run: flags of `vididi pretrain`, keys of `recipe.json`, and part of every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from vididi_hf.choices_vididi import BACKBONE_NAMES, BATCH_NORMS, OBJECTIVE_NAMES, POOLINGS, SCALES, VIEW_FORWARDS
from vididi_hf.data.options import DATASET_HELP, FRAME_DISTANCES, DatasetChoice
from vididi_hf.options import option
from vididi_hf.pretraining.order_schedule import ORDER_SCHEDULES, AlternatingSchedule

if TYPE_CHECKING:
    from vididi_hf.configuration_vididi import ViDiDiConfig
    from vididi_hf.data.augment import ClipAugmentation

RECIPE_FILE = "recipe.json"
OPTIMIZERS = ("lars", "adamw", "sgd", "muon")
PRECISIONS = ("no", "bf16", "fp16")
TRACKERS = ("none", "tensorboard", "trackio", "wandb")
_NETWORK = ("backbone", "hidden_sizes", "depths", "stem_kernel_size")


@dataclass(kw_only=True)
class PretrainingRecipe(DatasetChoice):
    """Every choice of a pretraining run. The `help` of a field says what it means.

    The field `preset` only records which preset the other values started from. To use a preset from Python, call
    `PretrainingRecipe.from_preset`.

    Raises:
        ValueError: If a value is impossible or of the wrong type. The message names the field.

    Example:
        >>> from vididi_hf import PretrainingRecipe
        >>> recipe = PretrainingRecipe.from_preset("paper", order_schedule="first-order", epochs=3)
        >>> recipe.optimizer, recipe.epochs, recipe.model_config().derivative_orders
        ('lars', 3, (0, 1))
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # What we recommend: the defaults below.
        "clean": {},
        # What the authors' code runs; docs/methods.md compares it with our defaults point by point.
        "paper": {
            "frame_stride": 3,
            "extra_frames": False,
            "shorter_side": 150,
            "vicreg_weights": [2.0, 2.0, 0.08],  # 1, 1 and 0.04, added twice
            "gather": False,
            "cross_view_only": True,
            "view_forward": "joint",
            "batch_norm": "shared",
            "per_frame_color": True,
            "optimizer": "lars",
            "learning_rate": 4.8,
            "weight_decay": 1e-6,
            "epochs": 400,
            "batch_size": 8,  # on each of 8 GPUs: 64 in total
            "mixed_precision": "fp16",
            "max_grad_norm": 0.0,
        },
    }

    alternatives = FRAME_DISTANCES

    # Data
    dataset: str = option(default="motion", may_change=True, positional=True, help=DATASET_HELP)
    more_datasets: list[str] | None = option(
        default=None, may_change=True, help="More data sets to train on. dataset_root and the columns are not theirs."
    )
    dataset_weights: list[float] | None = option(
        default=None, at_least=0, help="Shares of the data sets in an epoch, in their order. Default: every video once."
    )
    split: str = option(default="train", help="Split to train on. Labels are not used.")
    streaming: bool = option(default=False, help="Read sharded Parquet (folder, URL or Hub id) while training.")
    shuffle_window: int = option(
        default=1024, at_least=1, help="Streaming: videos that each process shuffles and keeps in memory."
    )
    output_dir: str = option(default="runs/pretrain", may_change=True, help="Folder of the encoder and checkpoints.")

    # Method
    preset: str = option(
        default="clean",
        choices=("clean", "paper"),
        may_change=True,
        help="Defaults: ours, or those of the authors' code.",
    )
    objective: str = option(
        default="vicreg", help=f"Self-supervised objective: {', '.join(OBJECTIVE_NAMES)}, or your own module:Class."
    )
    order_schedule: str = option(
        default="paper",
        choices=tuple(ORDER_SCHEDULES),
        old_names=("schedule",),
        help=f"Derivative orders of the two views: {', '.join(ORDER_SCHEDULES)}.",
    )
    projector_sizes: list[int] | None = option(
        default=None,
        at_least=1,
        help="Layer widths of the projector and of BYOL's predictor. Default: the objective's.",
    )
    vicreg_weights: list[float] | None = option(
        default=None, help="VICReg weights of invariance, variance and covariance. Default: 25 25 1."
    )
    gather: bool = option(
        default=True, help="VICReg, SimCLR: the loss of the global batch; false: of the videos of each process."
    )
    cross_view_only: bool = option(
        default=False, help="SimCLR: compare each clip with the other clips of the videos only, not with its own kind."
    )
    view_forward: str = option(
        default="separate", choices=VIEW_FORWARDS, help="One forward pass per view, or one joint pass for both views."
    )
    batch_norm: str = option(
        default="per_order", choices=BATCH_NORMS, help="BatchNorm statistics: one set for all orders, or one per order."
    )
    derivative_scale: str = option(
        default="none", choices=SCALES, help="'unit' divides each derivative clip by its root mean square."
    )

    # Encoder and input
    backbone: str = option(default="r3d_18", choices=BACKBONE_NAMES, help="Video network.")
    hidden_sizes: list[int] | None = option(default=None, help="Widths of the four stages. Default: 64 128 256 512.")
    depths: list[int] | None = option(default=None, help="Blocks in each of the four stages. Default: 2 2 2 2.")
    stem_kernel_size: int = option(default=7, help="Height and width of the stem's kernel; 3 suits small frames.")
    encoder: str | None = option(
        default=None,
        may_change=True,
        help="Folder or Hub id of a transformers encoder or ViDiDi checkpoint to start from.",
    )
    random_init: bool = option(default=False, help="Start from the architecture of encoder with random weights.")
    pooling: str = option(default="mean", choices=POOLINGS, help="How to pool the tokens of encoder.")
    num_frames: int = option(default=0, at_least=0, help="Frames per clip. Default: 8, or those of encoder.")
    frame_interval: float | None = option(
        default=None, at_least=0.001, help="Seconds between sampled frames. Default: 0.12, unless frame_stride is set."
    )
    frame_stride: int | None = option(
        default=None, at_least=1, help="Distance between sampled frames in video frames, instead of seconds."
    )
    extra_frames: bool = option(
        default=True,
        help="Read extra frames, so that derivatives have num_frames; false: both views get the shorter length.",
    )
    image_size: int = option(default=0, at_least=0, help="Height and width in pixels. Default: 112, or encoder's.")

    # Augmentation
    shorter_side: int | None = option(
        default=None, at_least=32, help="Shrink larger frames to this shorter side before they are augmented."
    )
    crop_area: list[float] = option(
        default_factory=lambda: [0.08, 1.0], help="Smallest and largest share of the frame that a crop covers."
    )
    per_frame_color: bool = option(
        default=False, old_names=("per_frame_colour",), help="Draw color jitter per frame instead of once per clip."
    )

    # Optimization
    epochs: int = option(default=100, at_least=1, may_change=True, help="Passes over the videos.")
    batch_size: int = option(default=64, at_least=1, help="Videos per batch and process.")
    optimizer: str = option(default="lars", choices=OPTIMIZERS, help="Optimizer.")
    learning_rate: float = option(
        default=4.8, at_least=0, may_change=True, help="Peak learning rate for a global batch of 256; scales linearly."
    )
    layer_decay: float = option(
        default=1.0,
        at_least=0,
        at_most=1,
        help="Factor of the learning rate from one part of the encoder to the one before.",
    )
    freeze: int = option(
        default=0, at_least=0, help="First parts of the encoder to freeze: stem or embeddings, then stages or layers."
    )
    lora_rank: int = option(
        default=0, at_least=0, help="Train LoRA adapters of this rank instead of encoder; 0 disables."
    )
    weight_decay: float = option(default=1e-6, at_least=0, help="Weight decay, except for biases and norms.")
    warmup_epochs: float = option(default=10.0, at_least=0, help="Epochs of linear warmup, at most a tenth of the run.")
    final_learning_rate: float = option(
        default=1e-3, at_least=0, at_most=1, help="Learning rate at the end of the cosine, as a share of the peak."
    )
    ema_momentum: float = option(
        default=0.99, at_least=0, at_most=1, old_names=("target_decay",), help="BYOL: initial EMA momentum; rises to 1."
    )
    max_grad_norm: float = option(default=0.0, at_least=0, may_change=True, help="Clip the gradient norm; 0 disables.")
    mixed_precision: str = option(default="no", choices=PRECISIONS, may_change=True, help="Precision on a GPU.")
    gradient_accumulation: int = option(
        default=1, at_least=1, help="Split a batch into this many parts and average their losses."
    )
    chunk_size: int = option(
        default=0, at_least=0, help="Gradient caching: videos per chunk; the loss sees the whole batch. 0 disables."
    )
    activation_checkpointing: bool = option(
        default=False, may_change=True, help="Recompute activations in the backward pass to save memory."
    )
    channels_last: bool = option(
        default=True, may_change=True, help="Keep convolution weights in channels-last memory."
    )
    torch_compile: bool = option(default=False, may_change=True, help="Compile the encoder, once per derivative order.")
    fused_optimizer: bool = option(default=False, help="Use the fused implementation of adamw or sgd.")
    seed: int = option(default=0, at_least=0, help="Seed of all random numbers.")

    # Running
    num_workers: int = option(default=2, at_least=0, may_change=True, help="Data-loading workers per process.")
    cache_gb: float = option(
        default=0.0,
        at_least=0,
        may_change=True,
        help="Gigabytes of decoded frames that each worker keeps in memory, for small data sets; 0 disables.",
    )
    save_epochs: int = option(default=10, at_least=1, may_change=True, help="Epochs between checkpoints.")
    save_steps: int = option(
        default=0, at_least=0, may_change=True, help="Also save every this many steps; 0 disables."
    )
    keep_checkpoints: int = option(
        default=2, at_least=1, may_change=True, help="Newest checkpoints to keep, besides the best one."
    )
    resume: bool = option(default=False, may_change=True, help="Continue from the newest checkpoint, if there is one.")
    accept_changed_data: bool = option(
        default=False, may_change=True, help="Resume although videos were added, removed, replaced or moved."
    )
    evaluate_epochs: int = option(
        default=0, at_least=0, may_change=True, help="Epochs between retrieval evaluations; 0 disables."
    )
    monitor_steps: int = option(
        default=10, at_least=0, may_change=True, help="Steps between measurements of collapse; 0 disables."
    )
    group_column: str | None = option(
        default=None,
        may_change=True,
        old_names=("leave_out",),
        help="Evaluate without a test split: compare only videos that differ in this column.",
    )
    tracker: str = option(default="none", choices=TRACKERS, may_change=True, help="Experiment tracker.")
    progress: bool = option(default=True, may_change=True, help="Show a progress bar.")

    def __post_init__(self) -> None:
        if not self.encoder:
            self.num_frames, self.image_size = self.num_frames or 8, self.image_size or 112
        super().__post_init__()
        if self.frame_interval is None and self.frame_stride is None:
            self.frame_interval = 0.12  # 3 frames at 25 fps
        if len(self.crop_area) != 2 or not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop_area must be two shares 0 < smallest <= largest <= 1, got {self.crop_area}")
        if self.vicreg_weights is not None and len(self.vicreg_weights) != 3:
            raise ValueError(f"vicreg_weights must be three numbers, got {self.vicreg_weights}")
        if self.gradient_accumulation > 1 and self.chunk_size:
            raise ValueError(
                "gradient_accumulation and chunk_size both split the batch: choose one, "
                f"got {self.gradient_accumulation} and {self.chunk_size}"
            )
        for name, divisor in (("gradient_accumulation", self.gradient_accumulation), ("chunk_size", self.chunk_size)):
            if divisor and self.batch_size % divisor:
                raise ValueError(f"{name} must divide batch_size ({self.batch_size}), got {divisor}")
        if self.fused_optimizer and self.optimizer not in ("adamw", "sgd"):
            raise ValueError(f"fused_optimizer needs optimizer adamw or sgd, got {self.optimizer}")
        if self.torch_compile and self.activation_checkpointing:
            raise ValueError(
                "torch_compile and activation_checkpointing cannot be combined: a compiled graph recomputes with "
                "BatchNorm statistics that the other view has changed"
            )
        if self.streaming and self.dataset_root is not None:
            raise ValueError(
                f"dataset_root is only for built-in data sets without streaming, got {self.dataset_root!r}"
            )
        for name in ("dataset_weights", "cache_gb", "video_column"):
            if self.streaming and getattr(self, name):
                raise ValueError(f"streaming does not support {name}: leave out one of the two")
        weights, datasets = self.dataset_weights, 1 + len(self.more_datasets or [])
        if weights is not None and (len(weights) != datasets or sum(weights) <= 0):
            raise ValueError(f"dataset_weights must be one number per data set, got {weights}")
        for name, unset in (("random_init", False), ("pooling", "mean"), ("lora_rank", 0)):
            if not self.encoder and getattr(self, name) != unset:
                raise ValueError(f"{name} needs encoder, got {name} {getattr(self, name)!r} without one")
        if not self.encoder:
            self.model_config()  # checks the network before any data is read

    def completed(self) -> PretrainingRecipe:
        """Returns the recipe with the frames and the size of its encoder, which this reads."""
        if not self.encoder:
            return self
        config = self.model_config()
        return replace(self, num_frames=config.num_frames, image_size=config.image_size)

    def model_config(self) -> ViDiDiConfig:
        """Builds the configuration of the encoder and its objective.

        Raises:
            ValueError: If the network cannot be built.
        """
        from huggingface_hub.errors import StrictDataclassError

        from vididi_hf.configuration_vididi import ViDiDiConfig

        options: dict[str, Any] = {}
        if self.projector_sizes is not None:
            options["projector_sizes"] = self.projector_sizes
            if self.objective == "byol":
                options["predictor_sizes"] = self.projector_sizes
        if self.vicreg_weights is not None and self.objective == "vicreg":
            names = ("invariance_weight", "variance_weight", "covariance_weight")
            options |= dict(zip(names, self.vicreg_weights))
        if not self.gather and self.objective != "byol":
            options["gather"] = False
        if self.cross_view_only and self.objective == "simclr":
            options["cross_view_only"] = True
        network: dict[str, Any] = {name: getattr(self, name) for name in _NETWORK}
        sizes = {"num_frames": self.num_frames, "image_size": self.image_size}
        if self.encoder:
            from vididi_hf.encoder_loading_vididi import config_values, read_encoder_config
            from vididi_hf.pretraining.continuation import network_of, read_checkpoint_config

            if (checkpoint := read_checkpoint_config(self.encoder)) is not None:
                network = network_of(checkpoint)
            else:
                network = {"pooling": self.pooling, **config_values(read_encoder_config(self.encoder))}
            for name in (*_NETWORK, "pooling"):
                value, own = getattr(self, name), network.get(name)
                value = tuple(value) if isinstance(value, list) else value
                if value not in (self.__dataclass_fields__[name].default, own):
                    hint = "" if own is None else f", which is {own} in the encoder"
                    raise ValueError(f"choose either encoder ({self.encoder!r}) or {name}{hint}")
        try:
            return ViDiDiConfig(
                **network | {name: size for name, size in sizes.items() if size or not self.encoder},
                derivative_orders=tuple(range(self.build_order_schedule().max_order + 1)),
                objective=self.objective,
                objective_options=options,
                view_forward=self.view_forward,
                batch_norm=self.batch_norm,
                derivative_scale=self.derivative_scale,
            )
        except StrictDataclassError as error:
            raise ValueError(str(error.__cause__)) from None

    def clip_shape(self) -> dict[str, Any]:
        """Returns how clips are sampled, as settings of the processor. Without a frame rate, 25 fps are assumed."""
        stride = self.frame_stride or max(1, round(25 * (self.frame_interval or 0)))
        return {"num_frames": self.num_frames, "frame_interval": self.frame_interval, "frame_stride": stride}

    def build_order_schedule(self) -> AlternatingSchedule:
        """Builds the schedule of derivative orders."""
        return AlternatingSchedule.from_preset(self.order_schedule, seed=self.seed)

    def augmentation(self) -> ClipAugmentation:
        """Builds the augmentation of a training clip."""
        from vididi_hf.data.augment import ClipAugmentation

        area = (self.crop_area[0], self.crop_area[1])
        return ClipAugmentation(self.image_size, area=area, per_frame_color=self.per_frame_color)
