"""The ViDiDi encoder as a transformers model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .backbone_vididi import build_backbone
from .batch_norm_vididi import select_order
from .configuration_vididi import MIN_IMAGE_SIZE, MIN_NUM_FRAMES, ViDiDiConfig
from .derivatives_vididi import rescale_derivative
from .encoder_loading_vididi import config_values, load_weights, read_encoder_config
from .saving_vididi import write_card


@dataclass
class ViDiDiModelOutput(ModelOutput):
    """Output of [`ViDiDiModel`]."""

    last_hidden_state: Tensor | None = None  # features of the last stage (batch, hidden_size, frames', height', width')
    pooler_output: Tensor | None = None  # their mean over clips, frames, height and width (batch, hidden_size)
    hidden_states: tuple[Tensor, ...] | None = None  # on request: outputs of the stem and the four stages
    pooler_outputs: dict[int, Tensor] | None = None  # of several orders: the pooler_output of each of them


class ViDiDiPreTrainedModel(PreTrainedModel):
    """Base of all ViDiDi models: loading, saving, initialization."""

    config: ViDiDiConfig
    base_model_prefix = "vididi"
    main_input_name = "pixel_values"
    input_modalities = "video"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the Trainer would take the keywords of `forward` for those of a loss
    _no_split_modules = ["ResidualBlock", "InceptionBlock"]  # noqa: RUF012 (the type transformers gives it)

    def __init__(self, config: ViDiDiConfig) -> None:
        super().__init__(config)
        # For the card that `push_to_hub` creates. Each model needs its own list, because that call appends to it.
        self.model_tags = ["vididi", "video", "self-supervised-learning"]

    def _upload_modified_files(self, working_dir: Any, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        # Where every upload ends. The caller has just written the card: that of the Hub, or else a template.
        write_card(working_dir, self.config, repo_id)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:  # type: ignore[override]  # fewer names
        """Saves the model for `from_pretrained`, with the names that its parameters have."""
        # transformers would write those of a wrapped encoder's first publication, which other versions do not read.
        super().save_pretrained(save_directory, **{"save_original_format": False, **kwargs})

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initializes one module as torchvision and, for heads, VICReg, BYOL and SimCLR do."""
        # The base class would draw all of them from N(0, 0.02). `init` leaves weights from a checkpoint alone.
        if isinstance(module, nn.Conv3d) and self.config.backbone != "s3d":
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Conv3d | nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                init.uniform_(module.bias, -bound, bound)
        else:
            super()._init_weights(module)


