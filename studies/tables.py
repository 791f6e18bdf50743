"""Statistics over seeds, and the Markdown tables that show them: rendered from the records, never typed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pandas as pd
from scipy.stats import t

from studies.measuring import LABEL
from studies.records import Records
from studies.tasks import TASKS
from vididi_hf.files import write_text

METRICS = ("R@1", "R@5", "20-NN", "linear", *(task.column for task in TASKS.values()))
CONFIDENCE = 0.95
MIN_SEEDS = 3
"""An interval needs this many common seeds."""
NOTE = (
    "Numbers are means over seeds in percent, ± the sample standard deviation. Differences are in percentage points, "
    f"paired by seed. Brackets hold their {CONFIDENCE:.0%} t-interval, which needs {MIN_SEEDS} common seeds. A "
    "difference is bold if its interval excludes 0. Chance is R@1 of a gallery in random order."
)
EVIDENCE = {"main": ("VICReg", "SimCLR", "BYOL"), "real": ("VICReg",)}
"""The grids of the table of docs/study.md, and their objectives."""
DEMO_ARMS = {"untrained": "Untrained", "baseline": "VICReg", "ViDiDi": "VICReg + ViDiDi"}
_MOTION_COLUMNS = {
    "Frames": ("trained", "frames", "speed 1", "motion"),
    "∂V": ("trained", "derivative", "speed 1", "motion"),
    "Double speed": ("trained", "frames", "double speed", "motion"),
    "Camouflage": ("trained", "frames", "camouflage", "motion"),
    "Background": ("trained", "frames", "speed 1", "background"),
    "Untrained copy": ("untrained", "frames", "speed 1", "motion"),
    "Moments": ("moments", "frames", "speed 1", "motion"),
}
_BEGIN, _END = "<!-- table -->", "<!-- end of table -->"


def summarize(scores: pd.DataFrame) -> pd.DataFrame:
    """Returns mean, sample standard deviation (NaN for one seed) and number of seeds of each score."""
    keys = ["dataset", "arm", "about", "input", "metric"]
    return scores.groupby(keys, sort=False)["value"].agg(["mean", "std", "count"]).reset_index()


def margins(scores: pd.DataFrame, comparisons: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Subtracts the second arm of each pair from the first, seed by seed.

    Columns: the mean difference over the common seeds, their `count`, the ends `low` and `high` of the t-interval (NaN
    for fewer than `MIN_SEEDS` seeds), and whether the interval excludes 0 (`clear`).
    """
    keys = ["dataset", "about", "input", "metric"]
    parts = []
    for arm, against in comparisons:
        ours, theirs = (scores[scores["arm"] == name].set_index([*keys, "seed"])["value"] for name in (arm, against))
        paired = (ours - theirs).reindex(ours.index).dropna()
        found = paired.groupby(level=keys, sort=False).agg(["mean", "sem", "count"]).reset_index()
        parts.append(found.assign(arm=arm, against=against))
    table = pd.concat(parts) if parts else pd.DataFrame(columns=[*keys, "mean", "sem", "count", "arm", "against"])
    reach = (t.ppf(0.5 + CONFIDENCE / 2, table["count"] - 1) * table["sem"]).where(table["count"] >= MIN_SEEDS)
    table["low"], table["high"] = table["mean"] - reach, table["mean"] + reach
    table["clear"] = (table["low"] > 0) | (table["high"] < 0)
    return table.drop(columns="sem")


def format_scores(summary: pd.DataFrame) -> str:
    """Formats the scores of arms on one data set, by input, as a Markdown table."""
    cells = [
        f"{100 * mean:.1f}" + ("" if pd.isna(std) else f" ± {100 * std:.1f}")
        for mean, std in zip(summary["mean"], summary["std"])
    ]
    return _to_markdown(_spread_metrics(summary.assign(cell=cells), ["arm", "input"]), ["encoder", "input"])


def format_margins(found: pd.DataFrame) -> str:
    """Formats differences on one data set as a Markdown table. Bold ones are clear."""
    names = found["arm"] + " − " + found["against"]
    cells = [format_margin(*row) for row in found[["mean", "low", "high", "clear"]].itertuples(index=False)]
    return _to_markdown(
        _spread_metrics(found.assign(name=names, cell=cells), ["name", "input"]), ["difference", "input"]
    )


def format_margin(mean: float, low: float, high: float, clear: bool) -> str:
    """Formats a difference in percentage points, such as "**+6.4** [5.2, 7.6]"."""
    cell = f"{_points(mean):+.1f}"
    cell = f"**{cell}**" if clear else cell
    if not pd.isna(low):
        cell += f" [{_points(low):.1f}, {_points(high):.1f}]"
    return cell.replace("-", "−")


