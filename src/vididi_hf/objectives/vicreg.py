"""VICReg: variance-invariance-covariance regularization (Bardes, Ponce and LeCun, 2022, arXiv 2105.04906)."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from vididi_hf.objectives.base import Objective, ObjectiveOutput, mlp, paired
from vididi_hf.objectives.gather import gather_views


def vicreg_loss(
    first: torch.Tensor,
    second: torch.Tensor,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> ObjectiveOutput:
    r"""Computes the VICReg loss of the embeddings x and y of two views of N videos, in D dimensions.

    .. math::
        25 \cdot \frac{1}{ND} \sum (x - y)^2
        + 25 \cdot \frac{v(x) + v(y)}{2}
        + 1 \cdot (c(x) + c(y)), \quad
        v(x) = \frac{1}{D} \sum_d \max(0, 1 - \sqrt{\operatorname{var}(x_d) + 10^{-4}}), \quad
        c(x) = \frac{1}{D} \sum_{i \neq j} \operatorname{cov}(x)_{ij}^2

    with unbiased (N - 1) variance and covariance. Like the reference implementation (github.com/facebookresearch/
    vicreg) and unlike the paper's equations, it averages the variance term over the views and sums the covariance term.

    Args:
        first: Embeddings of the first view (N, D), N >= 2.
        second: Embeddings of the second view (N, D).
        invariance_weight: Weight of the squared distance between paired embeddings.
        variance_weight: Weight of the hinge that keeps every dimension's standard deviation at 1 or above.
        covariance_weight: Weight of the squared correlations between dimensions.

    Returns:
        The loss and the terms `invariance`, `variance` (0.99 for constant embeddings) and `covariance`.

    Raises:
        ValueError: If the shapes differ or are not (N, D), or N is 1.
    """
    first, second = paired(first, second, minimum=2)
    invariance = F.mse_loss(first, second)
    variance = (_variance_hinge(first) + _variance_hinge(second)) / 2
    covariance = _correlation_energy(first) + _correlation_energy(second)
    loss = invariance_weight * invariance + variance_weight * variance + covariance_weight * covariance
    terms = {"invariance": invariance, "variance": variance, "covariance": covariance}
    return ObjectiveOutput(loss, {name: term.detach() for name, term in terms.items()})


def _variance_hinge(embeddings: torch.Tensor) -> torch.Tensor:
    # The 1e-4 keeps the square root's gradient finite where a dimension has collapsed.
    return F.relu(1 - torch.sqrt(embeddings.var(dim=0) + 1e-4)).mean()


def _correlation_energy(embeddings: torch.Tensor) -> torch.Tensor:
    rows, dimensions = embeddings.shape
    centered = embeddings - embeddings.mean(dim=0)
    with torch.autocast(embeddings.device.type, enabled=False):
        covariance = centered.T @ centered / (rows - 1)
    return covariance.fill_diagonal_(0).square().sum() / dimensions


class VICReg(Objective):
    """VICReg, by default on the global batch: the loss of all processes' embeddings, with its exact gradient.

    Args:
        hidden_size: Width of the encoder's features.
        projector_sizes: Widths of the projector's hidden layers and output.
        invariance_weight: See `vicreg_loss`. ViDiDi's authors use 1, 1, 0.04, the same ratios at 1/25 of the scale.
        variance_weight: See `vicreg_loss`.
        covariance_weight: See `vicreg_loss`.
        gather: Compute the statistics over the global batch, or over the pairs of each process (the authors' code).

    Source: https://arxiv.org/abs/2105.04906.

    Example:
        >>> objective = VICReg(512, projector_sizes=(128, 128, 128))
        >>> first, second = objective.projector(torch.randn(2 * 8, 512)).chunk(2)
        >>> objective(first, second).loss.shape
        torch.Size([])
    """

    def __init__(
        self,
        hidden_size: int,
        projector_sizes: Sequence[int] = (2048, 2048, 2048),
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        gather: bool = True,
    ):
        super().__init__(projector=mlp((hidden_size, *projector_sizes)))
        self.weights = (invariance_weight, variance_weight, covariance_weight)
        self.gather = gather

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> ObjectiveOutput:
        """Computes the loss of two views' embeddings, each (local pairs, dimensions)."""
        return vicreg_loss(*gather_views(first, second, self.gather), *self.weights)
