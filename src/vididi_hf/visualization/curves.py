"""Training curves."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from vididi_hf.visualization.style import FAINT, RUN_COLORS, TEXT


def plot_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], keys: Sequence[str] = ("loss", "R@1"), chance: float | None = None
) -> Figure:
    """Plots metrics over epochs, with one panel per metric and one color per run.

    Args:
        runs: Name of a run -> the rows of its `metrics.jsonl`. If several rows have the same epoch (several seeds), the
            curve is their mean, and a band shows their range.
        keys: The metrics.
        chance: Chance level, drawn in the panels of recall (`R@k`).
    """
    figure = Figure(figsize=(4.2 * len(keys), 3.2), layout="constrained")
    panels = figure.subplots(1, len(keys), squeeze=False, sharex=True)[0]
    for panel, key in zip(panels, keys):
        if not any(key in row for rows in runs.values() for row in rows):
            raise ValueError(f"no run has the metric {key!r}")
        recall = key.startswith("R@")
        for (name, rows), color in zip(runs.items(), cycle(RUN_COLORS)):
            points = pd.DataFrame([(row["epoch"], row[key]) for row in rows if key in row], columns=["epoch", key])
            epochs = points.astype({key: float}).groupby("epoch")[key].agg(["mean", "min", "max", "size"])
            marker = "o" if recall else ""
            panel.plot(epochs["mean"], marker=marker, markersize=4, color=color, label=name, linewidth=1.8)
            if (epochs["size"] > 1).any():
                panel.fill_between(epochs.index, epochs["min"], epochs["max"], color=color, alpha=0.18, linewidth=0)
        if recall:
            if chance is not None:
                panel.axhline(chance, color=FAINT, linewidth=1, linestyle="--")
                place, style = panel.get_yaxis_transform(), {"ha": "right", "va": "top", "color": FAINT, "fontsize": 8}
                panel.annotate("chance", (1, chance), (-2, -3), place, "offset points", **style)
            # On a hard data set, a range up to 1 would show flat lines.
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
