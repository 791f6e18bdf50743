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


class _ByDimension(Optimizer):
    """An optimizer that treats matrices otherwise than parameters of at most one dimension."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates every parameter that has a gradient, and returns the loss of the closure, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for matrices in (True, False):
                params = [p for p in group["params"] if p.grad is not None and (p.ndim > 1) == matrices]
                if params:
                    self._update(params, group, matrices)
        return loss

    def _update(self, params: list[torch.Tensor], group: dict[str, Any], matrices: bool) -> None:
        raise NotImplementedError


class LARS(_ByDimension):
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

    def _update(self, params: list[torch.Tensor], group: dict[str, Any], matrices: bool) -> None:
        # The _foreach operations run one kernel for the whole list instead of one for each of dozens of tensors.
        gradients = [param.grad for param in params if param.grad is not None]
        if matrices:
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


class Muon(_ByDimension):
    r"""Momentum whose matrices are made orthogonal, and Adam for biases and norms.

    .. math::
        m \leftarrow \mu m + (1 - \mu) g, \quad
        u = \text{orthogonal}\big((1 - \mu) g + \mu m\big), \quad
        w \leftarrow (1 - \alpha \lambda) w - 0.2 \, \alpha \sqrt{\max(a, b)} \, u

    The weight of a convolution counts as a matrix of a = output channels by b = all else. The factor gives the update
    the size that AdamW's has, so both take similar learning rates.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate alpha.
        momentum: Momentum mu.
        weight_decay: Weight decay lambda.
        betas: Decay rates of Adam.

    Source: Jordan et al., https://kellerjordan.github.io/posts/muon; the factor is of arXiv 2502.16982.

    Example:
        >>> layer = torch.nn.Conv2d(3, 4, kernel_size=3)
        >>> optimizer = Muon(layer.parameters(), lr=0.01)
        >>> layer(torch.randn(8, 3, 9, 9)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "betas": betas})

    def _update(self, params: list[torch.Tensor], group: dict[str, Any], matrices: bool) -> None:
        update = self._matrix_update if matrices else self._adam_update
        for param in params:
            assert param.grad is not None
            param.mul_(1 - group["lr"] * group["weight_decay"])
            param.add_(update(param, param.grad, group), alpha=-group["lr"])

    def _matrix_update(self, param: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        momentum = self.state[param].setdefault("momentum_buffer", torch.zeros_like(param))
        momentum.lerp_(gradient, 1 - group["momentum"])
        matrix = gradient.lerp(momentum, group["momentum"]).flatten(1)
        return (0.2 * max(matrix.shape) ** 0.5 * orthogonalize(matrix)).view(param.shape)

    def _adam_update(self, param: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        state, (first, second) = self.state[param], group["betas"]
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(param), "square": torch.zeros_like(param)}
        step = state["step"].add_(1)
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        return state["mean"] / (1 - first**step) / ((state["square"] / (1 - second**step)).sqrt() + 1e-8)


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Replaces the singular values of a matrix by values near 1, by five Newton-Schulz steps."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), wide, beta=3.4445)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


def build_optimizer(model: nn.Module, recipe: PretrainingRecipe) -> Optimizer:
    """Builds the optimizer of a recipe. Frozen parameters, such as BYOL's target, are left out."""
    groups = parameter_groups(model, recipe.weight_decay, recipe.layer_decay)
    if recipe.optimizer == "adamw":
        return AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.999), fused=recipe.fused_optimizer or None)
    if recipe.optimizer == "muon":
        return Muon(groups, lr=recipe.learning_rate)
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
