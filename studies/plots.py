"""The figures of a study: what each encoder reaches, how it got there, and what more pretraining adds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.grid import AMOUNTS
from studies.measuring import LABEL
from studies.records import Records
from studies.tables import summarize
from vididi_hf.visualization import plot_curves, save_figure

METRIC, INPUT = "R@1", "frames"
_MOST_CURVES = 6  # more arms than that cannot be told apart by color
_INK = "#30343b"


def figure_files(records: Records, name: str) -> dict[str, str]:
    """Names the figures of a study, and what each shows: "scores", "amount", or the data set of learning curves."""
    files = {f"{name}.png": "scores"}
    if records.grid["amount"]:
        files[f"{name}-amount.png"] = "amount"
    for dataset in records.grid["datasets"]:
        drawn = {key[1] for key, run in records.runs.items() if key[0] == dataset and run["curve"]}
        if 0 < len(drawn) <= _MOST_CURVES:
            files[f"{name}-{dataset}.png"] = dataset
    return files


def write_figures(records: Records, name: str, folder: Path) -> list[Path]:
    """Writes the figures that `figure_files` names."""
    scores = records.scores()
    scores = scores[(scores["about"] == LABEL) & (scores["input"] == INPUT) & (scores["metric"] == METRIC)]
    chance = {key[0]: run["chance"][LABEL] for key, run in records.runs.items()}
    paths = []
    for file, kind in figure_files(records, name).items():
        if kind == "scores":
            figure = plot_scores(scores, chance)
        elif kind == "amount":
            figure = plot_amount(add_amounts(scores, records), chance, AMOUNTS[records.grid["amount"]])
        else:
            curves: dict[str, list[dict[str, float]]] = {}
            for (dataset, arm, _), run in records.runs.items():
                if dataset == kind and run["curve"]:
                    curves.setdefault(arm, []).extend(run["curve"])
            figure = plot_curves(curves, (METRIC,), chance=chance[kind])
        paths.append(save_figure(figure, folder / file))
    return paths


def add_amounts(scores: pd.DataFrame, records: Records) -> pd.DataFrame:
    """Adds the `series` and the `amount` of pretraining to the scores; untrained encoders have the amount 0."""
    rows = []
    for score in scores.to_dict("records"):
        arm = records.grid["arms"][score["arm"]]
        configuration = records.configurations[score["dataset"]][score["arm"]]
        amount = {**configuration["recipe"], **configuration}[records.grid["amount"]] if arm["train"] else 0
        series = arm["series"] if arm["train"] else score["arm"]
        rows.append({**score, "series": series, "amount": float(amount)})
    return pd.DataFrame(rows).dropna(subset="series")


def plot_scores(scores: pd.DataFrame, chance: dict[str, float]) -> Figure:
    """Draws one panel per data set: a bar for the mean of each arm, a whisker of one deviation, a dot per seed."""
    datasets, arms = scores["dataset"].unique(), list(scores["arm"].unique())
    figure = Figure(figsize=(1.6 + 3.0 * len(datasets), 0.8 + 0.3 * len(arms)), layout="constrained")
    panels = figure.subplots(1, len(datasets), squeeze=False, sharey=True)[0]
    for panel, dataset in zip(panels, datasets):
        own = scores[scores["dataset"] == dataset]
        places = own["arm"].map(arms.index)
        found = summarize(own)
        bars = found["arm"].map(arms.index)
        colors = [f"C{place}" for place in bars]
        panel.barh(bars, found["mean"], color=colors, height=0.7, xerr=found["std"], ecolor=_INK)
        panel.plot(own["value"], places, "o", color=_INK, markersize=2.5)
        panel.axvline(chance[dataset], color=_INK, linewidth=1, linestyle="--")
        panel.set_xlim(0, 1)
        _style(panel, dataset, METRIC)
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].invert_yaxis()
    return figure


def plot_amount(scores: pd.DataFrame, chance: dict[str, float], label: str) -> Figure:
    """Draws one panel per data set and one line per series: means, whiskers of one deviation, and a dot per seed."""
    datasets, names = scores["dataset"].unique(), list(scores["series"].unique())
    figure = Figure(figsize=(4.2 * len(datasets), 3.2), layout="constrained")
    panels = figure.subplots(1, len(datasets), squeeze=False)[0]
    for panel, dataset in zip(panels, datasets):
        for name, rows in scores[scores["dataset"] == dataset].groupby("series", sort=False):
            color = f"C{names.index(name)}"
            found = rows.groupby("amount")["value"].agg(["mean", "std"])
            if list(found.index) == [0]:  # the untrained encoder
                panel.axhline(found["mean"].iloc[0], color=color, linewidth=1.2, label=name)
                continue
            panel.errorbar(found.index, found["mean"], found["std"], color=color, linewidth=1.8, label=name)
            panel.plot(rows["amount"], rows["value"], "o", color=color, markersize=3)
        panel.axhline(chance[dataset], color=_INK, linewidth=1, linestyle="--")
        panel.set_ylim(bottom=0)
        _style(panel, dataset, label)
        panel.set_ylabel(METRIC, fontsize=9, color=_INK)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def _style(panel: Axes, title: str, axis: str) -> None:
    panel.set_title(title, fontsize=10, color=_INK, loc="left")
    panel.set_xlabel(axis, fontsize=9, color=_INK)
    panel.tick_params(labelsize=8, colors=_INK, length=3)
    panel.grid(axis="both", color="#e6e8eb", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
