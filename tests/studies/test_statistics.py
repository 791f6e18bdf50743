"""Means, deviations and intervals against numpy and scipy."""

import doctest

import numpy as np
import pytest
import scipy.stats

from studies import statistics as module
from studies.statistics import Score, margins, mean_interval, scores_of, spread, summarize

OURS, THEIRS = (0.51, 0.62, 0.58, 0.70), (0.33, 0.41, 0.29, 0.47)


def scores(**arms: tuple[float, ...]) -> list[Score]:
    return [
        Score("set", arm, seed, "label", "frames", "R@1", value)
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    ]


def test_spread_is_mean_and_sample_deviation() -> None:
    found = spread(OURS)
    assert found.mean == pytest.approx(np.mean(OURS))
    assert found.deviation == pytest.approx(np.std(OURS, ddof=1))
    assert spread([0.4]).deviation is None


def test_summary_keeps_data_sets_arms_questions_and_inputs_apart() -> None:
    rows = [
        Score(dataset, arm, seed, about, shown, metric, hash((dataset, arm, seed, about, shown, metric)) % 1000 / 1000)
        for dataset in ("x", "y")
        for arm in ("a", "b")
        for seed in (0, 1, 4)
        for about in ("label", "background")
        for shown in ("frames", "both")
        for metric in ("R@1", "mAP")
    ]
    summaries = summarize(rows)
    assert len(summaries) == 16
    for row in summaries:
        assert row.seeds == 3
        for metric, found in row.metrics.items():
            values = [
                s.value for s in rows if s[:2] == (row.dataset, row.arm) and s[3:6] == (row.about, row.input, metric)
            ]
            assert len(values) == 3
            assert found.mean == pytest.approx(np.mean(values))
            assert found.deviation == pytest.approx(np.std(values, ddof=1))


def test_margin_is_the_difference_of_means_and_its_deviation_that_of_two_runs() -> None:
    [margin] = margins(scores(ours=OURS, theirs=THEIRS), [("ours", "theirs")])
    assert margin.difference == pytest.approx(np.mean(OURS) - np.mean(THEIRS))
    assert margin.deviation == pytest.approx(np.sqrt(np.var(OURS, ddof=1) + np.var(THEIRS, ddof=1)))
    assert margin.clear == (margin.difference > 2 * margin.deviation)


def test_margin_paired_by_seed_is_the_paired_t_test() -> None:
    [margin] = margins(scores(ours=OURS, theirs=THEIRS), [("ours", "theirs")])
    found = scipy.stats.ttest_rel(OURS, THEIRS).confidence_interval(0.95)
    assert margin.interval == pytest.approx((found.low, found.high))
    assert (margin.seeds, margin.wins) == (4, 4)


@pytest.mark.parametrize(("gap", "clear"), [(0.199, False), (0.201, True), (-0.201, True), (-0.199, False)])
def test_clear_is_more_than_two_deviations_either_way(gap: float, clear: bool) -> None:
    # Deviations of 0.06 and 0.08: that of the difference is 0.1.
    ours, theirs = (0.5 - 0.06, 0.5, 0.5 + 0.06), (0.5 - gap - 0.08, 0.5 - gap, 0.5 - gap + 0.08)
    [margin] = margins(scores(ours=ours, theirs=theirs), [("ours", "theirs")])
    assert margin.deviation == pytest.approx(0.1)
    assert margin.clear is clear


def test_one_seed_has_no_deviation_and_is_not_called_clear() -> None:
    [margin] = margins(scores(ours=(0.9,), theirs=(0.1,)), [("ours", "theirs")])
    assert (margin.deviation, margin.clear, margin.interval) == (None, None, None)
    assert margin.difference == pytest.approx(0.8)


def test_only_common_seeds_are_compared() -> None:
    rows = [row for row in scores(ours=OURS, theirs=THEIRS) if (row.arm, row.seed) not in {("ours", 0), ("theirs", 3)}]
    [margin] = margins(rows, [("ours", "theirs")])
    assert margin.seeds == 2
    [alone] = margins(scores(ours=OURS[1:3], theirs=THEIRS[1:3]), [("ours", "theirs")])
    assert margin == alone
    assert margin.difference == pytest.approx(np.mean([OURS[1] - THEIRS[1], OURS[2] - THEIRS[2]]))
    assert margins([row for row in rows if row.seed in (0, 3)], [("ours", "theirs")]) == []


def test_arms_without_results_are_not_compared() -> None:
    assert margins(scores(ours=OURS), [("ours", "theirs"), ("theirs", "ours")]) == []


def test_interval_holds_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(0.5, 0.1, size=(400, 3))
    share = np.mean([low <= 0.5 <= high for low, high in map(mean_interval, draws.tolist())])
    assert abs(share - 0.95) < 4 * (0.95 * 0.05 / 400) ** 0.5


def test_scores_of_a_result_are_its_numbers() -> None:
    metrics = {"label": {"frames": {"R@1": 0.5, "linear": 0.6}}, "background": {"frames": {"R@1": 0.1}}}
    assert scores_of({"dataset": "x", "arm": "a", "seed": 3, "metrics": metrics}) == [
        ("x", "a", 3, "label", "frames", "R@1", 0.5),
        ("x", "a", 3, "label", "frames", "linear", 0.6),
        ("x", "a", 3, "background", "frames", "R@1", 0.1),
    ]


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0