def render_study(records: Records, name: str, figures: Sequence[str] = ()) -> str:
    """Renders all tables of a study as a Markdown page with links to its figures."""
    scores = records.scores()
    summary, compared = summarize(scores), margins(scores, records.grid["comparisons"])
    parts = [f"# {name}", records.grid["about"] + ".", NOTE]
    if records.grid["validation"]:
        parts.append("The queries are a held-out part of the training videos.")
    for (dataset, about), rows in summary.groupby(["dataset", "about"], sort=False):
        chance = next(run["chance"][about] for key, run in records.runs.items() if key[0] == dataset)
        seeds = " to ".join(map(str, sorted({rows["count"].min(), rows["count"].max()})))
        asked = "" if about == LABEL else f", {about} instead of the label"
        parts += [f"## {dataset}{asked}", f"Seeds: {seeds}. Chance: {100 * chance:.1f}.", format_scores(rows)]
        found = compared[(compared["dataset"] == dataset) & (compared["about"] == about)]
        parts += [format_margins(found)] if len(found) else []
    if missing := records.missing():
        parts += ["## Not measured", "\n".join(_format_missing(missing, records))]
    parts += [f"![{Path(figure).stem}]({figure})" for figure in figures]
    return "\n\n".join(parts) + "\n"


def render_evidence(records: dict[str, Records]) -> str:
    """Renders the table of docs/study.md: what ViDiDi adds to the objectives of `EVIDENCE`, for frames."""
    rows = []
    for grid, names in EVIDENCE.items():
        scores = records[grid].scores()
        scores = scores[(scores["about"] == LABEL) & (scores["input"] == "frames")]
        means = summarize(scores).set_index(["dataset", "arm", "metric"])["mean"]
        for dataset, name in product(scores["dataset"].unique(), names):
            arms = ("untrained", name, f"{name} + ViDiDi")
            if not all((dataset, arm, "R@1") in means.index for arm in arms):
                continue  # not measured yet
            pairs = [(arms[2], name), (arms[2], "untrained")]
            found = margins(scores[scores["dataset"] == dataset], pairs).set_index(["against", "metric"])
            cells = [
                format_margin(*found.loc[key, ["mean", "low", "high", "clear"]])
                for key in ((name, "R@1"), (name, "linear"), ("untrained", "R@1"))
            ]
            rows.append([dataset, name, *(f"{100 * means[dataset, arm, 'R@1']:.1f}" for arm in arms), *cells])
    head = ["data set", "objective", "R@1 untrained", "without", "with", "Δ R@1", "Δ linear", "Δ R@1 to untrained"]
    return _to_markdown(pd.DataFrame(rows, columns=head))


def render_demo(folder: Path) -> str:
    """Renders the table of the README from the results of `make demo`, with different seeds and numbers of threads."""
    runs = [
        run for path in sorted(folder.glob("*.json")) for run in json.loads(path.read_text(encoding="utf-8"))["runs"]
    ]
    rows = []
    for arm, name in DEMO_ARMS.items():
        scores = pd.DataFrame(run["metrics"][LABEL]["frames"] for run in runs if run["arm"] == arm)
        cells = [f"{100 * scores[metric].mean():.1f} ± {100 * scores[metric].std():.1f}" for metric in METRICS[:3]]
        rows.append([name, str(len(scores)), cells[0], f"{100 * scores['R@1'].min():.1f}", *cells[1:]])
    return _to_markdown(pd.DataFrame(rows, columns=["Objective", "Runs", "R@1", "Lowest R@1", *METRICS[1:3]]))


def render_motion(path: Path) -> str:
    """Renders the table of docs/any-encoder.md: R@1 of several encoders in `vididi evaluate motion`, by their names."""
    rows = []
    for name, found in json.loads(path.read_text(encoding="utf-8")).items():
        scores = pd.DataFrame(found["rows"]).set_index(["encoder", "input", "videos", "label"])["R@1"]
        cells = [f"{100 * scores[key]:.1f}" for key in _MOTION_COLUMNS.values()]
        rows.append([name, *cells])
    return _to_markdown(pd.DataFrame(rows, columns=["Encoder", *_MOTION_COLUMNS]))


def update_page(path: Path, table: str) -> Path:
    """Replaces the table between the markers of a page."""
    page = path.read_text(encoding="utf-8")
    found = re.search(f"{_BEGIN}\n.*?{_END}", page, flags=re.DOTALL)
    if found is None:
        raise ValueError(f"{path} lacks the markers {_BEGIN} and {_END}")
    return write_text(path, f"{page[: found.start()]}{_BEGIN}\n\n{table}\n\n{_END}{page[found.end() :]}")


def _spread_metrics(table: pd.DataFrame, index: list[str]) -> pd.DataFrame:
    """Turns rows of one metric into one column per metric, in the original order of the rows."""
    order = list(dict.fromkeys(table[index].itertuples(index=False, name=None)))
    wide = table.pivot(index=index, columns="metric", values="cell").reindex(order)
    return wide[[name for name in METRICS if name in wide]].fillna("–").reset_index()


def _to_markdown(table: pd.DataFrame, names: Sequence[str] = ()) -> str:
    head = [*names, *table.columns[len(names) :]]
    lines = [head, ["---"] * len(head), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _points(share: float) -> float:
    return round(100 * share, 1) + 0.0  # no negative zero


def _format_missing(missing: Sequence[tuple[str, str, int]], records: Records) -> list[str]:
    """Lists runs without a result by data set and arm, with the errors of those that failed."""
    by_arm: dict[str, list[str]] = {}
    for key in missing:
        error = f" (failed: {records.failures[key]})" if key in records.failures else ""
        by_arm.setdefault(f"{key[0]}, {key[1]}", []).append(f"{key[2]}{error}")
    return [f"- {name}: seed {', '.join(seeds)}" for name, seeds in by_arm.items()]
