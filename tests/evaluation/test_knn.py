"""The weighted vote, against one that counts with plain Python numbers."""

import doctest
import math

import pytest
import torch

from vididi_hf.evaluation import knn
from vididi_hf.evaluation.knn import knn_accuracy


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def vote_by_hand(query, gallery, voters, labels, temperature):
    scores = {}
    for voter in voters:
        if voter >= 0:
            weight = math.exp(cosine(query, gallery[voter]) / temperature)
            scores[labels[voter]] = scores.get(labels[voter], 0) + weight
    return max(scores, key=scores.get)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("chunk", [256, 3])
def test_agrees_with_a_count_by_hand(temperature, chunk):
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(20, 3, generator=generator), torch.randn(30, 3, generator=generator)
    gallery_labels = torch.randint(3, (30,), generator=generator)
    query_labels = torch.randint(3, (20,), generator=generator)
    nearest = torch.randint(-1, 30, (20, 7), generator=generator)
    predicted = [
        vote_by_hand(query, gallery.tolist(), voters, gallery_labels.tolist(), temperature)
        for query, voters in zip(queries.tolist(), nearest.tolist())
    ]
    expected = sum(a == b for a, b in zip(predicted, query_labels.tolist())) / 20
    found = knn_accuracy(queries, gallery, nearest, gallery_labels, query_labels, temperature, chunk)
    assert 0 < expected < 1
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("temperature", "winner"), [(0.07, 0), (10.0, 1)])
def test_temperature_decides_between_one_near_and_two_far_neighbours(temperature, winner):
    query = torch.tensor([[1.0, 0.0]])
    gallery = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])
    labels, nearest = torch.tensor([0, 1, 1]), torch.tensor([[0, 1, 2]])
    assert knn_accuracy(query, gallery, nearest, labels, torch.tensor([winner]), temperature) == 1


def test_nobody_votes_for_the_last_label():
    """The number -1 also indexes the last item, which must not gain a vote."""
    query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.9, 0.1], [1.0, 0.0]])
    assert knn_accuracy(query, gallery, torch.tensor([[0, -1]]), torch.tensor([0, 1]), torch.tensor([0])) == 1


def test_low_temperature_does_not_overflow():
    eye = torch.eye(3)
    assert knn_accuracy(eye, eye, torch.arange(3)[:, None], torch.arange(3), torch.arange(3), temperature=1e-4) == 1


def test_examples():
    assert doctest.testmod(knn).failed == 0
