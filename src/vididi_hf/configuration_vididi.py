"""Configuration of ViDiDi models: which video network, for which clips, trained with which derivatives."""

import difflib
import re
from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from .choices_vididi import (
    BACKBONE_NAMES,
    BATCH_NORMS,
    HUB,
    OBJECTIVE_NAMES,
    OWN_OBJECTIVE,
    POOLINGS,
    SCALES,
    VIEW_FORWARDS,
)
from .saving_vididi import CarriesCode

MIN_NUM_FRAMES = 2
MIN_IMAGE_SIZE = 32
S3D_HIDDEN_SIZE = 1024
# A configuration beyond these is damaged or hostile: building its network would take all memory or minutes.
_MAX = {"num_channels": 1024, "num_frames": 2**16, "image_size": 2**14, "num_labels": 10**6}
_MAX_ORDER, _MAX_BLOCKS, _MAX_WEIGHTS = 64, 1000, 2**33

# Keywords that transformers passes to a configuration or writes into config.json, beyond its own attributes.
# fmt: off
_TRANSFORMERS_KEYWORDS = frozenset({
    "attn_implementation", "auto_map", "custom_pipelines", "distributed_config", "experts_implementation",
    "fusion_config", "gradient_checkpointing", "processor_class", "quantization_config", "tie_last_hidden_states",
    "tie_word_embeddings", "transformers_weights", "use_cache", "video_processor_type",
})
# fmt: on


