"""Accuracies against scikit-learn; the ensemble; several processes at once."""

import multiprocessing

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from vididi_hf.evaluation.metrics import MeanClassAccuracy, TopKAccuracy
from vididi_hf.evaluation.metrics.accuracy import score_inputs


def test_top_k_accuracy_is_scikit_learns(tmp_path):
    generator = np.random.default_rng(0)
    scores, labels = generator.random((60, 9)), generator.integers(0, 9, size=60)
    found = TopKAccuracy(cache_dir=str(tmp_path)).compute(predictions=scores, references=labels, ks=(1, 3, 5))
    assert list(found) == ["top-1", "top-3", "top-5"]
    for k in (1, 3, 5):
        assert found[f"top-{k}"] == pytest.approx(top_k_accuracy_score(labels, scores, k=k, labels=range(9)))


def test_equal_scores_are_ranked_by_class_and_what_cannot_be_ranked_is_named():
    metric = TopKAccuracy(keep_in_memory=True)
    found = metric.compute(predictions=np.ones((4, 4)), references=range(4), ks=(1, 2, 4, 9))
    assert found == {"top-1": 0.25, "top-2": 0.5, "top-4": 1.0, "top-9": 1.0}
    with pytest.raises(ValueError, match="scores of 1 videos contain NaN"):
        TopKAccuracy(keep_in_memory=True).compute(predictions=[[0.5, 0.5], [np.nan, 0.1]], references=[0, 1])
    with pytest.raises(ValueError, match="labels must lie in 0 … 1, got 0 … 2"):
        TopKAccuracy(keep_in_memory=True).compute(predictions=[[0.5, 0.5], [0.3, 0.1]], references=[0, 2])


def test_mean_class_accuracy_is_scikit_learns_balanced_accuracy(tmp_path):
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2, 5], [40, 10, 3, 1])  # unequal, with gaps
    predicted = np.where(generator.random(54) < 0.6, labels, generator.choice([0, 1, 2, 5], size=54))
    expected = balanced_accuracy_score(labels, predicted)
    found = MeanClassAccuracy(cache_dir=str(tmp_path)).compute(predictions=predicted, references=labels)
    assert found == {"mean-class": pytest.approx(expected)}
    assert expected != pytest.approx((predicted == labels).mean())


PROBABILITIES = {
    "frames": torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]),
    "derivative": torch.tensor([[0.4, 0.6], [0.9, 0.1], [0.5, 0.5]]),
}


def scores_of_all(_=None):
    return score_inputs(["frames", "ensemble", "derivative"], PROBABILITIES, torch.tensor([0, 0, 1]))


def test_the_ensemble_averages_probabilities_and_processes_score_at_once():
    metrics = scores_of_all()
    assert metrics["frames"] == {"top-1": pytest.approx(2 / 3), "top-5": 1.0, "mean-class": pytest.approx(0.75)}
    assert metrics["ensemble"] == {"top-1": 1.0, "top-5": 1.0, "mean-class": 1.0}
    assert metrics["derivative"]["top-1"] == pytest.approx(1 / 3)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(scores_of_all, range(4)) == [metrics] * 4
