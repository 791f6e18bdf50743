"""Tables against rows written by hand, and the project's own page against its results."""

import re
from pathlib import Path
from typing import Any

import pytest

from studies.records import Records, read_records
from studies.report import (
    NOT_MEASURED,
    choose,
    format_margins,
    format_table,
    markers,
    picture_files,
    render,
    update_page,
)
from studies.statistics import Score, margins, summarize

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "study.md"
RESULTS = ROOT / "studies" / "results"
NAMES = sorted(path.stem for path in (ROOT / "studies").glob("*.json") if path.stem != "datasets")


def records(curve: bool = False, **changes: Any) -> Records:
    """Two seeds of two arms, and one of a third."""
    arms = {name: {"train": True, "series": None} for name in ("plain", "ViDiDi", "late")}
    grid = {"datasets": {"x": {}}, "arms": arms, "seeds": [0, 1], "validation": False, "amount": None}
    grid |= {"comparisons": [["ViDiDi", "plain"]], **changes}
    found = Records(grid, "python study.py")
    values = {("plain", 0): 0.2, ("plain", 1): 0.4, ("ViDiDi", 0): 0.85, ("ViDiDi", 1): 0.95, ("late", 1): 0.5}
    for (arm, seed), value in values.items():
        found.runs["x", arm, seed] = {
            "metrics": {
                "label": {"frames": {"R@1": value, "R@5": 1.0, "linear": value / 2}},
                "background": {"frames": {"R@1": 1 - value}},
            },
            "chance": {"label": 0.125, "background": 1 / 24},
            "curve": [{"epoch": 1, "loss": 1.0, "R@1": value}] if curve else [],
            "versions": {},
        }
    return found


def test_a_table_holds_means_and_deviations_in_per_cent() -> None:
    rows = [row for row in summarize(records().scores()) if row.about == "label"]
    assert format_table(rows).splitlines() == [
        "| encoder | shown | R@1 | R@5 | linear |",
        "| --- | --- | --- | --- | --- |",
        "| plain | frames | 30.0 ± 14.1 | 100.0 ± 0.0 | 15.0 ± 7.1 |",
        "| ViDiDi | frames | 90.0 ± 7.1 | 100.0 ± 0.0 | 45.0 ± 3.5 |",
        "| late | frames | 50.0 | 100.0 | 25.0 |",
    ]


def test_margins_are_signed_and_bold_where_they_are_clear() -> None:
    values = {"ours": (0.80, 0.82), "theirs": (0.30, 0.31), "near": (0.76, 0.90), "even": (0.8002, 0.8202)}
    scores = [
        Score("x", arm, seed, "label", "frames", "R@1", value)
        for arm, found in values.items()
        for seed, value in enumerate(found)
    ]
    pairs = [("ours", "theirs"), ("ours", "near"), ("ours", "even")]
    table = format_margins(margins(scores, pairs)).splitlines()
    assert table[0] == "| difference | shown | R@1 |"
    # Paired differences 0.50 and 0.51: 0.505 ± 12.706 · 0.00707 / √2. And 0.04 and −0.08.
    assert table[2] == "| ours − theirs | frames | **+50.5** [44.1, 56.9] |"
    assert table[3] == "| ours − near | frames | −2.0 [−78.2, 74.2] |"
    assert table[4].startswith("| ours − even | frames | +0.0 [")  # −0.02 points are no −0.0


def test_a_page_has_each_data_set_its_probes_and_what_is_missing() -> None:
    found = records()
    found.failures["x", "late", 0] = "ValueError: no"
    text = render(found, "tiny")
    assert "**x**, 1–2 seeds, chance 12.5:" in text
    assert "**x**, asked for its background, chance 4.2:" in text
    assert "| ViDiDi − plain | frames | **+60.0**" in text
    assert "| ViDiDi − plain | frames | **−60.0**" in text
    assert "Not measured:\n\n- x, seed 0 (failed: ValueError: no): late\n" in text
    assert "![R@1 on frames" in text
    assert "(images/study-tiny.png)" in text


