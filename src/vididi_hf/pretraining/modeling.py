"""The pretraining model: an encoder, an objective with its heads, and BYOL's EMA target."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from vididi_hf.batch_norm_vididi import keep_frozen_parts, synchronize
from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.derivatives_vididi import rescale_derivative
from vididi_hf.encoder_loading_vididi import load_weights
from vididi_hf.loading import is_ours, load_checkpoint, read_model_config
from vididi_hf.modeling_vididi import ViDiDiModel, ViDiDiPreTrainedModel
from vididi_hf.objectives import build_objective, register_objective
from vididi_hf.pretraining.adaptation import adapt
from vididi_hf.pretraining.continuation import copy_weights
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.reading import reading

# Each derivative order, each pass of gradient caching and BYOL's target has its own. torch stops silently after eight.
_MAX_GRAPHS = 32


@dataclass
class ViDiDiForPreTrainingOutput(ModelOutput):
    """Output of [`ViDiDiForPreTraining`].

    Args:
        loss: The loss, a scalar.
        loss_terms: Named scalars for the log, unweighted and without gradient. They depend on the objective.
        pooler_output: The encoder's features of both views (batch, 2, hidden_size).
        embeddings: The projector's outputs for both views (batch, 2, dimensions).
        predictions: What the objective compares (batch, 2, dimensions): the predictor's outputs, or the embeddings.
    """

    loss: Tensor | None = None
    loss_terms: dict[str, Tensor] | None = None
    pooler_output: Tensor | None = None
    embeddings: Tensor | None = None
    predictions: Tensor | None = None

    def detached(self: Any) -> Any:
        """Returns a copy without the graph and without the predictions."""
        return ViDiDiForPreTrainingOutput(
            loss=self.loss.detach(),
            loss_terms={name: term.detach() for name, term in self.loss_terms.items()},
            pooler_output=self.pooler_output.detach(),
            embeddings=self.embeddings.detach(),
        )


class TargetNetwork(nn.Module):
    """BYOL's target: a copy of encoder and projector without gradients, whose BatchNorms keep their own statistics."""

    def __init__(self, encoder: ViDiDiModel, projector: nn.Module) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.projector = copy.deepcopy(projector)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, clips: Tensor, derivative_order: int = 0) -> Tensor:
        """Embeds clips (batch, frames, channels, height, width) to (batch, dimensions)."""
        return self.projector(_pooled_features(self.encoder, clips, derivative_order))


