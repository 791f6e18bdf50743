"""What all objectives share: their output, their heads, and the check of their inputs."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import nn


class ObjectiveOutput(NamedTuple):
    """A loss and the terms it is made of."""

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]  # scalars to log, unweighted and without gradient


class Objective(nn.Module):
    """An objective of two views, with its heads. It sees embeddings only and knows no encoder.

    Subclasses define `forward(first, second)`, or `forward(first, second, target_first, target_second)` if
    `uses_target` is true. The arguments are the (pairs, dimensions) outputs of `predictor(projector(features))`; the
    targets are those of the projector's EMA copy. The result is an `ObjectiveOutput`.

    Attributes:
        uses_target: Whether the loss compares with embeddings of an EMA copy of encoder and projector.
        projector: Maps features (rows, hidden_size) to embeddings (rows, dimensions).
        predictor: Maps embeddings to the input of the loss. The identity for objectives without one.
    """

    uses_target: ClassVar[bool] = False

    def __init__(self, projector: nn.Module, predictor: nn.Module | None = None):
        super().__init__()
        self.projector = projector
        self.predictor = nn.Identity() if predictor is None else predictor


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """A multilayer perceptron: Linear, BatchNorm and ReLU per hidden layer, then a linear layer without bias.

    VICReg's and BYOL's reference implementations have the same. SimCLR's ends with another BatchNorm without offset.
    """
    if len(sizes) < 2 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"a perceptron needs two or more positive integer sizes, input first, got {tuple(sizes)}")
    *hidden, last = pairwise(sizes)
    layers: list[nn.Module] = []
    for inputs, outputs in hidden:
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(*last, bias=False))


def paired(first: torch.Tensor, second: torch.Tensor, minimum: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Checks the paired embeddings of two views and returns them in float32 or wider.

    Statistics over a batch lose too many digits in half precision, for which the losses also switch autocast off.
    """
    if first.shape != second.shape or first.ndim != 2:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"the two views must have the same shape (pairs, dimensions), got {shapes}")
    if len(first) < minimum:
        raise ValueError(f"this objective needs at least {minimum} pairs in a batch, got {len(first)}")
    first, second = (view.to(torch.promote_types(view.dtype, torch.float32)) for view in (first, second))
    return first, second
