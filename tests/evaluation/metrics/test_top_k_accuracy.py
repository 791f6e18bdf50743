"""Top-k accuracy against scikit-learn's, and where scores tie."""


import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from vididi_hf.evaluation.metrics import TopKAccuracy
from vididi_hf.evaluation.metrics.top_k_accuracy import top_k_accuracy


def test_is_scikit_learns(tmp_path):
    generator = np.random.default_rng(0)
    scores, labels = generator.random((60, 9)), generator.integers(0, 9, size=60)
    found = TopKAccuracy(cache_dir=str(tmp_path)).compute(predictions=scores, references=labels, ks=(1, 3, 5))
    assert list(found) == ["top-1", "top-3", "top-5"]
    for k in (1, 3, 5):
        assert found[f"top-{k}"] == pytest.approx(top_k_accuracy_score(labels, scores, k=k, labels=range(9)))


def test_equal_scores_are_ranked_by_class():
    scores = torch.ones(4, 4)
    assert top_k_accuracy(scores, torch.arange(4), ks=(1, 2, 4, 9)) == {1: 0.25, 2: 0.5, 4: 1.0, 9: 1.0}


def test_what_cannot_be_ranked_is_named():
    scores = torch.tensor([[0.5, 0.5], [float("nan"), 0.1]])
    with pytest.raises(ValueError, match="scores of 1 videos hold NaN"):
        top_k_accuracy(scores, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="labels must lie in 0 … 1, got 0 … 2"):
        top_k_accuracy(torch.rand(2, 2), torch.tensor([0, 2]))