def views_by_order(frames: Tensor | None, order: int, derivatives: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """The inputs of a model by their order of derivative: `pixel_values`, and `pixel_values_order_k` for order k."""
    views = {} if frames is None else {order: frames}
    for name, view in derivatives.items():
        number = name.removeprefix("pixel_values_order_")
        if not number.isdecimal():
            raise TypeError(f"the model has no input {name!r}, only pixel_values, pixel_values_order_1 and so on")
        if int(number) in views:
            raise ValueError(f"derivative order {number} is given twice: as pixel_values and as {name}")
        views[int(number)] = view
    if not views:
        raise ValueError("pixel_values is missing")
    return views


class ViDiDiModel(ViDiDiPreTrainedModel):
    """Video encoder: maps a clip of frames, or of their temporal derivative, to a feature map and a vector.

    The network is `model.backbone`. It loads torchvision's weights (without their classifier) as they are if
    `config.batch_norm` is `"shared"`.

    Args:
        config: The network.

    Raises:
        huggingface_hub.errors.StrictDataclassError: If the configuration was edited to an impossible value.

    Example:
        >>> import torch
        >>> from vididi_hf import ViDiDiConfig, ViDiDiModel
        >>> model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(8, 16, 32, 64), depths=(1, 1, 1, 1)))
        >>> output = model(torch.rand(2, 8, 3, 40, 40))
        >>> output.last_hidden_state.shape, output.pooler_output.shape
        (torch.Size([2, 64, 1, 3, 3]), torch.Size([2, 64]))
    """

    def __init__(self, config: ViDiDiConfig) -> None:
        config.validate()
        super().__init__(config)
        self.backbone = build_backbone(config)
        self.post_init()

    @classmethod
    def from_encoder(
        cls, encoder: str, *, random_init: bool = False, revision: str = "main", **options: Any
    ) -> "ViDiDiModel":
        """Wraps a video or image encoder of transformers.

        The result is a ViDiDi encoder like any other. Save `ViDiDiVideoProcessor.from_encoder(encoder)` next to it.

        Args:
            encoder: Folder or Hub id: VideoMAE, V-JEPA 2, TimeSformer, ViViT or VideoPrism. An image encoder (DINOv2,
                SigLIP, timm) encodes frame by frame.
            random_init: Use the encoder's architecture with random weights.
            revision: Branch, tag or commit on the Hub.
            **options: Fields of [`ViDiDiConfig`], such as `pooling`, `num_frames` and `derivative_scale`.

        Returns:
            The model, in evaluation mode and float32. For frames, `last_hidden_state` has the encoder's own outputs.

        Raises:
            ValueError: If the type of encoder is unknown, or some of its weights do not load.
            OSError: If there is no encoder of this name.

        Example:
            >>> import tempfile
            >>> from transformers import VideoMAEConfig, VideoMAEModel
            >>> sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 64}
            >>> config = VideoMAEConfig(image_size=32, num_frames=4, **sizes)
            >>> with tempfile.TemporaryDirectory() as folder:  # instead of "MCG-NJU/videomae-base"
            ...     VideoMAEModel(config).save_pretrained(folder)
            ...     model = ViDiDiModel.from_encoder(folder)
            >>> model(torch.rand(1, 4, 3, 32, 32)).last_hidden_state.shape
            torch.Size([1, 32, 2, 2, 2])
        """
        model = cls(ViDiDiConfig(**config_values(read_encoder_config(encoder, revision)) | options))
        if not random_init:
            load_weights(model.backbone, encoder, revision)
        return model.eval()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_hidden_states: bool | None = None,
        derivative_order: int = 0,
        **derivatives: Tensor,
    ) -> ViDiDiModelOutput:
        """Encodes clips, and averages the pooled features over the clips of a video.

        Args:
            pixel_values: Normalized clips (batch, frames, channels, height, width) or (batch, clips, frames, channels,
                height, width) of at least 2 frames and 32 x 32 pixels. They may differ from the size in the
                configuration.
            output_hidden_states: Return the outputs of stem and stages. Default: `config.output_hidden_states`.
            derivative_order: Order of the temporal derivative that `pixel_values` are; 0 for frames.
            **derivatives: `pixel_values_order_1`, `pixel_values_order_2`, …, as the processor returns them.

        Returns:
            A [`ViDiDiModelOutput`], or a tuple with `return_dict=False`: `last_hidden_state` (batch, hidden_size,
            frames', height', width'), `pooler_output` (batch, hidden_size) and on request `hidden_states`. They are
            those of `pixel_values`, or else of the first derivative that is given. Clips stay apart in all but
            `pooler_output`: (batch, clips, hidden_size, …). With several orders, `pooler_outputs` has the
            `pooler_output` of each.

        Raises:
            TypeError: For an unknown keyword.
            ValueError: If the network cannot take clips of this shape, or an order is given twice.
        """
        clips = views_by_order(pixel_values, derivative_order, derivatives)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        outputs = {order: self._encode(view, order, bool(output_hidden_states)) for order, view in clips.items()}
        output = next(iter(outputs.values()))
        if len(outputs) > 1:
            output.pooler_outputs = {order: one["pooler_output"] for order, one in outputs.items()}
        return output

    def _encode(self, clips: Tensor, order: int, output_hidden_states: bool) -> ViDiDiModelOutput:
        """Encodes the clips of one order."""
        shape = tuple(clips.shape)
        if len(shape) not in (5, 6):
            wanted = "(batch, frames, channels, height, width), with clips after batch or without"
            raise ValueError(f"pixel_values must be {wanted}, got shape {shape}")
        if shape[-3] != (num_channels := self.config.num_channels):
            wanted = f"{num_channels} channels in dimension {len(shape) - 3}"
            raise ValueError(f"pixel_values must have {wanted}, got shape {shape}")
        if shape[-4] < MIN_NUM_FRAMES or min(shape[-2:]) < MIN_IMAGE_SIZE:
            minimum = f"{MIN_NUM_FRAMES} frames of {MIN_IMAGE_SIZE} x {MIN_IMAGE_SIZE} pixels"
            raise ValueError(f"pixel_values must have at least {minimum}, got shape {shape}")
        select_order(self.backbone, order)
        pixels = rescale_derivative(clips, order, self.config.derivative_scale).reshape(-1, *shape[-4:])
        # A transposed view: the networks have channels before frames.
        features, hidden_states, *own = self.backbone(pixels.transpose(1, 2), output_hidden_states)
        pooled = own[0] if own else features.mean(dim=(2, 3, 4))
        if len(shape) == 6:
            features, *hidden_states = (one.unflatten(0, shape[:2]) for one in (features, *hidden_states))
            pooled = pooled.unflatten(0, shape[:2]).mean(dim=1)
        return ViDiDiModelOutput(features, pooled, tuple(hidden_states) or None)