class ViDiDiForPreTraining(ViDiDiPreTrainedModel):
    """An encoder with a self-supervised objective on two views of the same videos.

    One call takes both views, so `DistributedDataParallel` sees one forward pass per step. With
    `config.view_forward="separate"`, each view passes alone and BatchNorm uses the statistics of that view. With
    `"joint"`, both views pass as one batch.

    `save_pretrained` writes encoder and heads, and `ViDiDiModel.from_pretrained` reads the encoder from them. BYOL's
    target is part of `state_dict()` but not of the saved model. Loaded without it, the target starts as a copy.

    Args:
        config: The configuration of encoder and objective.

    Attributes:
        vididi: The encoder.
        objective: The objective with its projector and predictor.
        target: The target network, or `None`.

    Raises:
        ValueError: If `config.objective_options` has an unknown option.

    Example:
        >>> import torch
        >>> from vididi_hf.configuration_vididi import ViDiDiConfig
        >>> options = {"projector_sizes": (128, 128, 128)}
        >>> config = ViDiDiConfig(hidden_sizes=(8, 16, 32, 64), depths=(1, 1, 1, 1), objective_options=options)
        >>> model = ViDiDiForPreTraining(config)
        >>> output = model(torch.rand(4, 2, 8, 3, 40, 40))
        >>> output.loss.shape, output.pooler_output.shape, output.embeddings.shape
        (torch.Size([]), torch.Size([4, 2, 64]), torch.Size([4, 2, 128]))
        >>> sorted(output.loss_terms)
        ['covariance', 'invariance', 'variance']
    """

    def __init__(self, config: ViDiDiConfig) -> None:
        super().__init__(config)
        self.vididi = ViDiDiModel(config)
        self.objective = build_objective(config.objective, config.hidden_size, config.objective_options)
        self.target: TargetNetwork | None = None
        if self.objective.uses_target:
            self.target = TargetNetwork(self.vididi, self.objective.projector)
        # Saved models have no target. transformers matches the first as patterns and the second as whole names.
        self._keys_to_ignore_on_load_missing = [r"^target\."]
        self._keys_to_ignore_on_save = [name for name in self.state_dict() if name.startswith("target.")]
        self.post_init()

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Initializes what no checkpoint provided, and makes the target a copy of the online network."""
        super().initialize_weights()
        if self.target is not None:
            online, target = self._online(), self.target
            tensors = (chain(network.parameters(), network.buffers()) for network in (online, target))
            for source, copied in zip(*tensors):
                init.copy_(copied, source)  # does nothing to a tensor that was loaded
            # Loading replaces missing parameters by new ones, which require gradients.
            target.requires_grad_(False)

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, derivative_orders: tuple[int, int] = (0, 0), compare: bool = True
    ) -> ViDiDiForPreTrainingOutput:
        """Encodes two views of every video and compares them.

        Args:
            pixel_values: Normalized clips or derivatives (batch, 2, frames, channels, height, width).
            derivative_orders: The derivative order of each view.
            compare: Whether to compute the loss. Gradient caching does it separately.

        Returns:
            A [`ViDiDiForPreTrainingOutput`], or a tuple with `return_dict=False`.

        Raises:
            ValueError: If `pixel_values` does not have two views.
        """
        if pixel_values.ndim != 6 or pixel_values.shape[1] != 2:
            wanted = "(batch, 2 views, frames, channels, height, width)"
            raise ValueError(f"pixel_values must be {wanted}, got shape {tuple(pixel_values.shape)}")
        features = self._encode(partial(_pooled_features, self.vididi), pixel_values, derivative_orders)
        embeddings = self._for_each_view(self.objective.projector, features)
        predictions = self._for_each_view(self.objective.predictor, embeddings)
        loss, terms = None, None
        if compare:
            targets = self.embed_targets(pixel_values, derivative_orders)
            loss, terms = self.objective(*predictions.unbind(dim=1), *targets)
        return ViDiDiForPreTrainingOutput(
            loss=loss, loss_terms=terms, pooler_output=features, embeddings=embeddings, predictions=predictions
        )

    def embed_targets(self, pixel_values: Tensor, derivative_orders: tuple[int, int] = (0, 0)) -> tuple[Tensor, ...]:
        """Returns the target embeddings (batch, dimensions) of each view; empty if there is no target."""
        if self.target is None:
            return ()
        return self._encode(self.target, pixel_values, derivative_orders).unbind(dim=1)

    def update_target(self, momentum: float) -> None:
        """Moves the target's parameters, not its statistics: target = momentum * target + (1 - momentum) * online."""
        if self.target is None:
            raise RuntimeError(f"objective {self.config.objective!r} has no target")
        get_ema_multi_avg_fn(momentum)(list(self.target.parameters()), list(self._online().parameters()), None)

    def train(self, mode: bool = True) -> "ViDiDiForPreTraining":
        """Switches all modules but the frozen ones of the encoder to training mode."""
        super().train(mode)
        keep_frozen_parts(self.vididi)
        return self

    def _online(self) -> nn.ModuleList:
        return nn.ModuleList([self.vididi, self.objective.projector])

    def _encode(self, encoder: Callable[[Tensor, int], Tensor], views: Tensor, orders: tuple[int, int]) -> Tensor:
        """Encodes both views (batch, 2, ...)."""
        if self.config.view_forward == "joint":
            scale = self.config.derivative_scale
            if scale != "none":  # here, because the encoder gets one order for both views
                each = zip(views.unbind(dim=1), orders)
                views = torch.stack([rescale_derivative(view, order, scale) for view, order in each], dim=1)
            return encoder(views.flatten(0, 1), 0).unflatten(0, (-1, 2))
        return torch.stack([encoder(view, order) for view, order in zip(views.unbind(dim=1), orders)], dim=1)

    def _for_each_view(self, function: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
        """Applies a function of batches to both views (batch, 2, ...)."""
        if self.config.view_forward == "joint":
            return function(views.flatten(0, 1)).unflatten(0, (-1, 2))
        return torch.stack([function(view) for view in views.unbind(dim=1)], dim=1)


def _pooled_features(encoder: ViDiDiModel, clips: Tensor, derivative_order: int) -> Tensor:
    return encoder(clips, derivative_order=derivative_order, return_dict=True).pooler_output


def initial_model(recipe: PretrainingRecipe) -> ViDiDiForPreTraining:
    """Builds the model of a recipe before its first step."""
    model = ViDiDiForPreTraining(recipe.model_config())
    if recipe.encoder and not recipe.random_init:
        location, values = read_model_config(recipe.encoder)
        if is_ours(values):
            copy_weights(load_checkpoint(ViDiDiModel, recipe.encoder, dtype=torch.float32)[0], model.vididi)
        else:
            with reading(location):
                load_weights(model.vididi.backbone, recipe.encoder)
    adapt(model.vididi.backbone, recipe)
    if model.target is not None:
        model.target = TargetNetwork(model.vididi, model.objective.projector)
    return model


def build_model(recipe: PretrainingRecipe, accelerator: Accelerator) -> ViDiDiForPreTraining:
    """Builds the model of a recipe on its device, with its memory layout and compilation."""
    register_objective(recipe.objective)
    model = initial_model(recipe)
    for name, parameter in model.objective.named_parameters():
        if recipe.chunk_size and parameter.requires_grad and not name.startswith(("projector.", "predictor.")):
            raise ValueError(f"chunk_size would not train {name} of the objective {recipe.objective}: leave it out")
    if recipe.activation_checkpointing:
        model.gradient_checkpointing_enable()
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        synchronize(model)
    model = model.to(accelerator.device)
    if recipe.channels_last and model.config.backbone_config is None:
        model = model.to(memory_format=torch.channels_last_3d)
    if recipe.torch_compile:
        compile_encoders(model)
    return model


def compile_encoders(model: ViDiDiForPreTraining, backend: str = "inductor") -> None:
    """Compiles the backbones of the encoder and of BYOL's target in place, once per derivative order."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MAX_GRAPHS)
    for encoder in (model.vididi, *([] if model.target is None else [model.target.encoder])):
        encoder.backbone.compile(backend=backend, dynamic=False)
