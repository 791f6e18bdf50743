"""R@k by loops, mAP by scikit-learn."""


import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from vididi_hf.evaluation.metrics import RecallAtK
from vididi_hf.evaluation.metrics.recall_at_k import mean_average_precision, recall_at_k


@pytest.fixture
def ranking():
    generator = np.random.default_rng(0)
    return generator.integers(0, 6, size=(40, 15)), generator.integers(0, 6, size=40)


def test_recall_counts_queries_with_any_hit(ranking):
    neighbors, labels = ranking
    recalls = recall_at_k(torch.from_numpy(neighbors), torch.from_numpy(labels), ks=(1, 4, 99))
    for k in (1, 4, 99):
        hits = [any(found == label for found in row[:k]) for row, label in zip(neighbors, labels)]
        assert recalls[k] == pytest.approx(sum(hits) / 40)


def test_mean_average_precision_is_scikit_learns(ranking):
    neighbors, labels = ranking
    falling = -np.arange(15.0)  # the ranking as scores, all different
    expected = [
        average_precision_score(row == label, falling) if (row == label).any() else 0.0
        for row, label in zip(neighbors, labels)
    ]
    found = mean_average_precision(torch.from_numpy(neighbors), torch.from_numpy(labels))
    assert found == pytest.approx(np.mean(expected))


def test_nobody_and_missing_labels_are_misses():
    neighbors = torch.tensor([[-1, 2], [0, -1], [1, 1]])
    labels = torch.tensor([2, 3, 1])
    assert recall_at_k(neighbors, labels, ks=(1, 2)) == {1: pytest.approx(1 / 3), 2: pytest.approx(2 / 3)}
    assert mean_average_precision(neighbors, labels) == pytest.approx((0.5 + 0 + 1) / 3)


def test_metric_collects_batches(ranking, tmp_path):
    neighbors, labels = ranking
    metric = RecallAtK(cache_dir=str(tmp_path))
    for begin in (0, 10):
        metric.add_batch(predictions=neighbors[begin : begin + 10], references=labels[begin : begin + 10])
    expected = recall_at_k(torch.from_numpy(neighbors[:20]), torch.from_numpy(labels[:20]), ks=(1, 5))
    assert metric.compute(ks=(1, 5)) == {"R@1": expected[1], "R@5": expected[5]}
