"""The model that is pretrained: an encoder, an objective with its heads, and for BYOL a slowly moving target."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.derivatives_vididi import rescale_derivative
from vididi_hf.modeling_vididi import ViDiDiModel, ViDiDiPreTrainedModel
from vididi_hf.objectives import build_objective


@dataclass
class ViDiDiForPreTrainingOutput(ModelOutput):
    """Output of [`ViDiDiForPreTraining`].

    Args:
        loss: The scalar to minimize.
        loss_terms: Named scalars for the log, unweighted and without gradient; which ones depends on the objective.
        pooler_output: The encoder's features of both views, (batch, 2, hidden_size).
        embeddings: The projector's outputs for both views, (batch, 2, dimensions). A predictor is not applied.
        predictions: What the objective sees of both views, (batch, 2, dimensions): the predictor's outputs, where the
            objective has a predictor.
    """

    loss: Tensor | None = None
    loss_terms: dict[str, Tensor] | None = None
    pooler_output: Tensor | None = None
    embeddings: Tensor | None = None
    predictions: Tensor | None = None


class TargetNetwork(nn.Module):
    """A copy of encoder and projector that no gradient reaches.

    Its BatchNorms keep running statistics of their own, and follow `train()` and `eval()` with the whole model: BYOL
    normalizes target embeddings by their batch while it trains.

    Args:
        encoder: The online encoder.
        projector: The online projector.
    """

    def __init__(self, encoder: ViDiDiModel, projector: nn.Module) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.projector = copy.deepcopy(projector)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, clips: Tensor, derivative_order: int = 0) -> Tensor:
        """Return the target embeddings (batch, dimensions) of clips (batch, frames, channels, height, width)."""
        return self.projector(_pooled_features(self.encoder, clips, derivative_order))


class ViDiDiForPreTraining(ViDiDiPreTrainedModel):
    """An encoder under a self-supervised objective of two views of the same videos.

    One call takes both views, so that `DistributedDataParallel` sees one forward pass per step. `config.objective` and
    `config.objective_options` choose the loss and its heads. `config.view_forward` chooses what BatchNorm sees, in the
    encoder and in the heads alike: with `"separate"` each view passes on its own and is normalized by its own
    statistics (views of different derivative orders have different ones); with `"joint"` both pass as one batch.

    The weights that `save_pretrained` writes hold encoder and heads, and `ViDiDiModel.from_pretrained` reads the
    encoder out of them. BYOL's target is left out there, since it is state of the training and not of the model: it is
    in `state_dict()`, from which training resumes. Loaded without one, the target starts as an exact copy.

    Args:
        config: Encoder, objective and the way views pass.

    Attributes:
        vididi: The encoder.
        objective: The objective with its projector and predictor.
        target: The target network, or `None` if the objective uses none.

    Raises:
        ValueError: If `config.objective_options` has an option that the objective does not know.

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
        # Exports have no target (see above), so a missing one is not worth a warning. Of these two, transformers
        # matches the first as patterns and compares the second with whole names.
        self._keys_to_ignore_on_load_missing = [r"^target\."]
        self._keys_to_ignore_on_save = [name for name in self.state_dict() if name.startswith("target.")]
        self.post_init()

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Initialize what no checkpoint provided, and make the target a copy of the modules it follows.

        transformers calls this after construction and after loading; its per-module hook is no place for the copy,
        because it skips modules that own no parameter themselves, as this one.
        """
        super().initialize_weights()
        if self.target is not None:
            online, target = self._online(), self.target
            for source, copied in zip(
                chain(online.parameters(), online.buffers()), chain(target.parameters(), target.buffers())
            ):
                init.copy_(copied, source)  # does nothing to a tensor that was loaded
            # Loading replaces missing parameters by new ones, which require gradients.
            target.requires_grad_(False)

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, derivative_orders: tuple[int, int] = (0, 0), compare: bool = True
    ) -> ViDiDiForPreTrainingOutput:
        """Encode two views of every video and compare them.

        Args:
            pixel_values: Normalized clips or their derivatives (batch, 2, frames, channels, height, width).
            derivative_orders: Which derivatives the two views are; see [`ViDiDiModel.forward`].
            compare: Whether to compute the loss. Without it the output has neither loss nor terms, and a target network
                is left alone: for those who compare the predictions of several calls.

        Returns:
            A [`ViDiDiForPreTrainingOutput`], or a tuple of its fields if the keyword `return_dict=False` was given (or
            the configuration says so).

        Raises:
            ValueError: If the shape is not that of pairs of clips which the encoder can take.
        """
        if pixel_values.ndim != 6 or pixel_values.shape[1] != 2:
            raise ValueError(
                "pixel_values must be (batch, 2 views, frames, channels, height, width), "
                f"got shape {tuple(pixel_values.shape)}"
            )
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
        """Embed both views by the target network.

        Args:
            pixel_values: As `forward` takes them.
            derivative_orders: Likewise.

        Returns:
            The target embeddings of the first and of the second view, each (batch, dimensions) and without gradient;
            an empty tuple if the objective uses no target.
        """
        if self.target is None:
            return ()
        return self._encode(self.target, pixel_values, derivative_orders).unbind(dim=1)

    def update_target(self, decay: float) -> None:
        """Move the target's parameters towards the online ones; call it after every step of the optimizer.

        target = decay * target + (1 - decay) * online. Running statistics of BatchNorm are not averaged: the target
        gathers its own.

        Args:
            decay: Between 0 and 1; see [`cosine_decay`][vididi_hf.objectives.cosine_decay].

        Raises:
            RuntimeError: If the objective uses no target.
            ValueError: If the decay is not between 0 and 1.
        """
        if self.target is None:
            raise RuntimeError(f"objective {self.config.objective!r} uses no target that could be updated")
        get_ema_multi_avg_fn(decay)(list(self.target.parameters()), list(self._online().parameters()), None)

    def _online(self) -> nn.ModuleList:
        """The modules that the target follows, in the order in which it holds them."""
        return nn.ModuleList([self.vididi, self.objective.projector])

    def _encode(self, encoder: Callable[[Tensor, int], Tensor], views: Tensor, orders: tuple[int, int]) -> Tensor:
        """Encode both views (batch, 2, ...), each as the derivative that it is; a joint pass knows only scales."""
        if self.config.view_forward == "joint":
            scale = self.config.derivative_scale
            if scale != "none":  # here, because the encoder is told one order for all
                each = zip(views.unbind(dim=1), orders)
                views = torch.stack([rescale_derivative(view, order, scale) for view, order in each], dim=1)
            return encoder(views.flatten(0, 1), 0).unflatten(0, (-1, 2))
        return torch.stack([encoder(view, order) for view, order in zip(views.unbind(dim=1), orders)], dim=1)

    def _for_each_view(self, function: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
        """Apply a function of batches to both views (batch, 2, ...), as `config.view_forward` says."""
        if self.config.view_forward == "joint":
            return function(views.flatten(0, 1)).unflatten(0, (-1, 2))
        return torch.stack([function(view) for view in views.unbind(dim=1)], dim=1)


def _pooled_features(encoder: ViDiDiModel, clips: Tensor, derivative_order: int) -> Tensor:
    # Named output whatever the configuration says about tuples.
    return encoder(clips, derivative_order=derivative_order, return_dict=True).pooler_output


__all__ = ["TargetNetwork", "ViDiDiForPreTraining", "ViDiDiForPreTrainingOutput"]
