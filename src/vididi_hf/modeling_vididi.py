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
    """Output of [`ViDiDiModel`].

    Args:
        last_hidden_state: Features of the last stage, (batch, hidden_size, frames', height', width').
        pooler_output: Their mean over frames, height and width, (batch, hidden_size).
        hidden_states: Outputs of the stem and of every stage, the last of them `last_hidden_state`; five tensors
            (batch, channels, frames, height, width), or `None` if they were not asked for.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class ViDiDiPreTrainedModel(PreTrainedModel):
    """Base of all ViDiDi models: loading, saving and the initialization of weights."""

    config: ViDiDiConfig
    base_model_prefix = "vididi"
    main_input_name = "pixel_values"
    input_modalities = "video"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ResidualBlock", "InceptionBlock"]  # noqa: RUF012 (the type transformers gives it)

    def __init__(self, config: ViDiDiConfig) -> None:
        super().__init__(config)
        # Of the card that `push_to_hub` makes where there is none. Each model has its own list: that call appends.
        self.model_tags = ["vididi", "video", "self-supervised-learning"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize one module as the reference implementations do, sparing weights that a checkpoint provided.

        Convolutions follow torchvision: He-normal over the outputs in the R family, PyTorch's default in S3D. Linear
        layers keep PyTorch's default, on which the projectors of VICReg, BYOL and SimCLR rely. BatchNorm starts as
        the identity. (The base class would draw everything from N(0, 0.02).)
        """
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
    """Video encoder: a clip of frames, or of their temporal derivative, to a map of features and one vector.

    The network is `model.backbone`; torchvision's weights load into it as they are, without their classifier.

    Args:
        config: Which network; checked again here, because a configuration can be edited after it was made.

    Example:
        >>> import torch
        >>> from vididi_hf.configuration_vididi import ViDiDiConfig
        >>> from vididi_hf.modeling_vididi import ViDiDiModel
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
        """Encode clips.

        Args:
            pixel_values: Normalized clips (batch, frames, channels, height, width), at least 2 frames of 32 x 32
                pixels; they need not have the size that the configuration names.
            output_hidden_states: Whether to return the outputs of the stem and of every stage; by default
                `config.output_hidden_states`.
            derivative_order: Which temporal derivative the clips are; 0 for frames. It selects the statistics that
                BatchNorm uses if `config.batch_norm` is `"per_order"`, says whether there is something to rescale if
                `config.derivative_scale` is `"unit"`, and has no effect otherwise.

        Returns:
            A [`ViDiDiModelOutput`], or a tuple of its fields that are set if the keyword `return_dict=False` was
            given (or the configuration says so).

        Raises:
            ValueError: If the shape is not that of clips which the network can take.
        """
        self._check_shape(pixel_values)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        select_order(self.backbone, derivative_order)
        pixel_values = rescale_derivative(pixel_values, derivative_order, self.config.derivative_scale)
        clip = pixel_values.transpose(1, 2)  # a view: networks have channels before frames
        features, hidden_states = self.backbone(clip, bool(output_hidden_states))
        return ViDiDiModelOutput(
            last_hidden_state=features,
            pooler_output=features.mean(dim=(2, 3, 4)),
            hidden_states=hidden_states or None,
        )

    def _check_shape(self, pixel_values: Tensor) -> None:
        """Raise a ValueError that names what is wrong with the shape of the clips."""
        shape = tuple(pixel_values.shape)
        if len(shape) != 5:
            raise ValueError(f"pixel_values must be (batch, frames, channels, height, width), got shape {shape}")
        _, frames, channels, height, width = shape
        if channels != self.config.num_channels:
            raise ValueError(
                f"pixel_values must have {self.config.num_channels} channels in dimension 2 "
                f"(config.num_channels), got shape {shape}"
            )
        if frames < MIN_NUM_FRAMES:
            raise ValueError(f"pixel_values must have at least {MIN_NUM_FRAMES} frames, got shape {shape}")
        if min(height, width) < MIN_IMAGE_SIZE:
            raise ValueError(f"pixel_values must be at least {MIN_IMAGE_SIZE} pixels high and wide, got shape {shape}")


__all__ = ["ViDiDiModel", "ViDiDiModelOutput", "ViDiDiPreTrainedModel"]
