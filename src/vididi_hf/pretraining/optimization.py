"""Optimizers and the learning-rate schedule of pretraining."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from vididi_hf.pretraining.recipe import PretrainingRecipe


class LARS(Optimizer):
    r"""SGD with momentum and a learning rate per layer.

    .. math::
        g \leftarrow g + \lambda w, \quad
        g \leftarrow \eta \frac{\lVert w \rVert}{\lVert g \rVert} g, \quad
        m \leftarrow \mu m + g, \quad
        w \leftarrow w - \alpha m

    Parameters of at most one dimension (biases, BatchNorm) skip the first two steps. The second step is also skipped if
    either norm is zero.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate alpha.
        momentum: Momentum mu.
        weight_decay: Weight decay lambda.
        trust_coefficient: Trust coefficient eta.

    Raises:
        ValueError: If a hyperparameter is negative.

    Source: You, Gitman and Ginsburg, 2017 (arXiv 1708.03888), as used in github.com/facebookresearch/vicreg.

    Example:
        >>> layer = torch.nn.Linear(4, 2)
        >>> optimizer = LARS(layer.parameters(), lr=0.5)
        >>> layer(torch.randn(8, 4)).square().mean().backward()
        >>> optimizer.step()
        >>> optimizer.state[layer.weight]["momentum_buffer"].shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust_coefficient: float = 1e-3,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
        }
        for name, value in defaults.items():
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates every parameter that has a gradient, and returns the loss of the closure, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for adapted in (True, False):
                params = [p for p in group["params"] if p.grad is not None and (p.ndim > 1) == adapted]
                if params:
                    self._update(params, group, adapted)
        return loss

    def _update(self, params: list[torch.Tensor], group: dict[str, Any], adapted: bool) -> None:
        # The _foreach operations run one kernel for the whole list instead of one for each of dozens of tensors.
        gradients = [param.grad for param in params if param.grad is not None]
        if adapted:
            gradients = list(torch._foreach_add(gradients, params, alpha=group["weight_decay"]))
            weight_norms = torch.stack(list(torch._foreach_norm(params)))
            gradient_norms = torch.stack(list(torch._foreach_norm(gradients)))
            ratios = group["trust_coefficient"] * weight_norms / gradient_norms
            ratios = torch.where((weight_norms > 0) & (gradient_norms > 0), ratios, 1.0)
            torch._foreach_mul_(gradients, list(ratios.unbind()))  # the sums above, not the parameters' own gradients
        momenta = [self._momentum_of(param) for param in params]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients)
        torch._foreach_add_(params, momenta, alpha=-group["lr"])

    def _momentum_of(self, param: torch.Tensor) -> torch.Tensor:
        state = self.state[param]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param)
        return state["momentum_buffer"]


def build_optimizer(model: nn.Module, recipe: PretrainingRecipe) -> Optimizer:
    """Builds the optimizer of a recipe. Frozen parameters, such as BYOL's target, are left out."""
    groups = parameter_groups(model, recipe.weight_decay, recipe.layer_decay)
    if recipe.optimizer == "adamw":
        return AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.999), fused=recipe.fused_optimizer or None)
    if recipe.optimizer == "sgd":
        return SGD(groups, lr=recipe.learning_rate, momentum=0.9, fused=recipe.fused_optimizer or None)
    return LARS(groups, lr=recipe.learning_rate)


def parameter_groups(model: Any, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Splits the trainable parameters in two groups: with weight decay, and biases and norms without it.

    With layer decay, each part of the encoder has two groups of its own, whose `lr_scale` falls toward the input
    (BEiT, https://arxiv.org/abs/2106.08254).
    """
    scales: dict[int, float] = {}
    if layer_decay != 1:
        parts = model.vididi.backbone.depths()
        for number, part in enumerate(parts):
            scales |= dict.fromkeys(map(id, part), layer_decay ** (len(parts) - number))
    trained = [param for param in model.parameters() if param.requires_grad]
    groups = []
    for scale in sorted({scales.get(id(param), 1.0) for param in trained}):
        of_scale = [param for param in trained if scales.get(id(param), 1.0) == scale]
        extra = {} if layer_decay == 1 else {"lr_scale": scale}
        for matrices, decay in ((True, weight_decay), (False, 0.0)):
            params = [param for param in of_scale if (param.ndim > 1) == matrices]
            groups.append({"params": params, "weight_decay": decay, **extra})
    return groups


def build_lr_schedule(
    recipe: PretrainingRecipe, steps_per_epoch: int, num_processes: int = 1
) -> Callable[[int], float]:
    """Builds the learning-rate schedule of a recipe: a function from the step of the run to the learning rate.

    It has no state, so a resumed run continues the same schedule. The peak scales with the global batch size.
    """
    return partial(
        learning_rate_at,
        total_steps=recipe.epochs * steps_per_epoch,
        warmup_steps=round(min(recipe.warmup_epochs, recipe.epochs / 10) * steps_per_epoch),
        base=recipe.learning_rate * recipe.batch_size * num_processes / 256,
        final_ratio=recipe.final_learning_rate,
    )


def learning_rate_at(step: int, total_steps: int, warmup_steps: int, base: float, final_ratio: float) -> float:
    """Computes the learning rate of a step: linear warmup from 0 to `base`, then a cosine to `base * final_ratio`."""
    if step < warmup_steps:
        return base * step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    share = (1 + math.cos(math.pi * progress)) / 2
    return base * (share + (1 - share) * final_ratio)


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Sets the learning rate of every parameter group, times its `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_scale", 1.0)
