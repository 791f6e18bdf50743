"""What an encoder is shown when it is evaluated: the frames, their derivative, or both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vididi_hf.evaluation.metrics.mean_class_accuracy import mean_class_accuracy
from vididi_hf.evaluation.metrics.top_k_accuracy import top_k_accuracy

INPUTS: dict[str, tuple[int, ...]] = {"frames": (0,), "derivative": (1,), "both": (0, 1)}
"""What the encoder is shown: V, ∂V, or both with their features side by side."""

ENSEMBLE = "ensemble"
"""The mean of the probabilities that a classifier of the frames and one of the derivative give."""

ENSEMBLE_OF = ("frames", "derivative")
CLASSIFIER_INPUTS = (*INPUTS, ENSEMBLE)


def check_inputs(inputs: Sequence[str], known: Sequence[str]) -> None:
    """Checks the names of inputs.

    Raises:
        ValueError: If there are none, or one is unknown.
    """
    if not inputs:
        raise ValueError(f"no inputs: choose from {', '.join(known)}")
    for name in inputs:
        if name not in known:
            raise ValueError(f"unknown input {name!r}; choose from {', '.join(known)}")


def single_inputs(inputs: Sequence[str]) -> list[str]:
    """Lists the inputs that have to be computed for those asked for: the ensemble's parts in place of itself."""
    return list(dict.fromkeys(part for name in inputs for part in (ENSEMBLE_OF if name == ENSEMBLE else (name,))))


def orders_of(inputs: Sequence[str]) -> list[int]:
    """Lists the derivative orders that inputs are made of."""
    return sorted({order for name in single_inputs(inputs) for order in INPUTS[name]})


def score_inputs(
    inputs: Sequence[str], probabilities: dict[str, Tensor], labels: Tensor
) -> dict[str, dict[str, float]]:
    """Scores the probabilities that classifiers give, for each input asked for.

    Args:
        inputs: Some of `CLASSIFIER_INPUTS`.
        probabilities: For each of `single_inputs(inputs)`, (videos, classes).
        labels: int64 (videos,).

    Returns:
        By input, `{"top-1": …, "top-5": …, "mean-class": …}`, between 0 and 1.
    """
    metrics = {}
    for name in inputs:
        parts = ENSEMBLE_OF if name == ENSEMBLE else (name,)
        scores = torch.stack([probabilities[part] for part in parts]).mean(dim=0)
        accuracies = top_k_accuracy(scores, labels, ks=(1, 5))
        mean = mean_class_accuracy(scores.argmax(dim=1), labels)
        metrics[name] = {**{f"top-{k}": value for k, value in accuracies.items()}, "mean-class": mean}
    return metrics
