"""Statistics against numpy and scipy, tables against rows written by hand, and the pages against the results."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from studies.plots import figure_files
from studies.records import COLUMNS, Records, read_all_records
from studies.tables import format_margins, margins, render_demo, render_evidence, render_motion, render_study, summarize

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "study.md"
RESULTS = ROOT / "studies" / "results"
NAMES = sorted(path.stem for path in RESULTS.glob("*.csv"))
OURS, THEIRS = (0.51, 0.62, 0.58, 0.70), (0.33, 0.41, 0.29, 0.47)


def scores(**arms: tuple[float, ...]) -> pd.DataFrame:
    rows = [
        ("set", arm, s, "label", "frames", "R@1", value) for arm, found in arms.items() for s, value in enumerate(found)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.fixture(scope="module")
def results() -> dict[str, Records]:
    return read_all_records(RESULTS)


def test_a_summary_has_mean_deviation_and_number_of_seeds_of_each_score() -> None:
    generator = np.random.default_rng(0)
    keys = pd.MultiIndex.from_product(
        [("y", "x"), ("b", "a"), (4, 0, 1), ("label", "background"), ("both", "frames"), ("R@1",)]
    )
    table = pd.DataFrame([(*key, generator.random()) for key in keys], columns=COLUMNS)
    found = summarize(table)
    assert len(found) == 16
    assert list(found["dataset"].unique()) == ["y", "x"]
    for row in found.itertuples():
        same = (table["dataset"] == row.dataset) & (table["arm"] == row.arm)
        values = table[same & (table["about"] == row.about) & (table["input"] == row.input)]["value"]
        assert row.count == 3
        assert row.mean == pytest.approx(np.mean(values))
        assert row.std == pytest.approx(np.std(values, ddof=1))
    assert np.isnan(summarize(scores(a=(0.4,)))["std"].item())


def test_a_margin_is_the_paired_t_test() -> None:
    margin = margins(scores(ours=OURS, theirs=THEIRS), [("ours", "theirs")]).iloc[0]
    expected = scipy.stats.ttest_rel(OURS, THEIRS).confidence_interval(0.95)
    assert margin["mean"] == pytest.approx(np.mean(OURS) - np.mean(THEIRS))
    assert (margin["low"], margin["high"]) == pytest.approx((expected.low, expected.high))
    assert margin["count"] == 4
    assert margin["clear"]


@pytest.mark.parametrize(("gap", "clear"), [(0.24, False), (0.25, True), (-0.25, True), (-0.24, False)])
def test_clear_means_that_the_interval_excludes_zero(gap, clear) -> None:
    # The differences are gap − 0.1, gap and gap + 0.1. Half the interval is 4.3027 · 0.1 / √3 = 0.2484.
    margin = margins(scores(ours=(gap - 0.1, gap, gap + 0.1), theirs=(0, 0, 0)), [("ours", "theirs")]).iloc[0]
    assert margin["clear"] == clear


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_have_no_interval_and_are_not_clear(seeds: int) -> None:
    margin = margins(scores(ours=OURS[:seeds], theirs=THEIRS[:seeds]), [("ours", "theirs")]).iloc[0]
    assert np.isnan([margin["low"], margin["high"]]).all()
    assert not margin["clear"]


def test_only_common_seeds_are_compared() -> None:
    rows = scores(ours=OURS, theirs=THEIRS)
    rows = rows[~(((rows["arm"] == "ours") & (rows["seed"] == 0)) | ((rows["arm"] == "theirs") & (rows["seed"] == 3)))]
    margin = margins(rows, [("ours", "theirs")]).iloc[0]
    assert margin["count"] == 2
    assert margin["mean"] == pytest.approx(np.mean([OURS[1] - THEIRS[1], OURS[2] - THEIRS[2]]))
    assert margins(rows[rows["seed"].isin((0, 3))], [("ours", "theirs")]).empty
    assert margins(scores(ours=OURS), [("ours", "theirs"), ("theirs", "ours")]).empty
    assert margins(scores(ours=OURS), []).empty


@pytest.mark.slow  # thousands of draws
def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(0.5, 0.1, size=(400, 3))
    hits = 0
    for values in draws:
        margin = margins(scores(ours=tuple(values), theirs=(0, 0, 0)), [("ours", "theirs")]).iloc[0]
        hits += margin["low"] <= 0.5 <= margin["high"]
    assert abs(hits / 400 - 0.95) < 4 * (0.95 * 0.05 / 400) ** 0.5


def test_differences_are_signed_and_bold_where_they_are_clear() -> None:
    table = scores(
        ours=(0.80, 0.82, 0.84),
        theirs=(0.30, 0.31, 0.32),
        near=(0.76, 0.90, 0.80),
        even=(0.8002, 0.8202),
        twice=(0.1, 0.1),
    )
    pairs = [("ours", name) for name in ("theirs", "near", "even", "twice")]
    # Differences of 0.50, 0.51, 0.52: 0.51 ± 4.303 · 0.01 / √3. And of 0.04, −0.08, 0.04.
    assert format_margins(margins(table, pairs)).splitlines()[2:] == [
        "| ours − theirs | frames | **+51.0** [48.5, 53.5] |",
        "| ours − near | frames | +0.0 [−17.2, 17.2] |",
        "| ours − even | frames | +0.0 |",  # −0.02 points
        "| ours − twice | frames | +71.0 |",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_show_the_results(name: str, results: dict[str, Records]) -> None:
    files = list(figure_files(results[name], name))
    expected = render_study(results[name], name, [f"../figures/{file}" for file in files])
    found = (RESULTS / "tables" / f"{name}.md").read_text(encoding="utf-8")
    assert found == expected, "run: python scripts/study.py --report"
    assert all((RESULTS / "figures" / file).exists() for file in files)


def test_the_readme_shows_the_runs_of_the_demo_which_all_succeeded() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = render_demo(RESULTS / "demo")
    assert f"<!-- table -->\n\n{table}\n\n<!-- end of table -->" in readme, "run: python scripts/study.py --report"
    results = [json.loads(path.read_text()) for path in sorted((RESULTS / "demo").glob("*.json"))]
    assert sorted(result["threads"] for result in results) == [1, 2]
    scores: dict[str, list[float]] = {}
    for run in (run for one in results for run in one["runs"]):
        scores.setdefault(run["arm"], []).append(run["metrics"]["label"]["frames"]["R@1"])
    assert len(scores["ViDiDi"]) == 10
    assert min(scores["ViDiDi"]) >= 0.85
    assert np.mean(scores["ViDiDi"]) >= 0.92
    assert max(scores["baseline"] + scores["untrained"]) <= 0.25


def test_the_page_of_encoders_shows_the_results() -> None:
    page = PAGE.with_name("any-encoder.md").read_text(encoding="utf-8")
    table = render_motion(RESULTS / "motion_benchmark" / "encoders.json")
    assert f"<!-- table -->\n\n{table}\n\n<!-- end of table -->" in page, "run: python scripts/study.py --report"
    [section] = re.findall(r"## How much motion it sees\n(.*?)<!-- table -->", page, flags=re.DOTALL)
    measured = (RESULTS / "tables" / "any_encoder.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\d+\.\d", section)) <= {*re.findall(r"\d+\.\d", measured), "12.5", "4.2"}


def test_the_page_shows_the_results(results: dict[str, Records]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = render_evidence(results)
    assert f"<!-- table -->\n\n{table}\n\n<!-- end of table -->" in page, "run: python scripts/study.py --report"
    assert len(page.splitlines()) <= 250
    # Every number of the findings with a decimal place is in a table.
    [findings] = re.findall(r"## Findings\n(.*?)\n## ", page, flags=re.DOTALL)
    tables = "".join(path.read_text(encoding="utf-8") for path in (RESULTS / "tables").glob("*.md"))
    known = set(re.findall(r"\d+\.\d", tables))
    assert set(re.findall(r"\d+\.\d", findings)) <= known
