"""Exact search against sorting all inner products, in double precision."""

import tracemalloc

import numpy as np
import pytest

from vididi_hf.search import exact as module
from vididi_hf.search.search import search_exact


def by_sorting(queries, vectors, k):
    """All inner products, and the vectors sorted by them; equal ones stay in their order."""
    products = queries.astype(np.float64) @ vectors.astype(np.float64).T
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(products, order, axis=1), order


def random_vectors(*shape, seed):
    vectors = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(params=[2**17, 300, 7], ids=lambda scores: f"blocks of {scores} scores")
def blocks(request, monkeypatch):
    monkeypatch.setattr(module, "_SCORES_AT_ONCE", request.param)
    monkeypatch.setattr(module, "_QUERIES_AT_ONCE", 6)


@pytest.mark.parametrize("k", [1, 10, 400, 1000])
@pytest.mark.parametrize("queries", [1, 9])
def test_finds_what_sorting_finds(blocks, queries, k):
    asked, vectors = random_vectors(queries, 24, seed=0), random_vectors(400, 24, seed=1)
    scores, rows = search_exact(asked, vectors, k)
    expected_scores, expected_rows = by_sorting(asked, vectors, k)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-7)


@pytest.mark.parametrize("k", [1, 5, 50, 500])
def test_of_equal_scores_the_first_vector_wins(blocks, k):
    """Small integers: products are exact, nearly all of them occur often, and negative ones and zeros do."""
    numbers = np.random.default_rng(2)
    asked = numbers.integers(-2, 3, (8, 4)).astype(np.float32)
    vectors = numbers.integers(-2, 3, (500, 4)).astype(np.float32)
    vectors[::3] *= -1  # makes zeros of both signs
    scores, rows = search_exact(asked, vectors, k)
    expected_scores, expected_rows = by_sorting(asked, vectors, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_copies_of_a_vector_have_one_score_wherever_they_lie(blocks):
    """Matrix products round differently at the edge of a block, and for another number of queries."""
    different = random_vectors(40, 33, seed=3)
    vectors = different[np.random.default_rng(4).integers(40, size=300)]
    asked = random_vectors(5, 33, seed=5)
    scores, rows = search_exact(asked, vectors, 20)
    for some, found in zip(scores, rows, strict=True):
        assert len(np.unique(some)) == len(np.unique(vectors[found], axis=0)) < 20
        order = np.lexsort((found, -some))
        np.testing.assert_array_equal(order, np.arange(20))
    one_by_one = [search_exact(query[None], vectors, 20)[1][0] for query in asked]
    np.testing.assert_array_equal(rows, one_by_one)


def test_ever_better_vectors(blocks):
    """The worst case, in which every block changes what was found."""
    vectors = np.arange(300, dtype=np.float32)[:, None]
    _, rows = search_exact(np.array([[1.0], [-1.0]], dtype=np.float32), vectors, 3)
    assert rows.tolist() == [[299, 298, 297], [0, 1, 2]]


def test_needs_little_memory():
    vectors, asked = random_vectors(200_000, 8, seed=6), random_vectors(64, 8, seed=7)
    tracemalloc.start()
    search_exact(asked, vectors, 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 200_000  # bytes; all scores together would take four times that


def test_nothing_to_search_or_to_ask():
    vectors = random_vectors(5, 3, seed=8)
    for asked, searched, shape in ((vectors, vectors[:0], (5, 0)), (vectors[:0], vectors, (0, 4))):
        scores, rows = search_exact(asked, searched, 4)
        assert scores.shape == rows.shape == shape


@pytest.mark.parametrize(
    ("shape", "k", "message"),
    [((2, 4), 1, r"got \(2, 4\) and \(5, 3\)"), ((3,), 1, r"got \(3,\)"), ((2, 3), 0, "k must be at least 1, got 0")],
)
def test_impossible_arguments(shape, k, message):
    with pytest.raises(ValueError, match=message):
        search_exact(np.zeros(shape, np.float32), np.zeros((5, 3), np.float32), k)
