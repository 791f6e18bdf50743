"""Pictures of training: metrics over epochs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from vididi_hf.visualization.style import FAINT, RUN_COLOURS, TEXT


def plot_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    keys: Sequence[str] = ("loss", "R@1"),
    chance: float | None = None,
) -> Figure:
    """Draws metrics over epochs, one panel per metric and one color per run.

    Args:
        runs: By name, the rows of a run's `metrics.jsonl`. Where several rows have the same epoch (the rows of several
            seeds, put together), their mean is drawn, and a band from the lowest to the highest.
        keys: The metrics. Rows without a metric are left out of its curve.
        chance: The level of guessing, drawn in the panels of recall (`R@k`).

    Returns:
        The figure.

    Raises:
        ValueError: If no row of any run has one of the metrics.

    Example:
        ```python
        >>> from vididi_hf.visualization import plot_curves
        >>> runs = {"baseline": [{"epoch": 1, "R@1": 0.2}, {"epoch": 2, "R@1": 0.3}]}
        >>> len(plot_curves(runs, keys=["R@1"], chance=0.125).axes[0].lines)
        2

        ```
    """
    figure = Figure(figsize=(4.2 * len(keys), 3.2), layout="constrained")
    panels = figure.subplots(1, len(keys), squeeze=False, sharex=True)[0]
    for panel, key in zip(panels, keys):
        if not any(key in row for rows in runs.values() for row in rows):
            raise ValueError(f"no run has the metric {key!r}")
        recall = key.startswith("R@")
        for number, (name, rows) in enumerate(runs.items()):
            values = _by_epoch(rows, key)
            color = RUN_COLOURS[number % len(RUN_COLOURS)]
            means = [fmean(group) for group in values.values()]
            panel.plot(
                list(values), means, color=color, label=name, linewidth=1.8, marker="o" if recall else "", markersize=4
            )
            if any(len(group) > 1 for group in values.values()):
                lowest, highest = ([edge(group) for group in values.values()] for edge in (min, max))
                panel.fill_between(list(values), lowest, highest, color=color, alpha=0.18, linewidth=0)
        if recall:
            if chance is not None:
                panel.axhline(chance, color=FAINT, linewidth=1, linestyle="--")
                panel.annotate(
                    "chance",
                    xy=(1, chance),
                    xycoords=panel.get_yaxis_transform(),
                    xytext=(-2, -3),
                    textcoords="offset points",
                    ha="right",
                    va="top",
                    color=FAINT,
                    fontsize=8,
                )
            # From nothing to what is reached: of a hard set, a range up to 1 would show flat lines.
            panel.set_ylim(0, min(1.0, panel.get_ylim()[1]))
        panel.set_title(key, fontsize=10, color=TEXT, loc="left")
        panel.set_xlabel("epoch", fontsize=9, color=TEXT)
        panel.tick_params(labelsize=8, colors=TEXT, length=3)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(axis="y", color="#e6e8eb", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(runs), frameon=False, fontsize=9)
    return figure


def _by_epoch(rows: Sequence[Mapping[str, Any]], key: str) -> dict[int, list[float]]:
    values = defaultdict(list)
    for row in rows:
        if key in row:
            values[row["epoch"]].append(row[key])
    return dict(sorted(values.items()))
