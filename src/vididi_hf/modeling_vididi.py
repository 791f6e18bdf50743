"""The ViDiDi encoder as a transformers model."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .backbone_vididi import build_backbone
from .batch_norm_vididi import select_order
from .configuration_vididi import MIN_IMAGE_SIZE, MIN_NUM_FRAMES, ViDiDiConfig
from .derivatives_vididi import rescale_derivative


@dataclass
class ViDiDiModelOutput(ModelOutput):
    """Output of [`ViDiDiModel`]."""

    last_hidden_state: Tensor | None = None  # features of the last stage (batch, hidden_size, frames', height', width')
    pooler_output: Tensor | None = None  # their mean over frames, height and width (batch, hidden_size)
    hidden_states: tuple[Tensor, ...] | None = None  # on request: outputs of the stem and the four stages


class ViDiDiPreTrainedModel(PreTrainedModel):
    """Base of all ViDiDi models: loading, saving, initialization."""

    config: ViDiDiConfig
    base_model_prefix = "vididi"
    main_input_name = "pixel_values"
    input_modalities = "video"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ResidualBlock", "InceptionBlock"]  # noqa: RUF012 (the type transformers gives it)

    def __init__(self, config: ViDiDiConfig) -> None:
        super().__init__(config)
        # For the card that `push_to_hub` creates. Each model needs its own list, because that call appends to it.
        self.model_tags = ["vididi", "video", "self-supervised-learning"]

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

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None, derivative_order: int = 0
    ) -> ViDiDiModelOutput:
        """Encodes clips.

        Args:
            pixel_values: Normalized clips (batch, frames, channels, height, width) of at least 2 frames and 32 x 32
                pixels. They may differ from the size in the configuration.
            output_hidden_states: Return the outputs of stem and stages. Default: `config.output_hidden_states`.
            derivative_order: Order of the temporal derivative that the clips are; 0 for frames.

        Returns:
            A [`ViDiDiModelOutput`], or a tuple with `return_dict=False`: `last_hidden_state` (batch, hidden_size,
            frames', height', width'), `pooler_output` (batch, hidden_size) and on request `hidden_states`.

        Raises:
            ValueError: If the network cannot take clips of this shape.
        """
        shape = tuple(pixel_values.shape)
        if len(shape) != 5:
            raise ValueError(f"pixel_values must be (batch, frames, channels, height, width), got shape {shape}")
        if shape[2] != (num_channels := self.config.num_channels):
            raise ValueError(f"pixel_values must have {num_channels} channels in dimension 2, got shape {shape}")
        if shape[1] < MIN_NUM_FRAMES or min(shape[3:]) < MIN_IMAGE_SIZE:
            minimum = f"{MIN_NUM_FRAMES} frames of {MIN_IMAGE_SIZE} x {MIN_IMAGE_SIZE} pixels"
            raise ValueError(f"pixel_values must have at least {minimum}, got shape {shape}")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        select_order(self.backbone, derivative_order)
        pixel_values = rescale_derivative(pixel_values, derivative_order, self.config.derivative_scale)
        clip = pixel_values.transpose(1, 2)  # a view: the networks have channels before frames
        features, hidden_states = self.backbone(clip, bool(output_hidden_states))
        pooled = features.mean(dim=(2, 3, 4))
        return ViDiDiModelOutput(features, pooled, hidden_states or None)
