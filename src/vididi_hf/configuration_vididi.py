"""Configuration of ViDiDi encoders: which video network, for which clips, trained with which derivatives."""

import difflib
from collections.abc import Iterable
from dataclasses import field, fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .choices_vididi import BACKBONE_NAMES, BATCH_NORMS, OBJECTIVE_NAMES, SCALES, VIEW_FORWARDS

MIN_NUM_FRAMES = 2
MIN_IMAGE_SIZE = 32
S3D_HIDDEN_SIZE = 1024

# Keywords that transformers itself passes to a configuration or writes into config.json, beyond the fields and
# attributes of PreTrainedConfig, which are looked up there.
_TRANSFORMERS_KEYWORDS = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "custom_pipelines",
        "distributed_config",
        "experts_implementation",
        "fusion_config",
        "gradient_checkpointing",
        "processor_class",
        "quantization_config",
        "tie_last_hidden_states",
        "tie_word_embeddings",
        "transformers_weights",
        "use_cache",
        "video_processor_type",
    }
)


def _is_transformers_keyword(name: str) -> bool:
    """Whether the base class knows what to do with a keyword (leading underscores are its private state)."""
    return (
        name.startswith("_")
        or name in _TRANSFORMERS_KEYWORDS
        or (hasattr(PreTrainedConfig, name) and not callable(getattr(PreTrainedConfig, name)))
    )


def _require_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _require_at_least(name: str, value: int, minimum: int) -> None:
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


