"""BYOL: bootstrap your own latent (Grill et al., 2020, arXiv 2006.07733). `ViDiDiForPreTraining` has the EMA target."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch.nn import functional as F

from vididi_hf.objectives.base import Objective, ObjectiveOutput, mlp, paired


def byol_loss(
    first: torch.Tensor, second: torch.Tensor, target_first: torch.Tensor, target_second: torch.Tensor
) -> ObjectiveOutput:
    """Computes the symmetric BYOL loss |p1 - z2|² + |p2 - z1|² of predictions p and targets z of unit length.

    It is equation 2 of the paper plus the same with the views swapped, as a mean over pairs. No gradient reaches the
    targets.

    Args:
        first: Online predictions from the first view (N, D).
        second: Online predictions from the second view (N, D).
        target_first: Target embeddings of the first view (N, D).
        target_second: Target embeddings of the second view (N, D).

    Returns:
        The loss, between 0 and 8, and the term `similarity`: the mean cosine between predictions and targets.

    Raises:
        ValueError: If the four shapes differ or are not (N, D).
    """
    loss = _squared_distance(first, target_second) + _squared_distance(second, target_first)
    # Between unit vectors ||p - z||^2 = 2 - 2 cos(p, z), and the loss is the sum of two such distances.
    return ObjectiveOutput(loss, {"similarity": 1 - loss.detach() / 4})


def _squared_distance(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    prediction, target = paired(prediction, target.detach())
    return (F.normalize(prediction, dim=1) - F.normalize(target, dim=1)).square().sum(dim=1).mean()


def cosine_decay(step: int, total_steps: int, base: float) -> float:
    """Computes the EMA momentum of a step, which rises from `base` to 1 along half a cosine."""
    if not 0 <= step <= total_steps or total_steps < 1:
        raise ValueError(f"step must lie between 0 and total_steps >= 1, got step {step} of {total_steps}")
    if not 0 <= base <= 1:
        raise ValueError(f"base must lie between 0 and 1, got {base}")
    return 1 - (1 - base) * (math.cos(math.pi * step / total_steps) + 1) / 2


class BYOL(Objective):
    """BYOL: the online network predicts the embeddings of its own moving average.

    The loss is a mean over independent pairs and gathers nothing: averaged over processes with equal batches, its
    gradient is that of the global batch.

    Args:
        hidden_size: Width of the encoder's features.
        projector_sizes: Widths of the projector's hidden layers and output.
        predictor_sizes: Widths of the predictor's hidden layers and output. The output is as wide as the projector's.

    Raises:
        ValueError: If projector and predictor differ in output width.

    Source: https://arxiv.org/abs/2006.07733.

    Example:
        >>> objective = BYOL(512, projector_sizes=(128, 32), predictor_sizes=(128, 32))
        >>> targets = objective.projector(torch.randn(2 * 8, 512)).chunk(2)
        >>> predictions = objective.predictor(torch.cat(targets)).chunk(2)
        >>> objective(*predictions, *targets).loss.shape
        torch.Size([])
    """

    uses_target: ClassVar[bool] = True

    def __init__(
        self,
        hidden_size: int,
        projector_sizes: Sequence[int] = (4096, 256),
        predictor_sizes: Sequence[int] = (4096, 256),
    ):
        projector = mlp((hidden_size, *projector_sizes))
        if tuple(predictor_sizes[-1:]) != tuple(projector_sizes[-1:]):
            sizes = f"{tuple(predictor_sizes)} and {tuple(projector_sizes)}"
            raise ValueError(f"predictor_sizes must end like projector_sizes, got {sizes}")
        super().__init__(projector, predictor=mlp((projector_sizes[-1], *predictor_sizes)))

    def forward(
        self, first: torch.Tensor, second: torch.Tensor, target_first: torch.Tensor, target_second: torch.Tensor
    ) -> ObjectiveOutput:
        """Computes the loss of both views' predictions and target embeddings, each (local pairs, dimensions)."""
        return byol_loss(first, second, target_first, target_second)
