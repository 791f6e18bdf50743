"""SimCLR: contrastive learning with the NT-Xent loss (Chen et al., 2020, arXiv 2002.05709)."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from vididi_hf.objectives.base import Objective, ObjectiveOutput, mlp, paired
from vididi_hf.objectives.gather import gather_views


def nt_xent_loss(
    first: torch.Tensor, second: torch.Tensor, temperature: float = 0.1, cross_view_only: bool = False
) -> ObjectiveOutput:
    r"""Computes the normalized, temperature-scaled cross-entropy over the 2N embeddings of N pairs.

    Each embedding picks its partner i' out of the 2N - 1 others by cosine similarity s (equation 1 of the paper):

    .. math::
        \frac{1}{2N} \sum_i \left( -\frac{s_{ii'}}{\tau} + \log \sum_{j \neq i} e^{s_{ij} / \tau} \right)

    Args:
        first: Embeddings of the first view (N, D), N >= 2.
        second: Embeddings of the second view (N, D).
        temperature: The positive temperature tau.
        cross_view_only: Compare each embedding with the N of the other view only, as ViDiDi's authors do.

    Returns:
        The loss; its summands `alignment` (minus the partners' scaled similarity) and `uniformity` (the logarithm of
        the sum); and `accuracy`, the share of embeddings whose nearest neighbor is their partner.

    Raises:
        ValueError: If the shapes differ or are not (N, D), N is 1, or the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    first, second = paired(first, second, minimum=2)
    embeddings = F.normalize(torch.cat((first, second)), dim=1)
    with torch.autocast(embeddings.device.type, enabled=False):
        logits = embeddings @ embeddings.T / temperature
    logits = logits.fill_diagonal_(-torch.inf)
    if cross_view_only:
        is_second = torch.arange(len(logits), device=logits.device) >= len(first)
        logits = logits.masked_fill(is_second == is_second[:, None], -torch.inf)
    partner = torch.arange(len(logits), device=logits.device).roll(len(first))[:, None]
    similarity = logits.gather(1, partner)
    # Relative to the partner: the difference of the two summands, each about 1 / temperature, would round off the loss.
    others = (logits - similarity).scatter(1, partner, -torch.inf)
    loss = F.softplus(others.logsumexp(dim=1)).mean()
    with torch.no_grad():
        accuracy = (logits.argmax(dim=1, keepdim=True) == partner).to(logits.dtype).mean()
        terms = {"alignment": -similarity.mean(), "uniformity": logits.logsumexp(dim=1).mean(), "accuracy": accuracy}
    return ObjectiveOutput(loss, terms)


class SimCLR(Objective):
    """SimCLR, by default on the global batch: negatives from all processes, with the exact gradient.

    Args:
        hidden_size: Width of the encoder's features.
        projector_sizes: Widths of the projector's hidden layers and output. Default: `(hidden_size, 128)`, as in the
            reference implementation (github.com/google-research/simclr).
        temperature: See `nt_xent_loss`.
        cross_view_only: See `nt_xent_loss`.
        gather: Take negatives from all processes, or from each process alone (the authors' code).

    Source: https://arxiv.org/abs/2002.05709.

    Example:
        >>> objective = SimCLR(512)
        >>> first, second = objective.projector(torch.randn(2 * 8, 512)).chunk(2)
        >>> first.shape, objective(first, second).loss.shape
        (torch.Size([8, 128]), torch.Size([]))
    """

    def __init__(
        self,
        hidden_size: int,
        projector_sizes: Sequence[int] | None = None,
        temperature: float = 0.1,
        cross_view_only: bool = False,
        gather: bool = True,
    ):
        sizes = (hidden_size, 128) if projector_sizes is None else projector_sizes
        super().__init__(projector=mlp((hidden_size, *sizes)))
        self.temperature, self.cross_view_only, self.gather = temperature, cross_view_only, gather

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> ObjectiveOutput:
        """Computes the loss of two views' embeddings, each (local pairs, dimensions)."""
        return nt_xent_loss(*gather_views(first, second, self.gather), self.temperature, self.cross_view_only)
