"""Inputs, what they are made of, and the ensemble."""

import pytest
import torch

from vididi_hf.evaluation.inputs import check_inputs, orders_of, score_inputs, single_inputs


def test_inputs_are_made_of_orders():
    assert orders_of(["derivative"]) == [1]
    assert orders_of(["frames", "both"]) == orders_of(["ensemble"]) == [0, 1]
    assert single_inputs(["ensemble", "frames", "both"]) == ["frames", "derivative", "both"]


def test_unknown_inputs_are_named():
    with pytest.raises(ValueError, match="unknown input 'flow'; choose from frames, both"):
        check_inputs(["flow"], ["frames", "both"])
    with pytest.raises(ValueError, match="no inputs"):
        check_inputs([], ["frames"])


def test_the_ensemble_averages_probabilities():
    probabilities = {
        "frames": torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]),
        "derivative": torch.tensor([[0.4, 0.6], [0.9, 0.1], [0.5, 0.5]]),
    }
    labels = torch.tensor([0, 0, 1])
    metrics = score_inputs(["frames", "ensemble", "derivative"], probabilities, labels)
    assert list(metrics) == ["frames", "ensemble", "derivative"]
    assert metrics["frames"] == {"top-1": pytest.approx(2 / 3), "top-5": 1.0, "mean-class": pytest.approx(0.75)}
    assert metrics["ensemble"] == {"top-1": 1.0, "top-5": 1.0, "mean-class": 1.0}
    assert metrics["derivative"]["top-1"] == pytest.approx(1 / 3)