@strict
class ViDiDiConfig(PreTrainedConfig):
    """Configuration of a [`ViDiDiModel`] and of its pretraining.

    Lists are accepted wherever a tuple is expected (JSON has no tuples) and are stored as tuples. Values are checked
    when the object is built, when it is saved, and when a model is built from it.

    Args:
        backbone: Video network, named and defined as in `torchvision.models.video`: `"r3d_18"`, `"r2plus1d_18"`,
            `"mc3_18"` (https://arxiv.org/abs/1711.11248) or `"s3d"` (https://arxiv.org/abs/1712.04851).
        hidden_sizes: Channels of the four stages of the R family (the first is also the stem's). `None` means
            `(64, 128, 256, 512)`. S3D has fixed widths: leave it unset there.
        depths: Residual blocks in each of the four stages of the R family. `None` means `(2, 2, 2, 2)`, the
            18-layer networks. S3D has a fixed depth: leave it unset there.
        num_channels: Channels of a frame.
        num_frames: Frames that the encoder sees at once, at least 2. A training clip has `max(derivative_orders)` more.
        image_size: Height and width of the training frames in pixels, at least 32. The encoder itself takes any
            clip of at least 2 frames and 32 pixels.
        derivative_orders: Distinct orders of temporal derivative used as views; 0 is the frames themselves.
        objective: Self-supervised objective: `"vicreg"`, `"byol"` or `"simclr"`.
        objective_options: Keyword arguments of the objective.
        view_forward: How two views pass the encoder in pretraining: `"separate"` normalizes each view with BatchNorm
            statistics of its own, `"joint"` normalizes the concatenated views with common ones.
        batch_norm: Running statistics of the encoder's BatchNorms, which replace those of the batch at inference:
            `"shared"` by all derivative orders, or `"per_order"`, kept for each of `derivative_orders` and selected by
            the encoder's argument `derivative_order`. The latter needs separate forward passes.
        derivative_scale: What the encoder does to a derivative before all else, if its argument `derivative_order` says
            that the clips are one: `"none"` leaves it as small as differences of frames are (the paper); `"unit"`
            divides each clip's by its root mean square, which brings it to the frames' scale.
        classifier_orders: Distinct orders of temporal derivative that a classifier on top is shown, their features side
            by side; 0 is the frames themselves.
        classifier_dropout: Share of the features that a classifier on top drops in training.
        detection_stride: Pixels from one feature of the last stage to the next in action detection. It is halved by
            taking the spatial stride out of that stage: 16 (as it is) or 8 in the R family, 32 (as it is) or 16 in S3D.
        **kwargs: The standard keywords of `PreTrainedConfig` (`num_labels`, `id2label`, `dtype`, ...).

    Raises:
        TypeError: For an unknown keyword, with the field that was probably meant.
        huggingface_hub.errors.StrictDataclassError: For a value of the wrong type or out of range, naming the field.

    Example:
        >>> from vididi_hf.configuration_vididi import ViDiDiConfig
        >>> config = ViDiDiConfig(backbone="r3d_18", hidden_sizes=(16, 32, 64, 128), depths=(1, 1, 1, 1))
        >>> config.hidden_size
        128
        >>> ViDiDiConfig(backbone="s3d").hidden_size
        1024
        >>> ViDiDiConfig(num_frame=16)
        Traceback (most recent call last):
        ...
        TypeError: ViDiDiConfig got an unexpected keyword 'num_frame': did you mean 'num_frames'?
    """

    model_type = "vididi"

    backbone: str = "r3d_18"
    hidden_sizes: list[int] | tuple[int, ...] | None = None
    depths: list[int] | tuple[int, ...] | None = None
    num_channels: int = 3
    num_frames: int = 8
    image_size: int = 112
    derivative_orders: list[int] | tuple[int, ...] = (0, 1, 2)
    objective: str = "vicreg"
    objective_options: dict[str, Any] = field(default_factory=dict)
    view_forward: str = "separate"
    batch_norm: str = "shared"
    derivative_scale: str = "none"
    classifier_orders: list[int] | tuple[int, ...] = (0,)
    classifier_dropout: float = 0.0
    detection_stride: int = 16

    def __post_init__(self, **kwargs: Any) -> None:
        self._reject_unknown_keywords(kwargs)
        if self.backbone != "s3d":
            self.hidden_sizes = (64, 128, 256, 512) if self.hidden_sizes is None else self.hidden_sizes
            self.depths = (2, 2, 2, 2) if self.depths is None else self.depths
        super().__post_init__(**kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        # Here and not in __post_init__, because from_pretrained assigns overrides after construction.
        if name in ("hidden_sizes", "depths", "derivative_orders", "classifier_orders") and isinstance(value, list):
            value = tuple(value)
        super().__setattr__(name, value)

    @property
    def hidden_size(self) -> int:
        """Width of the pooled features, read by generic code; derived, so it is never written to JSON."""
        return self.hidden_sizes[-1] if self.hidden_sizes else S3D_HIDDEN_SIZE

    @property
    def base_model_fsdp_plan(self) -> dict[str, str]:  # type: ignore[override]  # read-only: follows the backbone
        """Modules that FSDP2 shards one by one: residual or Inception blocks, not the base class's language layers."""
        parents = ("features",) if self.backbone == "s3d" else ("layer1", "layer2", "layer3", "layer4")
        return {f"backbone.{parent}.*": "free_full_weight" for parent in parents}

    def validate_choices(self) -> None:
        """Check the fields that hold a name."""
        _require_choice("backbone", self.backbone, BACKBONE_NAMES)
        _require_choice("objective", self.objective, OBJECTIVE_NAMES)
        _require_choice("view_forward", self.view_forward, VIEW_FORWARDS)
        _require_choice("batch_norm", self.batch_norm, BATCH_NORMS)
        _require_choice("derivative_scale", self.derivative_scale, SCALES)
        if self.batch_norm == "per_order" and self.view_forward == "joint":
            raise ValueError("batch_norm 'per_order' needs view_forward 'separate': a joint pass mixes the orders")

    def validate_stages(self) -> None:
        """Check the widths and depths of the four stages."""
        for name, sizes in (("hidden_sizes", self.hidden_sizes), ("depths", self.depths)):
            if self.backbone == "s3d":
                if sizes is not None:
                    raise ValueError(f"backbone 's3d' has fixed stages: leave {name} unset, got {name}={sizes}")
            elif sizes is None or len(sizes) != 4 or min(sizes) < 1:
                raise ValueError(f"{name} must be four positive integers, one per stage, got {sizes}")

    def validate_clip(self) -> None:
        """Check the shape of a clip."""
        _require_at_least("num_channels", self.num_channels, 1)
        _require_at_least("num_frames", self.num_frames, MIN_NUM_FRAMES)
        _require_at_least("image_size", self.image_size, MIN_IMAGE_SIZE)

    def validate_derivative_orders(self) -> None:
        """Check that the orders are distinct and not negative."""
        for name in ("derivative_orders", "classifier_orders"):
            orders = getattr(self, name)
            if not orders or min(orders) < 0 or len(set(orders)) != len(orders):
                raise ValueError(f"{name} must be distinct integers of at least 0, got {orders}")

    def validate_classifier(self) -> None:
        """Check the dropout of a classifier."""
        if not 0 <= self.classifier_dropout < 1:
            raise ValueError(f"classifier_dropout must be at least 0 and below 1, got {self.classifier_dropout}")

    def _reject_unknown_keywords(self, names: Iterable[str]) -> None:
        """Raise for keywords that neither this class nor transformers knows; the base class would just store them."""
        known = [entry.name for entry in fields(self)]
        own = [name for name in known if not hasattr(PreTrainedConfig, name)]
        for name in names:
            if not _is_transformers_keyword(name):
                guesses = difflib.get_close_matches(name, [*known, "num_labels"], n=1)
                hint = f"did you mean {guesses[0]!r}?" if guesses else f"its fields are {', '.join(own)}"
                raise TypeError(f"{type(self).__name__} got an unexpected keyword {name!r}: {hint}")


__all__ = ["ViDiDiConfig"]