@strict
class ViDiDiConfig(CarriesCode, PreTrainedConfig):
    """Configuration of ViDiDi models and of their pretraining.

    Values are checked when the object is built or saved, and when a model is built from it. Lists become tuples.

    Args:
        backbone: Video network, as in `torchvision.models.video`: `"r3d_18"`, `"r2plus1d_18"`, `"mc3_18"`
            (https://arxiv.org/abs/1711.11248) or `"s3d"` (https://arxiv.org/abs/1712.04851). `"hub"` is the encoder of
            `backbone_config`.
        hidden_sizes: Channels of the four stages of the R family. `None` means `(64, 128, 256, 512)`. Leave it unset
            for S3D.
        depths: Residual blocks in each of these stages; the first may have none. `None` means `(2, 2, 2, 2)`. Leave it
            unset for S3D.
        stem_kernel_size: Height and width of the kernel of the R family's stem, an odd number. 3 suits small frames.
        num_channels: Channels of a frame.
        num_frames: Frames that the encoder sees at once in training, at least 2.
        image_size: Height and width of the training frames in pixels, at least 32.
        derivative_orders: Distinct orders of temporal derivative used as views; 0 is the frames themselves.
        objective: Self-supervised objective: `"vicreg"`, `"byol"`, `"simclr"`, or your own `"package.module:Class"`.
        objective_options: Keyword arguments of the objective.
        view_forward: `"separate"` normalizes each view with its own batch statistics in pretraining, `"joint"`
            normalizes both views together.
        batch_norm: Running statistics of the encoder: `"per_order"` keeps one set for each of `derivative_orders`,
            `"shared"` keeps one set. `None` means `"per_order"`, or `"shared"` if `view_forward` is `"joint"`. Files
            written before this field existed mean `"shared"`.
        derivative_scale: `"none"` encodes derivatives as they are (the paper). `"unit"` divides each clip by its root
            mean square first, which brings it to the scale of frames.
        classifier_orders: Distinct orders of derivative that a classifier sees; it concatenates their features.
        classifier_dropout: Share of the features that a classifier drops in training, at least 0 and below 1.
        detection_stride: Pixels between neighboring features of the last stage in action detection: 16 or 8 for the R
            family, 32 or 16 for S3D. The smaller value takes the spatial stride out of the last stage.
        backbone_config: Configuration of a transformers encoder, or a dictionary with its `model_type`.
            `ViDiDiModel.from_encoder` sets it.
        pooling: How to pool the tokens of such an encoder: `"mean"`, `"class_token"`, or `"norm"` (the mean behind the
            encoder's own final norm).
        **kwargs: The standard keywords of `PreTrainedConfig` (`num_labels`, `id2label`, `dtype`, …).

    Raises:
        TypeError: For an unknown keyword.
        huggingface_hub.errors.StrictDataclassError: For a value of the wrong type or out of range.

    Example:
        >>> from vididi_hf import ViDiDiConfig
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
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012  # the type transformers gives it

    backbone: str = "r3d_18"
    hidden_sizes: list[int] | tuple[int, ...] | None = None
    depths: list[int] | tuple[int, ...] | None = None
    stem_kernel_size: int = 7
    num_channels: int = 3
    num_frames: int = 8
    image_size: int = 112
    derivative_orders: list[int] | tuple[int, ...] = (0, 1, 2)
    objective: str = "vicreg"
    objective_options: dict[str, Any] = field(default_factory=dict)
    view_forward: str = "separate"
    batch_norm: str | None = None
    derivative_scale: str = "none"
    classifier_orders: list[int] | tuple[int, ...] = (0,)
    classifier_dropout: float = 0.0
    detection_stride: int = 16
    backbone_config: Any = None  # a dictionary becomes a configuration
    pooling: str = "mean"

    def __post_init__(self, **kwargs: Any) -> None:
        for name in kwargs:  # the base class would just store them
            if not self._knows(name):
                known = [*self.__dataclass_fields__, "num_labels"]
                guesses = difflib.get_close_matches(name, known, n=1)
                own = ", ".join(one for one in known if not hasattr(PreTrainedConfig, one))
                hint = f"did you mean {guesses[0]!r}?" if guesses else f"its fields are {own}"
                raise TypeError(f"{type(self).__name__} got an unexpected keyword {name!r}: {hint}")
        if isinstance(nested := self.backbone_config, dict):
            self.backbone_config = AutoConfig.for_model(**nested)
        if self.backbone_config is not None:
            self.backbone = HUB
        elif self.backbone != "s3d":
            self.hidden_sizes = (64, 128, 256, 512) if self.hidden_sizes is None else self.hidden_sizes
            self.depths = (2, 2, 2, 2) if self.depths is None else self.depths
        if type(num_labels := kwargs.get("num_labels", 2)) is not int or not 0 <= num_labels <= _MAX["num_labels"]:
            # Checked before they are named.
            raise ValueError(f"num_labels must be 0 to {_MAX['num_labels']}, got {num_labels!r}")
        if self.batch_norm is None:
            self.batch_norm = "shared" if self.view_forward == "joint" else "per_order"
        super().__post_init__(**kwargs)

    @property
    def custom_pipelines(self) -> dict[str, Any]:
        """Pipelines that the code of a repository brings along; the package registers its own instead."""
        is_from_repository = type(self).__module__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME)
        if not is_from_repository or self.architectures != ["ViDiDiForVideoClassification"]:
            return {}
        pipeline = "pipeline_vididi.ViDiDiVideoClassificationPipeline"
        return {"video-classification": {"impl": pipeline, "pt": ["AutoModelForVideoClassification"]}}

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "custom_pipelines":  # from a file that was saved by a pipeline
            return
        # Here and not in __post_init__, because from_pretrained assigns overrides after construction.
        if name in ("hidden_sizes", "depths", "derivative_orders", "classifier_orders") and isinstance(value, list):
            value = tuple(value)
        super().__setattr__(name, value)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Builds a configuration from the content of a file, keeping (and ignoring) fields that the class lacks."""
        known = {name: value for name, value in config_dict.items() if cls._knows(name)}
        loaded = super().from_dict({"batch_norm": "shared", **known}, **kwargs)
        for name in config_dict.keys() - known.keys():
            setattr(loaded[0] if isinstance(loaded, tuple) else loaded, name, config_dict[name])
        return loaded

    @classmethod
    def from_json_file(cls, json_file: Any) -> "ViDiDiConfig":
        """Builds a configuration from a file, as `from_pretrained` does, and not by the constructor."""
        return cls.from_dict(cls._dict_from_json_file(json_file))

    @property
    def hidden_size(self) -> int:
        """Width of the pooled features, read by generic code; derived, so it is never written to JSON."""
        if self.backbone_config is not None:
            return self.backbone_config.hidden_size
        return self.hidden_sizes[-1] if self.hidden_sizes else S3D_HIDDEN_SIZE

    @property
    def backbone_name(self) -> str:
        """Name of the network: that of ours, or the type of a transformers encoder."""
        return self.backbone if self.backbone_config is None else self.backbone_config.model_type

    @property
    def base_model_fsdp_plan(self) -> dict[str, str]:  # type: ignore[override]  # read-only: follows the backbone
        """Modules that FSDP2 shards one by one: residual or Inception blocks, not the base class's language layers."""
        if self.backbone_config is not None:
            return {}
        parents = ("features",) if self.backbone == "s3d" else ("layer1", "layer2", "layer3", "layer4")
        return {f"backbone.{parent}.*": "free_full_weight" for parent in parents}

    def validate_values(self) -> None:
        """Checks what types cannot say; the base class calls it."""
        names = ("backbone", "objective", "view_forward", "batch_norm", "derivative_scale", "pooling")
        backbones = BACKBONE_NAMES if self.backbone_config is None else (HUB,)
        for name, allowed in zip(names, (backbones, OBJECTIVE_NAMES, VIEW_FORWARDS, BATCH_NORMS, SCALES, POOLINGS)):
            own = name == "objective" and re.fullmatch(OWN_OBJECTIVE, self.objective)
            if getattr(self, name) not in allowed and not own:
                choices = ", ".join(map(repr, allowed))
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.batch_norm == "per_order" and self.view_forward == "joint":
            raise ValueError("batch_norm 'per_order' needs view_forward 'separate': a joint pass mixes the orders")
        for name, sizes, least in (("hidden_sizes", self.hidden_sizes, 1), ("depths", self.depths, 0)):
            if self.backbone in ("s3d", HUB):
                if sizes is not None:
                    given = f"{name}={sizes}"
                    raise ValueError(f"backbone {self.backbone!r} has fixed stages: leave {name} unset, got {given}")
            elif sizes is None or len(sizes) != 4 or sizes[0] < least or min(sizes[1:]) < 1:
                raise ValueError(f"{name} must be four positive integers, one per stage, got {sizes}")
        if self.stem_kernel_size % 2 == 0 or not 1 <= self.stem_kernel_size <= MIN_IMAGE_SIZE:
            bound = f"an odd number of 1 to {MIN_IMAGE_SIZE}"
            raise ValueError(f"stem_kernel_size must be {bound}, got {self.stem_kernel_size}")
        for name, minimum in (("num_channels", 1), ("num_frames", MIN_NUM_FRAMES), ("image_size", MIN_IMAGE_SIZE)):
            if not minimum <= (value := getattr(self, name)) <= _MAX[name]:
                bound = f"at least {minimum}" if value < minimum else f"at most {_MAX[name]}"
                raise ValueError(f"{name} must be {bound}, got {value}")
        if self.hidden_sizes and self.depths:
            weights = sum(2 * 27 * depth * width**2 for depth, width in zip(self.depths, self.hidden_sizes))
            if sum(self.depths) > _MAX_BLOCKS or weights > _MAX_WEIGHTS:
                given = f"depths={self.depths} and hidden_sizes={self.hidden_sizes}"
                raise ValueError(f"{given} describe a network of {weights:.0e} weights: choose smaller ones")
        for name in ("derivative_orders", "classifier_orders"):
            orders = getattr(self, name)
            if not orders or min(orders) < 0 or max(orders) > _MAX_ORDER or len(set(orders)) != len(orders):
                raise ValueError(f"{name} must be distinct integers of 0 to {_MAX_ORDER}, got {str(orders)[:99]}")
        if self.pooling != "mean" and self.backbone_config is None:
            needs = f"pooling {self.pooling!r} needs an encoder of transformers"
            raise ValueError(f"{needs}, not backbone {self.backbone!r}")
        if not 0 <= self.classifier_dropout < 1:
            raise ValueError(f"classifier_dropout must be at least 0 and below 1, got {self.classifier_dropout}")

    @classmethod
    def _knows(cls, name: str) -> bool:
        """Whether a keyword is a field of this class or known to transformers (with underscore: private state)."""
        if name in cls.__dataclass_fields__ or name in _TRANSFORMERS_KEYWORDS or name.startswith("_"):
            return True
        return hasattr(PreTrainedConfig, name) and not callable(getattr(PreTrainedConfig, name))
