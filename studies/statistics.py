"""Means, deviations and margins over seeds, and when a margin is called clear."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

CLEAR_DEVIATIONS = 2
"""A margin is clear if it exceeds so many deviations of the difference between two runs."""
CONFIDENCE = 0.95


class Score(NamedTuple):
    """One number of one run: the value of a `metric` for the question `about` when the encoder was shown `input`."""

    dataset: str
    arm: str
    seed: int
    about: str
    input: str
    metric: str
    value: float


@dataclass(frozen=True)
class Spread:
    """A number over seeds.

    Attributes:
        mean: Its mean.
        deviation: Its sample deviation (n − 1); None for a single seed.
    """

    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Summary:
    """What an arm reaches on a data set, over its seeds: each metric for one question and one input."""

    dataset: str
    arm: str
    about: str
    input: str
    seeds: int
    metrics: dict[str, Spread]


@dataclass(frozen=True)
class Margin:
    """By how much one arm exceeds another.

    Attributes:
        dataset: Where.
        arm: The one.
        against: The other.
        about: The question.
        input: What the encoders were shown.
        metric: In what.
        difference: The difference of the two means, over the seeds that both have, as everything here.
        deviation: √(s² + s'²) of the two sample deviations: the deviation of the difference between a run of the one
            and a run of the other. None for a single seed.
        clear: Whether the difference exceeds `CLEAR_DEVIATIONS` of these; None where they are not known.
        seeds: How many seeds both have.
        wins: With how many of them the one is above the other.
        interval: Where the mean of the differences seed by seed lies with `CONFIDENCE`, by Student's t; None for a
            single seed.
    """

    dataset: str
    arm: str
    against: str
    about: str
    input: str
    metric: str
    difference: float
    deviation: float | None
    clear: bool | None
    seeds: int
    wins: int
    interval: tuple[float, float] | None


def scores_of(result: Mapping[str, Any]) -> list[Score]:
    """Lists the numbers of a run.

    Args:
        result: `dataset`, `arm`, `seed`, and `metrics` by what was asked about, by input, by name.
    """
    return [
        Score(result["dataset"], result["arm"], result["seed"], about, shown, metric, value)
        for about, inputs in result["metrics"].items()
        for shown, numbers in inputs.items()
        for metric, value in numbers.items()
    ]


def spread(values: Sequence[float]) -> Spread:
    """Computes mean and sample deviation.

    Example:
        >>> from studies.statistics import spread
        >>> spread([0.25, 0.5, 0.75])
        Spread(mean=0.5, deviation=0.25)
    """
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def summarize(scores: Iterable[Score]) -> list[Summary]:
    """Averages over seeds, in the order in which data sets, arms, questions and inputs come up."""
    values: dict[tuple[str, str, str, str], dict[str, list[float]]] = {}
    for score in scores:
        key = (score.dataset, score.arm, score.about, score.input)
        values.setdefault(key, {}).setdefault(score.metric, []).append(score.value)
    return [
        Summary(*key, max(map(len, metrics.values())), {name: spread(found) for name, found in metrics.items()})
        for key, metrics in values.items()
    ]


def margins(scores: Iterable[Score], comparisons: Iterable[Sequence[str]]) -> list[Margin]:
    """Compares arms on every data set, in every metric, for every question, input and seed that both have.

    Args:
        scores: The numbers of all runs.
        comparisons: Pairs of arms, the second of which is subtracted from the first.

    Example:
        >>> from studies.statistics import Score, margins
        >>> values = {"ours": (0.8, 0.9), "theirs": (0.3, 0.5)}
        >>> scores = [
        ...     Score("motion", arm, seed, "label", "frames", "R@1", value)
        ...     for arm, found in values.items()
        ...     for seed, value in enumerate(found)
        ... ]
        >>> [margin] = margins(scores, [("ours", "theirs")])
        >>> round(margin.difference, 3), round(margin.deviation, 3), margin.clear, margin.wins
        (0.45, 0.158, True, 2)
    """
    by_arm: dict[str, dict[tuple[str, str, str, str], dict[int, float]]] = {}
    for score in scores:
        key = (score.dataset, score.about, score.input, score.metric)
        by_arm.setdefault(score.arm, {}).setdefault(key, {})[score.seed] = score.value
    found = []
    for arm, against in comparisons:
        for key, ours in by_arm.get(arm, {}).items():
            theirs = by_arm.get(against, {}).get(key, {})
            if common := [(value, theirs[seed]) for seed, value in ours.items() if seed in theirs]:
                dataset, about, shown, metric = key
                found.append(_margin((dataset, arm, against, about, shown, metric), common))
    return found


def _margin(key: tuple[str, str, str, str, str, str], pairs: Sequence[tuple[float, float]]) -> Margin:
    one, other = (spread(values) for values in zip(*pairs))
    difference = one.mean - other.mean
    deviation: float | None = None
    clear: bool | None = None
    if one.deviation is not None and other.deviation is not None:
        deviation = math.hypot(one.deviation, other.deviation)
        clear = abs(difference) > CLEAR_DEVIATIONS * deviation
    differences = [ours - theirs for ours, theirs in pairs]
    return Margin(
        *key,
        difference=difference,
        deviation=deviation,
        clear=clear,
        seeds=len(pairs),
        wins=sum(value > 0 for value in differences),
        interval=mean_interval(differences) if len(pairs) > 1 else None,
    )


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Computes where the mean of the distribution that values come from lies, if it is a normal one.

    Args:
        values: Two or more.
        confidence: The probability that such an interval holds the mean.

    Returns:
        Lower and upper end: mean ± t · s / √n, with the quantile t of Student's distribution with n − 1 degrees of
        freedom.

    Example:
        >>> from studies.statistics import mean_interval
        >>> [round(end, 3) for end in mean_interval([0.1, 0.2, 0.3])]
        [-0.048, 0.448]
    """
    from scipy.stats import t

    deviation = statistics.stdev(values)
    reach = float(t.ppf(0.5 + confidence / 2, len(values) - 1)) * deviation / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - reach, mean + reach