def test_what_is_shown_but_frames_is_folded_away() -> None:
    found = records()
    assert "<details>" not in render(found, "tiny")
    for (_, arm, _), run in found.runs.items():
        for about, shown in run["metrics"].items():
            shown["both"] = {"R@1": 0.75 if (arm, about) == ("plain", "label") else 0.25}
    seen, folded = render(found, "tiny").split("<details><summary>x, shown both</summary>\n\n")
    folded, rest = folded.split("\n\n</details>")
    assert "| both |" not in seen + rest
    assert "| frames |" not in folded
    assert "| plain | both | 75.0 ± 0.0 |" in folded
    assert "| ViDiDi − plain | both | **−50.0**" in folded
    assert "**x**, asked for its background, chance 4.2:" in folded


def test_nothing_measured_is_said_so() -> None:
    assert render(None, "tiny") == NOT_MEASURED
    assert render(Records({"datasets": {}, "arms": {}, "seeds": []}, "x"), "tiny") == NOT_MEASURED


def test_pictures_are_those_that_there_is_something_for() -> None:
    assert list(picture_files(records(), "tiny")) == ["study-tiny.png"]
    assert list(picture_files(records(curve=True, amount="epochs"), "tiny")) == [
        "study-tiny.png",
        "study-tiny-amount.png",
        "study-tiny-x.png",
    ]


def test_hyper_parameters_are_chosen_for_each_series_by_itself() -> None:
    values = {"slow": 0.3, "fast": 0.5, "ViDiDi slow": 0.9, "ViDiDi fast": 0.8, "other": 1.0}
    series = {"slow": "plain", "fast": "plain", "ViDiDi slow": "ViDiDi", "ViDiDi fast": "ViDiDi", "other": None}
    scores = [
        Score("x", arm, 0, about, shown, "R@1", value if (about, shown) == ("label", "frames") else 1 - value)
        for arm, value in values.items()
        for about, shown in (("label", "frames"), ("label", "both"), ("background", "frames"))
    ]
    assert choose(summarize(scores), series) == {("x", "plain"): "fast", ("x", "ViDiDi"): "ViDiDi slow"}
    arms = {name: {"train": True, "series": "all"} for name in ("plain", "ViDiDi", "late")}
    text = render(records(arms=arms, validation=True), "tiny")
    assert "| x | all | ViDiDi |" in text
    assert "validation part of the training videos" in text


def test_only_what_is_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (a, end), (b, _) = markers("a"), markers("b")
    page.write_text(f"One\n\n{a}\nold\n{end}\n\ntwo\n\n{b}\n{end}\n\nthree \\1\n")
    for _ in range(2):  # the same again
        update_page(page, {"b": "new \\1"})
        assert page.read_text() == f"One\n\n{a}\nold\n{end}\n\ntwo\n\n{b}\n\nnew \\1\n\n{end}\n\nthree \\1\n"
    with pytest.raises(ValueError, match="no place for 'c'"):
        update_page(page, {"c": "text"})


@pytest.mark.parametrize("name", NAMES)
def test_the_projects_page_shows_what_the_results_say(name: str) -> None:
    begin, end = markers(name)
    [shown] = re.findall(f"{re.escape(begin)}\n\n(.*?)\n\n{re.escape(end)}", PAGE.read_text(), flags=re.DOTALL)
    found = read_records(RESULTS, name)
    assert shown == render(found, name), f"run: python scripts/study.py studies/{name}.json --report"
    if found is not None:
        assert all((PAGE.parent / "images" / file).exists() for file in picture_files(found, name))


def test_every_table_of_the_page_belongs_to_a_grid() -> None:
    assert sorted(re.findall(r"<!-- study: (.*?) -->", PAGE.read_text())) == NAMES
    assert {path.stem for path in RESULTS.glob("*.*")} <= set(NAMES)
