"""Optimizers and the learning-rate schedule of self-supervised pretraining."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

OPTIMIZER_NAMES = ("lars", "adamw", "sgd")


class LARS(Optimizer):
    r"""SGD with momentum and a learning rate per layer (You, Gitman and Ginsburg, 2017, arXiv 1708.03888).

    .. math::
        g \leftarrow g + \lambda w, \quad
        g \leftarrow \eta \frac{\lVert w \rVert}{\lVert g \rVert} g, \quad
        m \leftarrow \mu m + g, \quad
        w \leftarrow w - \alpha m

    The first two steps are left out for parameters of at most one dimension (biases and BatchNorm), and the second one
    where either norm is zero, as in VICReg's reference implementation (github.com/facebookresearch/vicreg).

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate alpha.
        momentum: Momentum mu.
        weight_decay: Weight decay lambda.
        trust_coefficient: Ratio eta between the length of an update and that of the weights, at learning rate 1.

    Raises:
        ValueError: If a hyperparameter is negative.

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
        """Update every parameter that has a gradient.

        Args:
            closure: Recomputes the loss with gradients, and returns it.

        Returns:
            The closure's loss, if there is one.
        """
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
        """Update some parameters of a group, all of them with weight decay and adaptation or all without."""
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


def build_optimizer(
    model: nn.Module,
    name: str,
    learning_rate: float,
    weight_decay: float,
    momentum: float = 0.9,
    fused: bool = False,
) -> Optimizer:
    """Build an optimizer of the parameters that require gradients, without weight decay on biases and BatchNorm.

    Args:
        model: Model whose parameters are trained; frozen ones, such as BYOL's target, are left out.
        name: `"lars"`, `"adamw"` or `"sgd"`.
        learning_rate: Learning rate, to be overwritten per step (see `learning_rate_at`).
        weight_decay: Weight decay of parameters of two or more dimensions.
        momentum: Momentum, or the first of AdamW's two decay rates.
        fused: AdamW and SGD: update each tensor in one pass over its memory.

    Returns:
        The optimizer with two parameter groups: parameters of two or more dimensions, and the rest.

    Raises:
        ValueError: If the name is unknown, or LARS shall be fused.

    Example:
        >>> optimizer = build_optimizer(torch.nn.Linear(4, 2), "lars", learning_rate=0.5, weight_decay=1e-6)
        >>> [group["weight_decay"] for group in optimizer.param_groups]
        [1e-06, 0.0]
    """
    if name not in OPTIMIZER_NAMES:
        raise ValueError(f"unknown optimizer {name!r}, expected one of {', '.join(OPTIMIZER_NAMES)}")
    trained = [param for param in model.parameters() if param.requires_grad]
    groups = [
        {"params": [param for param in trained if param.ndim > 1], "weight_decay": weight_decay},
        {"params": [param for param in trained if param.ndim <= 1], "weight_decay": 0.0},
    ]
    if name == "adamw":
        return AdamW(groups, lr=learning_rate, betas=(momentum, 0.999), fused=fused or None)
    if name == "sgd":
        return SGD(groups, lr=learning_rate, momentum=momentum, fused=fused or None)
    if fused:
        raise ValueError("torch has fused adamw and sgd, but no fused lars")
    return LARS(groups, lr=learning_rate, momentum=momentum)


def learning_rate_at(step: int, total_steps: int, warmup_steps: int, base: float, final_ratio: float) -> float:
    """Compute the learning rate of a step: a linear rise from 0 to `base`, then half a cosine down to the end value.

    Args:
        step: The step, from 0 (whose rate is 0 if there is a warm-up) to `total_steps`.
        total_steps: Steps of the whole training, at least 1.
        warmup_steps: Steps of the rise, at most `total_steps`; `base` is reached at step `warmup_steps`.
        base: The highest learning rate.
        final_ratio: The rate at `total_steps` as a share of `base`.

    Returns:
        The learning rate.

    Raises:
        ValueError: If a number of steps is out of its range.

    Example:
        >>> [round(learning_rate_at(step, 100, 10, base=2.0, final_ratio=0.001), 4) for step in (0, 5, 10, 55, 100)]
        [0.0, 1.0, 2.0, 1.001, 0.002]
    """
    if not 0 <= step <= total_steps or total_steps < 1:
        raise ValueError(f"step must lie between 0 and total_steps >= 1, got step {step} of {total_steps}")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"warmup_steps must lie between 0 and total_steps ({total_steps}), got {warmup_steps}")
    if step < warmup_steps:
        return base * step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    share = (1 + math.cos(math.pi * progress)) / 2
    return base * (share + (1 - share) * final_ratio)
