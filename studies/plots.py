"""The pictures of a study: what each encoder reaches, how it got there, and what more pretraining brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.grid import AMOUNTS
from studies.measuring import LABEL
from studies.records import Records
from studies.report import picture_files
from studies.statistics import Score, spread
from vididi_hf.visualization import QUERY, RUN_COLORS, plot_curves, save_figure

METRIC, INPUT = "R@1", "frames"
"""What pictures show."""


def write_plots(records: Records, name: str, folder: str | Path) -> list[Path]:
    """Writes the pictures of a study, those that `report.picture_files` names.

    Args:
        records: Its results.
        name: Its name.
        folder: Where they go.

    Returns:
        Their paths.
    """
    scores, chance = records.scores(), chances(records)
    paths = []
    for file, (kind, dataset, _) in picture_files(records, name).items():
        if kind == "scores":
            figure = plot_scores(scores, chance)
        elif kind == "amount":
            figure = plot_amount(*amounts(records), chance)
        else:
            figure = plot_curves(curves(records, dataset), (METRIC,), chance=chance[dataset])
        paths.append(save_figure(figure, Path(folder) / file))
    return paths


def chances(records: Records) -> dict[str, float]:
    """Returns, by data set, the level of guessing of the label."""
    return {key[0]: run["chance"][LABEL] for key, run in records.runs.items()}


def curves(records: Records, dataset: str) -> dict[str, list[dict[str, float]]]:
    """Returns, by arm, the evaluations between epochs of all its runs on a data set."""
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in records.grid["arms"]}
    for key, run in records.runs.items():
        if key[0] == dataset:
            found[key[1]].extend(run["curve"])
    return {arm: rows for arm, rows in found.items() if rows}


def amounts(records: Records) -> tuple[str, dict[str, dict[str, dict[float, list[float]]]]]:
    """Returns what a study varies, and by data set, by series, what the runs reach by the amount of pretraining.

    The untrained encoder, where there is one, is the series whose one amount is 0.
    """
    amount = records.grid["amount"]
    found: dict[str, dict[str, dict[float, list[float]]]] = {}
    for score in records.scores():
        if (score.about, score.input, score.metric) != (LABEL, INPUT, METRIC):
            continue
        arm = records.grid["arms"][score.arm]
        if not arm["train"]:
            series, place = score.arm, 0.0
        elif arm["series"] is None:
            continue
        else:
            configuration = records.configurations[score.dataset][score.arm]
            series, place = arm["series"], float({**configuration["recipe"], **configuration}[amount])
        found.setdefault(score.dataset, {}).setdefault(series, {}).setdefault(place, []).append(score.value)
    return amount, found


def plot_scores(
    scores: Sequence[Score], chance: Mapping[str, float], metric: str = METRIC, shown: str = INPUT
) -> Figure:
    """Draws what each arm reaches: a bar for the mean, a whisker of one sample deviation, a dot for every seed.

    Args:
        scores: The numbers of all runs.
        chance: By data set, the level of guessing.
        metric: What is drawn, of the label.
        shown: What the encoders were shown.

    Returns:
        A figure of one panel for each data set.

    Raises:
        ValueError: If nothing of the kind was measured.

    Example:
        >>> from studies.plots import plot_scores
        >>> from studies.statistics import Score
        >>> scores = [Score("motion", arm, 0, "label", "frames", "R@1", 0.5) for arm in ("baseline", "ViDiDi")]
        >>> len(plot_scores(scores, {"motion": 0.125}).axes[0].patches)
        2
    """
    values: dict[str, dict[str, list[float]]] = {}
    for score in scores:
        if (score.about, score.input, score.metric) == (LABEL, shown, metric):
            values.setdefault(score.dataset, {}).setdefault(score.arm, []).append(score.value)
    if not values:
        raise ValueError(f"nothing was measured of {metric!r} when {shown!r} were shown")
    arms = list(dict.fromkeys(arm for found in values.values() for arm in found))
    figure = Figure(figsize=(1.6 + 3.0 * len(values), 0.8 + 0.3 * len(arms)), layout="constrained")
    panels = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for panel, (dataset, found) in zip(panels, values.items()):
        for place, arm in enumerate(arms):
            if arm not in found:
                continue
            reached = spread(found[arm])
            color = RUN_COLORS[place % len(RUN_COLORS)]
            panel.barh(place, reached.mean, color=color, height=0.7, xerr=reached.deviation, ecolor=QUERY)
            panel.plot(found[arm], [place] * len(found[arm]), "o", color=QUERY, markersize=2.5)
        panel.axvline(chance[dataset], color=QUERY, linewidth=1, linestyle="--")
        panel.set_xlim(0, 1)
        _style(panel, dataset, metric)
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].invert_yaxis()
    return figure


def plot_amount(
    amount: str, reached: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]], chance: Mapping[str, float]
) -> Figure:
    """Draws what more pretraining brings: one panel for each data set, one line for each series.

    Args:
        amount: What is varied, one of `AMOUNTS`.
        reached: By data set, by series, by amount, the values of all seeds. A series of the one amount 0 is the
            untrained encoder, a level across the panel.
        chance: By data set, the level of guessing.

    Returns:
        The figure. Lines join means, whiskers are one sample deviation to both sides, dots are seeds.

    Example:
        >>> from studies.plots import plot_amount
        >>> reached = {"motion": {"untrained": {0: [0.1, 0.2]}, "ViDiDi": {6: [0.4, 0.5], 24: [0.8, 0.9]}}}
        >>> len(plot_amount("epochs", reached, {"motion": 0.125}).axes[0].lines)
        4
    """
    figure = Figure(figsize=(4.2 * len(reached), 3.2), layout="constrained")
    panels = figure.subplots(1, len(reached), squeeze=False)[0]
    names = list(dict.fromkeys(name for found in reached.values() for name in found))
    for panel, (dataset, found) in zip(panels, reached.items()):
        for name, points in found.items():
            color = RUN_COLORS[names.index(name) % len(RUN_COLORS)]
            spreads = {place: spread(points[place]) for place in sorted(points)}
            means = [point.mean for point in spreads.values()]
            if list(points) == [0]:
                panel.axhline(means[0], color=color, linewidth=1.2, label=name)
                continue
            panel.plot(list(spreads), means, color=color, linewidth=1.8, label=name)
            # A whisker only where there are seeds to take it of: a band would narrow down to places with one.
            for place, point in spreads.items():
                reach = point.deviation or 0.0
                panel.vlines(place, point.mean - reach, point.mean + reach, color=color, linewidth=5, alpha=0.25)
            dots = [(place, value) for place, values in points.items() for value in values]
            panel.plot(*zip(*dots), "o", color=color, markersize=3)
        panel.axhline(chance[dataset], color=QUERY, linewidth=1, linestyle="--")
        panel.set_ylim(bottom=0)
        _style(panel, dataset, AMOUNTS[amount])
        panel.set_ylabel(METRIC, fontsize=9, color=QUERY)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def _style(panel: Axes, title: str, axis: str) -> None:
    panel.set_title(title, fontsize=10, color=QUERY, loc="left")
    panel.set_xlabel(axis, fontsize=9, color=QUERY)
    panel.tick_params(labelsize=8, colors=QUERY, length=3)
    panel.grid(axis="both", color="#e6e8eb", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
