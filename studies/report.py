"""Tables of a study in Markdown, and their place in a page: rendered from the records, never typed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from studies.grid import AMOUNTS
from studies.measuring import LABEL
from studies.records import Records
from studies.statistics import Margin, Spread, Summary, margins, summarize
from studies.tasks import TASKS
from vididi_hf.files import write_text

METRICS = ("R@1", "R@5", "20-NN", "linear", *(task.column for task in TASKS.values()))
"""What tables show of the label."""
PROBE_METRICS = ("R@1", "20-NN", "linear")
MOST_CURVES = 6
"""Of more arms, no picture shows how each got there: there are no more colors that one can tell apart."""
NOT_MEASURED = "*Not measured yet.*"


def format_table(summaries: Sequence[Summary], metrics: Sequence[str] = METRICS) -> str:
    """Formats the numbers of arms, by what they were shown, as a Markdown table in per cent.

    Args:
        summaries: Of one data set and question.
        metrics: The columns; those that nothing was measured of are left out.
    """
    metrics = [name for name in metrics if any(name in row.metrics for row in summaries)]
    rows = [
        [row.arm, row.input, *(_spread(row.metrics[name]) if name in row.metrics else "–" for name in metrics)]
        for row in summaries
    ]
    return _table(["encoder", "shown", *metrics], rows)


def format_margins(found: Sequence[Margin], metrics: Sequence[str] = METRICS) -> str:
    """Formats differences between arms as a Markdown table in points of per cent; clear ones are bold.

    Args:
        found: Of one data set and question.
        metrics: The columns.
    """
    metrics = [name for name in metrics if any(margin.metric == name for margin in found)]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for margin in found:
        cells = rows.setdefault((f"{margin.arm} − {margin.against}", margin.input), {})
        cells[margin.metric] = _margin(margin)
    return _table(
        ["difference", "shown", *metrics],
        [[*key, *(cells.get(name, "–") for name in metrics)] for key, cells in rows.items()],
    )


def render(records: Records | None, name: str, images: str = "images") -> str:
    """Renders what a page shows of a study: tables and pictures.

    What encoders do when they are shown anything but the first input, frames, is folded away below its data set.

    Args:
        records: Its results; None, or none, says that nothing is measured.
        name: Its name.
        images: The folder of the pictures, as seen from the page.
    """
    if records is None or not records.runs:
        return NOT_MEASURED
    scores = records.scores()
    summaries = summarize(scores)
    compared = margins(scores, records.grid["comparisons"])
    parts = []
    for dataset in dict.fromkeys(row.dataset for row in summaries):
        own = [row for row in summaries if row.dataset == dataset]
        chance = next(run["chance"] for key, run in records.runs.items() if key[0] == dataset)
        seeds = sorted({row.seeds for row in own})
        counted = "–".join(map(str, (seeds[0], seeds[-1])[: len(seeds)])) + (" seed" if seeds == [1] else " seeds")
        asked = "validation part of the training videos, " if records.grid["validation"] else ""
        first, *others = dict.fromkeys(row.input for row in own)
        folded = [f"<details><summary>{dataset}, shown {' and '.join(others)}</summary>"]
        for about in dict.fromkeys(row.about for row in own):
            what = f"{asked}{counted}" if about == LABEL else f"asked for its {about}"
            title = f"**{dataset}**, {what}, chance {100 * chance[about]:.1f}:"
            rows = [row for row in own if row.about == about]
            found = [margin for margin in compared if (margin.dataset, margin.about) == (dataset, about)]
            parts += [title, *_tables(rows, found, [first])]
            folded += [title, *_tables(rows, found, others)]
        if others:
            parts += [*folded, "</details>"]
    if records.grid["validation"] and any(arm["series"] for arm in records.grid["arms"].values()):
        series = {arm: declared["series"] for arm, declared in records.grid["arms"].items()}
        parts.append(_format_choice(choose(summaries, series)))
    if missing := records.missing():
        parts.append(_format_missing(missing, records))
    parts += [f"![{words}]({images}/{file})" for file, (_, _, words) in picture_files(records, name).items()]
    return "\n\n".join(parts)


def picture_files(records: Records, name: str) -> dict[str, tuple[str, str, str]]:
    """Says which pictures belong to a study.

    Returns:
        By file name: the kind ("scores", "curves", "amount"), the data set where it shows one, and what it shows.
    """
    if not records.runs:
        return {}
    words = "R@1 on frames: means (bars), seeds (dots), sample deviations (whiskers), chance (dashed)"
    files = {f"study-{name}.png": ("scores", "", words)}
    if records.grid["amount"]:
        files[f"study-{name}-amount.png"] = ("amount", "", f"R@1 on frames by {AMOUNTS[records.grid['amount']]}")
    for dataset in records.grid["datasets"]:
        drawn = {key[1] for key, run in records.runs.items() if key[0] == dataset and run["curve"]}
        if 0 < len(drawn) <= MOST_CURVES:
            words = f"{dataset}: R@1 on frames, with one clip a video, over the epochs of pretraining"
            files[f"study-{name}-{dataset}.png"] = ("curves", dataset, words)
    return files


def choose(
    summaries: Sequence[Summary], series: Mapping[str, str | None], metric: str = "R@1"
) -> dict[tuple[str, str], str]:
    """Chooses the best arm of every series on every data set: hyper-parameters, by the validation part.

    Args:
        summaries: Of a grid that asks about the validation part.
        series: By arm, the series whose best arm is wanted; arms of none are left out.
        metric: The metric of the label that decides, by the first input that was measured.

    Returns:
        By data set and series, the arm of the greatest mean; of equal ones the first.
    """
    best: dict[tuple[str, str], tuple[float, str]] = {}
    decisive: dict[str, str] = {}
    for row in summaries:
        name = series.get(row.arm)
        if name is None or row.about != LABEL or decisive.setdefault(row.dataset, row.input) != row.input:
            continue
        key, mean = (row.dataset, name), row.metrics[metric].mean
        if key not in best or mean > best[key][0]:
            best[key] = (mean, row.arm)
    return {key: arm for key, (_, arm) in best.items()}


def update_page(path: str | Path, blocks: Mapping[str, str]) -> Path:
    """Puts rendered text between the markers of a page, `<!-- study: name -->` and `<!-- end of study -->`.

    Args:
        path: The page.
        blocks: Text by name.

    Raises:
        ValueError: If the page has no such markers.
    """
    path = Path(path)
    page = path.read_text()
    for name, text in blocks.items():
        begin, end = markers(name)
        found = re.search(f"{re.escape(begin)}.*?{re.escape(end)}", page, flags=re.DOTALL)
        if found is None:
            raise ValueError(f"{path} has no place for {name!r}: {begin} … {end}")
        page = f"{page[: found.start()]}{begin}\n\n{text}\n\n{end}{page[found.end() :]}"
    return write_text(path, page)


def markers(name: str) -> tuple[str, str]:
    """Returns what stands before and behind the tables of a study in a page."""
    return f"<!-- study: {name} -->", "<!-- end of study -->"


def _tables(rows: Sequence[Summary], found: Sequence[Margin], inputs: Sequence[str]) -> list[str]:
    """Formats the numbers of one data set and question, and their differences, for some inputs."""
    rows = [row for row in rows if row.input in inputs]
    found = [margin for margin in found if margin.input in inputs]
    metrics = METRICS if all(row.about == LABEL for row in rows) else PROBE_METRICS
    tables = [format_table(rows, metrics)] if rows else []
    return [*tables, format_margins(found, metrics)] if found else tables


def _spread(found: Spread) -> str:
    cell = f"{100 * found.mean:.1f}"
    return cell if found.deviation is None else f"{cell} ± {100 * found.deviation:.1f}"


def _margin(margin: Margin) -> str:
    cell = f"{_points(margin.difference):+.1f}".replace("-", "−")
    if margin.clear:
        cell = f"**{cell}**"
    if margin.interval is not None:
        low, high = (f"{_points(end):.1f}".replace("-", "−") for end in margin.interval)
        cell += f" [{low}, {high}]"
    return cell


def _points(share: float) -> float:
    return round(100 * share, 1) + 0.0  # no negative zero


def _format_choice(chosen: Mapping[tuple[str, str], str]) -> str:
    rows = [[dataset, name, arm] for (dataset, name), arm in chosen.items()]
    return "Chosen, by the mean R@1:\n\n" + _table(["data set", "of", "chosen"], rows)


def _format_missing(missing: Sequence[tuple[str, str, int]], records: Records) -> str:
    """Names runs without a result, with the errors of those that failed; arms that lack the same seeds share a line."""
    by_arm: dict[tuple[str, str], list[str]] = {}
    for dataset, arm, seed in missing:
        error = records.failures.get((dataset, arm, seed))
        by_arm.setdefault((dataset, arm), []).append(f"{seed} (failed: {error})" if error else str(seed))
    by_seeds: dict[str, list[str]] = {}
    for (dataset, arm), seeds in by_arm.items():
        by_seeds.setdefault(f"{dataset}, seed {', '.join(seeds)}", []).append(arm)
    return "\n".join(["Not measured:", "", *(f"- {runs}: {'; '.join(arms)}" for runs, arms in by_seeds.items())])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
