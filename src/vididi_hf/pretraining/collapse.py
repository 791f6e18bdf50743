"""Measures of collapse, without labels: how many dimensions embeddings use, how they spread, how views agree."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Below a limit, downstream tasks cannot tell videos apart any more.
_WARNINGS = {
    "std": ("all videos have nearly the same embedding", 0.05),
    "rank_me": ("the features lie on one line", 1.1),
    "participation": ("the embeddings of the videos vary along hardly more than one line", 1.5),
}
# With fewer rows or dimensions, the participation ratio says nothing: two rows always lie on one line.
_MIN_DIRECTIONS = 8


def rank_me(features: Tensor) -> Tensor:
    r"""Computes RankMe, a smooth count of the dimensions that features (rows, dimensions) use.

    .. math::
        \exp\Bigl(-\sum_k p_k \log p_k\Bigr), \quad p_k = \frac{\sigma_k}{\sum_j \sigma_j} + 10^{-7}

    with the singular values :math:`\sigma` of the features, which are not centered. The value lies between 1 and about
    min(rows, dimensions), and grows with the number of rows.

    Source: Garrido et al. (https://arxiv.org/abs/2210.02885), equation 1.

    Example:
        >>> round(rank_me(torch.eye(4)).item(), 3)
        4.0
    """
    values = torch.linalg.svdvals(features)
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + 1e-7
    return torch.exp(-(shares * shares.log()).sum())


def relative_std(embeddings: Tensor) -> Tensor:
    """Computes the mean standard deviation of unit vectors over dimensions, times the root of the dimension.

    The value is 1 if the embeddings (rows, dimensions) point in all directions, and 0 if all point in the same one.

    Source: Chen and He, SimSiam (https://arxiv.org/abs/2011.10566), section 4.1.

    Example:
        >>> relative_std(torch.ones(8, 4)).item()
        0.0
    """
    return F.normalize(embeddings, dim=1).std(dim=0, correction=0).mean() * embeddings.shape[1] ** 0.5


def participation_ratio(embeddings: Tensor) -> Tensor:
    r"""Computes how many directions share the variance of unit vectors (rows, dimensions).

    .. math::
        \Bigl(\sum_k \lambda_k\Bigr)^2 \Big/ \sum_k \lambda_k^2

    with the eigenvalues :math:`\lambda` of their covariance. The value lies between 1 and min(rows, dimensions). A
    value near 1 means that the views agree on one property only, even if the loss is small.

    Source: Gao et al. (https://doi.org/10.1101/214262).

    Example:
        >>> round(participation_ratio(torch.cat([torch.eye(4), -torch.eye(4)])).item(), 3)
        4.0
    """
    unit = F.normalize(embeddings, dim=1)
    variances = torch.linalg.svdvals(unit - unit.mean(dim=0)).square() + 1e-12
    return variances.sum().square() / variances.square().sum()


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Computes the mean squared distance, 0 to 4, between the unit embeddings (pairs, dimensions) of two views.

    Source: Wang and Isola (https://arxiv.org/abs/2005.10242), with exponent 2.

    Example:
        >>> alignment(torch.eye(3), -torch.eye(3)).item()
        4.0
    """
    return (F.normalize(first, dim=1) - F.normalize(second, dim=1)).square().sum(dim=1).mean()


def uniformity(embeddings: Tensor) -> Tensor:
    r"""Computes the logarithm of the mean of :math:`e^{-2 \lVert x - y \rVert^2}` over all pairs of unit embeddings.

    The value lies between 0 (all embeddings are equal) and about -4 (spread over a sphere of many dimensions).

    Source: Wang and Isola (https://arxiv.org/abs/2005.10242), with temperature 2.

    Example:
        >>> round(uniformity(torch.eye(3)).item(), 3)
        -4.0
    """
    return torch.pdist(F.normalize(embeddings, dim=1)).square().mul(-2).exp().mean().log()


def describe_representation(features: Tensor, embeddings: Tensor) -> dict[str, Tensor]:
    """Measures one batch.

    Args:
        features: The encoder's outputs for both views (batch, 2, hidden_size).
        embeddings: The projector's outputs for both views (batch, 2, dimensions).

    Returns:
        Scalars on the CPU: `rank_me` of the features of both views; `alignment` of the embeddings; and `std`,
        `uniformity` and, from 8 videos and dimensions on, `participation` of the embeddings (means over the views).

    Example:
        >>> sorted(describe_representation(torch.randn(8, 2, 16), torch.randn(8, 2, 8)))
        ['alignment', 'participation', 'rank_me', 'std', 'uniformity']
    """
    # The problems are tiny, so a CPU is fast. Singular values need more than half precision.
    features, embeddings = features.detach().cpu().double(), embeddings.detach().cpu().double()
    views = embeddings.unbind(dim=1)

    def mean_over_views(measure: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([measure(view) for view in views]).mean()

    values = {
        "rank_me": rank_me(features.flatten(0, 1)),
        "std": mean_over_views(relative_std),
        "alignment": alignment(*views),
        "uniformity": mean_over_views(uniformity),
    }
    if min(views[0].shape) >= _MIN_DIRECTIONS:
        values["participation"] = mean_over_views(participation_ratio)
    return values


def collapse_warnings(values: dict[str, Tensor]) -> dict[str, str]:
    """Returns a warning for each value of `describe_representation` that is below its limit.

    Example:
        >>> collapse_warnings({"rank_me": torch.tensor(1.02), "std": torch.tensor(0.4)})
        {'rank_me': 'the features lie on one line (rank_me 1.02 is below 1.1)'}
    """
    return {
        name: f"{meaning} ({name} {values[name].item():.3g} is below {limit})"
        for name, (meaning, limit) in _WARNINGS.items()
        if name in values and values[name].item() < limit
    }
