"""R@k by loops, mAP by scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from vididi_hf.evaluation.metrics import RecallAtK
from vididi_hf.evaluation.metrics.recall_at_k import RECALL_AT, mean_average_precision


@pytest.fixture
def ranking():
    generator = np.random.default_rng(0)
    return generator.integers(0, 6, size=(40, 15)), generator.integers(0, 6, size=40)


def test_recall_counts_queries_with_any_hit(ranking, tmp_path):
    neighbors, labels = ranking
    metric = RecallAtK(cache_dir=str(tmp_path))
    for begin in (0, 10):
        metric.add_batch(predictions=neighbors[begin : begin + 10], references=labels[begin : begin + 10])
    recalls = metric.compute(ks=(1, 4, 99))  # 99 counts all 15 neighbors
    for k in (1, 4, 99):
        hits = [any(found == label for found in row[:k]) for row, label in zip(neighbors[:20], labels)]
        assert recalls[f"R@{k}"] == sum(hits) / 20
    recalls = RecallAtK(keep_in_memory=True).compute(predictions=neighbors, references=labels)
    assert list(recalls) == [f"R@{k}" for k in RECALL_AT]
    assert list(recalls.values()) == sorted(recalls.values())


def test_mean_average_precision_is_scikit_learns(ranking):
    neighbors, labels = ranking
    falling = -np.arange(15.0)  # the ranking as scores, all different
    expected = [
        average_precision_score(row == label, falling) if (row == label).any() else 0.0
        for row, label in zip(neighbors, labels)
    ]
    found = mean_average_precision(torch.from_numpy(neighbors), torch.from_numpy(labels))
    assert found == pytest.approx(np.mean(expected))


def test_no_neighbor_and_missing_labels_are_misses():
    neighbors, labels = [[-1, 2], [0, -1], [1, 1]], [2, 3, 1]
    recalls = RecallAtK(keep_in_memory=True).compute(predictions=neighbors, references=labels, ks=(1, 2))
    assert recalls == {"R@1": pytest.approx(1 / 3), "R@2": pytest.approx(2 / 3)}
    assert mean_average_precision(torch.tensor(neighbors), torch.tensor(labels)) == pytest.approx((0.5 + 0 + 1) / 3)
