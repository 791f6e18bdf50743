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
    r"""Computes RankMe: :math:`\exp(-\sum_k p_k \log p_k), p_k = \sigma_k / \sum_j \sigma_j + 10^{-7}`.

    It is a smooth count of the dimensions that features (rows, dimensions) use, from their singular values (not
    centered). It grows with the number of rows. Source: Garrido et al. (https://arxiv.org/abs/2210.02885), equation 1.
    """
    values = torch.linalg.svdvals(features)
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + 1e-7
    return torch.exp(-(shares * shares.log()).sum())


def relative_std(embeddings: Tensor) -> Tensor:
    """Computes the mean standard deviation of unit vectors over dimensions, times the root of the dimension.

    It is 1 if embeddings (rows, dimensions) point in all directions and 0 if all point in the same one. Source: Chen
    and He, SimSiam (https://arxiv.org/abs/2011.10566), section 4.1.
    """
    return F.normalize(embeddings, dim=1).std(dim=0, correction=0).mean() * embeddings.shape[1] ** 0.5


def participation_ratio(embeddings: Tensor) -> Tensor:
    r"""Computes how many directions share the variance: :math:`(\sum_k \lambda_k)^2 / \sum_k \lambda_k^2`.

    The eigenvalues are those of the covariance of unit embeddings (rows, dimensions). A value near 1 means that the
    views agree on one property only, even if the loss is small. Source: Gao et al. (https://doi.org/10.1101/214262).
    """
    unit = F.normalize(embeddings, dim=1)
    variances = torch.linalg.svdvals(unit - unit.mean(dim=0)).square() + 1e-12
    return variances.sum().square() / variances.square().sum()


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Computes the mean squared distance, 0 to 4, between the unit embeddings (pairs, dimensions) of two views.

    Source: Wang and Isola (https://arxiv.org/abs/2005.10242), with exponent 2.
    """
    return (F.normalize(first, dim=1) - F.normalize(second, dim=1)).square().sum(dim=1).mean()


def uniformity(embeddings: Tensor) -> Tensor:
    r"""Computes the logarithm of the mean of :math:`e^{-2 \lVert x - y \rVert^2}` over pairs of unit embeddings.

    It is 0 if all are equal and about -4 if they spread over a sphere of many dimensions. Source: as `alignment`.
    """
    return torch.pdist(F.normalize(embeddings, dim=1)).square().mul(-2).exp().mean().log()


def describe_representation(features: Tensor, embeddings: Tensor) -> dict[str, Tensor]:
    """Measures the features (batch, 2, hidden_size) and embeddings (batch, 2, dimensions) of both views of a batch.

    Returns scalars on the CPU: `rank_me` of the features of both views; `alignment` of the embeddings; and the means
    over views of their `std`, `uniformity` and, from 8 videos and dimensions on, `participation`.
    """
    # The problems are tiny, so a CPU is fast. Singular values need more than half precision.
    features, embeddings = features.detach().cpu().double(), embeddings.detach().cpu().double()
    views = embeddings.unbind(dim=1)

    measures: dict[str, Callable[[Tensor], Tensor]] = {"std": relative_std, "uniformity": uniformity}
    if min(views[0].shape) >= _MIN_DIRECTIONS:
        measures["participation"] = participation_ratio
    means = {name: torch.stack([measure(view) for view in views]).mean() for name, measure in measures.items()}
    return {"rank_me": rank_me(features.flatten(0, 1)), "alignment": alignment(*views), **means}


def collapse_warnings(values: dict[str, Tensor]) -> dict[str, str]:
    """Returns a warning for each value of `describe_representation` that is below its limit."""
    return {
        name: f"{meaning} ({name} {values[name].item():.3g} is below {limit})"
        for name, (meaning, limit) in _WARNINGS.items()
        if name in values and values[name].item() < limit
    }
