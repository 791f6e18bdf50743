"""What all objectives share: their output, their heads, and the care that their inputs need."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import nn


class ObjectiveOutput(NamedTuple):
    """A loss and the terms it is made of.

    Attributes:
        loss: The scalar to minimize.
        terms: Named scalars to log, unweighted and without gradient.
    """

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]


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

    This is the projector of VICReg's reference implementation (github.com/facebookresearch/vicreg), and the projector
    and predictor of BYOL's (github.com/google-deepmind/deepmind-research, byol). SimCLR's (github.com/google-research/
    simclr) ends with another BatchNorm without offset, which is left out here.
    """
    if len(sizes) < 2 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"a perceptron needs two or more positive integer sizes, input first, got {tuple(sizes)}")
    *hidden, last = pairwise(sizes)
    layers: list[nn.Module] = []
    for inputs, outputs in hidden:
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(*last, bias=False))


def paired(first: torch.Tensor, second: torch.Tensor, minimum: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Checks that two tensors hold the paired embeddings of two views, and returns them in float32 or wider.

    Means and covariances over a batch lose too many digits in half precision. Autocast would narrow matrix products
    again, so the losses switch it off around theirs.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(
            "the two views must have the same shape (pairs, dimensions), "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if len(first) < minimum:
        raise ValueError(f"this objective needs at least {minimum} pairs in a batch, got {len(first)}")
    first, second = (view.to(torch.promote_types(view.dtype, torch.float32)) for view in (first, second))
    return first, second
