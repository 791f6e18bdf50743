"""Exact search for the vectors with the greatest inner product, in little memory and with ties in a fixed order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_QUERIES_AT_ONCE = 256
# Scores of a block: few enough to stay in a core's cache between the product and the look at them.
_SCORES_AT_ONCE = 2**17
_KEPT_BEYOND_K = 16
_MAX_ROW = 2**32 - 1


def search_exact(queries: Floats, vectors: Floats, k: int) -> tuple[Floats, Integers]:
    """Finds, for every query, the k vectors with the greatest inner product: of unit vectors, the most similar ones.

    Vectors are compared block by block, and of a block only the queries are looked at for which it holds a better one
    than those found so far; so nearly all the time goes into the matrix products. These round: they can give equal
    vectors scores that differ in the last bit. Therefore a few more than k are kept, and compared once more in double
    precision, where equal vectors have equal scores wherever they lie, and come in their order.

    Args:
        queries: Finite float32 (queries, dimensions).
        vectors: Finite float32 (vectors, dimensions), which are searched. They are not copied and may be a memory map.
        k: How many to find; at most all of them are.

    Returns:
        The inner products, float32 (queries, min(k, vectors)), greatest first, equal ones in the order of the vectors;
        and the rows of the vectors, int64 of the same shape.

    Raises:
        ValueError: If the shapes do not fit together, k is below 1, or there are 2³² vectors or more.

    Example:
        ```python
        >>> import numpy as np
        >>> from vididi_hf.search.exact import search_exact
        >>> vectors = np.array([[0, 1], [1, 0], [0.6, 0.8], [1, 0]], dtype=np.float32)
        >>> scores, rows = search_exact(np.array([[1, 0]], dtype=np.float32), vectors, k=3)
        >>> rows, scores.shape
        (array([[1, 3, 2]]), (1, 3))

        ```
    """
    if queries.ndim != 2 or vectors.ndim != 2 or queries.shape[1] != vectors.shape[1]:
        raise ValueError(f"queries and vectors must be (number, dimensions), got {queries.shape} and {vectors.shape}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if len(vectors) > _MAX_ROW:
        raise ValueError(f"at most {_MAX_ROW} vectors can be searched, got {len(vectors)}")
    k = min(k, len(vectors))
    scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    if k > 0:
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            part = slice(start, start + _QUERIES_AT_ONCE)
            scores[part], rows[part] = _search_part(queries[part], vectors, k)
    return scores, rows


def _search_part(queries: Floats, vectors: Floats, k: int) -> tuple[Floats, Integers]:
    kept = min(k + _KEPT_BEYOND_K, len(vectors))
    # At least as many in the first block, so that there are those to be better than from then on.
    block_rows = max(kept, _SCORES_AT_ONCE // len(queries))
    best = _greatest(_keys(queries @ vectors[:block_rows].T, 0), kept)
    least = _scores_of(best.min(axis=1))
    for start in range(block_rows, len(vectors), block_rows):
        scores = queries @ vectors[start : start + block_rows].T
        # A later vector with the score of the last one found comes after it, so that only a greater one matters.
        better = np.flatnonzero(scores.max(axis=1) > least)
        if len(better):
            best[better] = _greatest(np.concatenate([best[better], _keys(scores[better], start)], axis=1), kept)
            least[better] = _scores_of(best[better].min(axis=1))
    rows = np.sort(_MAX_ROW - (best & _MAX_ROW), axis=1)
    exact = np.stack([(vectors[found].astype(np.float64) * query).sum(axis=1) for query, found in zip(queries, rows)])
    order = np.argsort(-exact.astype(np.float32), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(exact, order, 1).astype(np.float32), np.take_along_axis(rows, order, 1)


def _greatest(keys: Integers, k: int) -> Integers:
    return np.partition(keys, keys.shape[1] - k, axis=1)[:, keys.shape[1] - k :]


def _keys(scores: Floats, start: int) -> Integers:
    """Integers in the order of the scores and, among equal scores, against that of the rows: no two are equal.

    Args:
        scores: float32 (queries, rows).
        start: The number of the first row.

    Returns:
        int64 (queries, rows): the score in the upper half, the row counted backwards in the lower one.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # of two zeros, −0.0 + 0.0 makes one
    # As integers, the bits of negative floats are in the opposite order.
    ordered = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64)
    return (ordered << 32) + (_MAX_ROW - np.arange(start, start + scores.shape[1]))


def _scores_of(keys: Integers) -> Floats:
    """The scores that keys were made of."""
    ordered = (keys >> 32).astype(np.int32)
    return np.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).view(np.float32)
