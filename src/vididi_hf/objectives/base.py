"""What every objective has in common: its modules, its output, and the care its inputs need."""

from typing import ClassVar, NamedTuple

import torch
from torch import nn


class ObjectiveOutput(NamedTuple):
    """A loss and the terms it is made of.

    Attributes:
        loss: The scalar to minimize.
        terms: Named scalars, unweighted and without gradient, to be logged beside the loss.
    """

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]


class Objective(nn.Module):
    """An objective of two views, with the heads it puts on top of an encoder.

    Subclasses define `forward(first, second)`, or `forward(first, second, target_first, target_second)` where
    `uses_target` is true, on the (pairs, dimensions) outputs of `predictor(projector(features))`, and return an
    `ObjectiveOutput`. Features never enter the loss themselves, so an objective knows no encoder.

    Attributes:
        uses_target: Whether the loss compares with the embeddings of a slowly moving copy of encoder and projector.
        projector: Maps features (rows, hidden_size) to embeddings (rows, dimensions).
        predictor: Maps embeddings to what the loss sees; the identity for objectives without one.
    """

    uses_target: ClassVar[bool] = False

    def __init__(self, projector: nn.Module, predictor: nn.Module | None = None):
        super().__init__()
        self.projector = projector
        self.predictor = nn.Identity() if predictor is None else predictor


def full_precision(tensor: torch.Tensor) -> torch.Tensor:
    """Return a floating-point tensor in float32, or unchanged if it is wider.

    Means and covariances over a batch lose too many digits in half precision, so every loss starts with this. Under
    autocast that is not enough for matrix products, which `torch.autocast` would narrow again: the losses switch it
    off around theirs.

    Args:
        tensor: Tensor of any shape.

    Returns:
        The same values, same shape.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def paired(first: torch.Tensor, second: torch.Tensor, minimum: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Check that two tensors hold the paired embeddings of two views, and return them in full precision.

    Args:
        first: Embeddings of the first view (pairs, dimensions).
        second: Embeddings of the second view, row by row of the same videos.
        minimum: The fewest pairs that the calling loss is defined for.

    Returns:
        Both tensors, in float32 or wider.

    Raises:
        ValueError: If the shapes differ, are not two-dimensional, or hold fewer than `minimum` pairs.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(
            "the two views must have the same shape (pairs, dimensions), "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if len(first) < minimum:
        raise ValueError(f"this objective needs at least {minimum} pairs in a batch, got {len(first)}")
    return full_precision(first), full_precision(second)
