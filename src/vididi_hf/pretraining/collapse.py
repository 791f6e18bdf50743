"""What embeddings look like, without labels: how many dimensions they use, how they spread, how pairs agree."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Below these, downstream tasks have nothing left to tell videos apart by.
_SMALLEST_DEVIATION = 0.05
_SMALLEST_RANK = 1.1
_SMALLEST_PARTICIPATION = 1.5
# Fewer rows or dimensions leave too few directions to be shared: two rows always lie on one line.
_FEWEST_DIRECTIONS = 8


def rank_me(features: Tensor) -> Tensor:
    r"""Compute RankMe, a smooth count of the dimensions that features use.

    .. math::
        \exp\Bigl(-\sum_k p_k \log p_k\Bigr), \quad p_k = \frac{\sigma_k}{\sum_j \sigma_j} + 10^{-7}

    with the singular values :math:`\sigma` of the features, which are not centerd.

    Args:
        features: (rows, dimensions).

    Returns:
        A scalar from 1 to about min(rows, dimensions). It grows with the number of rows: compare equal batches only.

    Source: Garrido et al., "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations
    by Their Rank" (https://arxiv.org/abs/2210.02885), equation 1.

    Example:
        >>> round(rank_me(torch.eye(4)).item(), 3)
        4.0
    """
    values = torch.linalg.svdvals(features)
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + 1e-7
    return torch.exp(-(shares * shares.log()).sum())


def relative_deviation(embeddings: Tensor) -> Tensor:
    """Compute the mean standard deviation of the dimensions of unit vectors, times the root of their number.

    Args:
        embeddings: (rows, dimensions), of any length; they are scaled to length 1.

    Returns:
        A scalar: 1 where they point in all directions alike, 0 where all point in the same one.

    Source: Chen and He, "Exploring Simple Siamese Representation Learning" (https://arxiv.org/abs/2011.10566), section
    4.1.

    Example:
        >>> relative_deviation(torch.ones(8, 4)).item()
        0.0
    """
    return F.normalize(embeddings, dim=1).std(dim=0, correction=0).mean() * embeddings.shape[1] ** 0.5


def participation_ratio(embeddings: Tensor) -> Tensor:
    r"""Compute how many directions share the variance of unit vectors.

    .. math::
        \Bigl(\sum_k \lambda_k\Bigr)^2 \Big/ \sum_k \lambda_k^2

    with the eigenvalues :math:`\lambda` of their covariance. An objective whose embeddings vary along one direction has
    found only one thing that views have in common, although its loss may be small and no two embeddings are the same.

    Args:
        embeddings: (rows, dimensions), of any length; they are scaled to length 1.

    Returns:
        A scalar from 1 to min(rows, dimensions); the latter also where all point in the same direction, since none
        stands out then. It grows with the number of rows: compare equal batches only.

    Source: Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement"
    (https://doi.org/10.1101/214262).

    Example:
        >>> round(participation_ratio(torch.cat([torch.eye(4), -torch.eye(4)])).item(), 3)
        4.0
    """
    unit = F.normalize(embeddings, dim=1)
    variances = torch.linalg.svdvals(unit - unit.mean(dim=0)).square() + 1e-12
    return variances.sum().square() / variances.square().sum()


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Compute the mean squared distance between the unit embeddings (pairs, dimensions) of two views.

    Returns:
        A scalar from 0, where the views of every pair agree, to 4.

    Source: Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere" (https://arxiv.org/abs/2005.10242), with their exponent 2.

    Example:
        >>> alignment(torch.eye(3), -torch.eye(3)).item()
        4.0
    """
    return (F.normalize(first, dim=1) - F.normalize(second, dim=1)).square().sum(dim=1).mean()


def uniformity(embeddings: Tensor) -> Tensor:
    r"""Compute the logarithm of the mean of :math:`e^{-2 \lVert x - y \rVert^2}` over all pairs of unit embeddings.

    Args:
        embeddings: Those of one view (rows, dimensions), at least 2 rows.

    Returns:
        A scalar from 0, where all are the same, down to about -4, where they spread over a sphere of many dimensions.

    Source: Wang and Isola (see `alignment`), with their temperature 2.

    Example:
        >>> round(uniformity(torch.eye(3)).item(), 3)
        -4.0
    """
    return torch.pdist(F.normalize(embeddings, dim=1)).square().mul(-2).exp().mean().log()


def describe_representation(features: Tensor, embeddings: Tensor) -> dict[str, Tensor]:
    """Measures a batch: what the encoder makes of it, and what the objective sees of that.

    Args:
        features: The encoder's outputs for both views (batch, 2, hidden_size).
        embeddings: The projector's outputs for both views (batch, 2, dimensions).

    Returns:
        Scalars on the CPU: `rank_me` of the features of both views together, and of the embeddings `deviation`,
        `uniformity` and, from 8 videos and dimensions on, `participation` (means over the views), and `alignment`.

    Example:
        >>> sorted(describe_representation(torch.randn(8, 2, 16), torch.randn(8, 2, 8)))
        ['alignment', 'deviation', 'participation', 'rank_me', 'uniformity']
    """
    # Tiny problems, for which a CPU is fast; in double, since singular values of half precision mean little.
    features, embeddings = features.detach().cpu().double(), embeddings.detach().cpu().double()
    views = embeddings.unbind(dim=1)

    def over_views(measure: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([measure(view) for view in views]).mean()

    values = {
        "rank_me": rank_me(features.flatten(0, 1)),
        "deviation": over_views(relative_deviation),
        "alignment": alignment(*views),
        "uniformity": over_views(uniformity),
    }
    if min(views[0].shape) >= _FEWEST_DIRECTIONS:
        values["participation"] = over_views(participation_ratio)
    return values


def collapse_warnings(values: dict[str, Tensor]) -> dict[str, str]:
    """Says in words what is wrong with a representation.

    Args:
        values: As `describe_representation` returns them.

    Returns:
        By the name of a value the words for it; empty if nothing is wrong.

    Example:
        >>> collapse_warnings({"rank_me": torch.tensor(1.02), "deviation": torch.tensor(0.4)})
        {'rank_me': 'the features lie on one line (rank_me 1.02 is below 1.1)'}
    """
    words = {
        "deviation": ("all videos have nearly the same embedding", _SMALLEST_DEVIATION),
        "rank_me": ("the features lie on one line", _SMALLEST_RANK),
        "participation": ("the embeddings of the videos vary along hardly more than one line", _SMALLEST_PARTICIPATION),
    }
    return {
        name: f"{meaning} ({name} {values[name].item():.3g} is below {limit})"
        for name, (meaning, limit) in words.items()
        if name in values and values[name].item() < limit
    }
