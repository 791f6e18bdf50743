"""Mean class accuracy against scikit-learn's balanced accuracy."""


import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from vididi_hf.evaluation.metrics import MeanClassAccuracy
from vididi_hf.evaluation.metrics.mean_class_accuracy import mean_class_accuracy


def test_is_scikit_learns_balanced_accuracy(tmp_path):
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2, 5], [40, 10, 3, 1])  # unequal, with gaps
    predicted = np.where(generator.random(54) < 0.6, labels, generator.choice([0, 1, 2, 5], size=54))
    expected = balanced_accuracy_score(labels, predicted)
    assert mean_class_accuracy(torch.from_numpy(predicted), torch.from_numpy(labels)) == pytest.approx(expected)
    found = MeanClassAccuracy(cache_dir=str(tmp_path)).compute(predictions=predicted, references=labels)
    assert found == {"mean-class": pytest.approx(expected)}
    assert expected != pytest.approx((predicted == labels).mean())
