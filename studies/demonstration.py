"""The figures of one comparison: learning curves, derivative views, and what each encoder retrieves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch

from studies.measuring import LABEL, NUM_NEIGHBORS
from studies.runs import NEIGHBORS_JSON, Run
from vididi_hf.clips_vididi import frame_step, uniform_clips
from vididi_hf.data.decoding import VideoReader
from vididi_hf.pretraining.logging import read_metrics
from vididi_hf.visualization import choose_queries, plot_curves, plot_derivatives, plot_retrieval, save_figure

QUERIES_SHOWN = 4


def plot_comparison(runs: Sequence[Run], output_dir: str | Path) -> list[Path]:
    """Writes `derivatives.png`, `retrieval.png` and, of trained encoders, `curves.png` of runs on one data set."""
    recipe = runs[0].recipe
    splits = runs[0].source.load()
    labeled = LABEL in splits.gallery.column_names
    curves: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if run.trained:
            curves.setdefault(run.arm, []).extend(read_metrics(run.folder))
    chance = 1 / splits.gallery.features[LABEL].num_classes if labeled else None
    keys = ("loss", "R@1") if any("R@1" in row for rows in curves.values() for row in rows) else ("loss",)
    figures = {"curves": plot_curves(curves, keys, chance=chance)} if curves else {}

    # The encoders of the first seed, on the same queries.
    first = {run.arm: run.read(NEIGHBORS_JSON) or {} for run in runs if run.seed == recipe.seed}
    rows = sorted(set.intersection(*({int(row) for row in found} for found in first.values())))
    if labeled:
        labels = torch.tensor(splits.queries[LABEL])[rows]
        shown = [rows[place] for place in choose_queries(labels, QUERIES_SHOWN).tolist()]
    else:
        shown = rows[:: max(1, len(rows) // QUERIES_SHOWN)][:QUERIES_SHOWN]

    query = splits.queries.select(shown[:1]).cast_column("video", datasets.Video(decode=False))[0]["video"]
    reader, (num_frames, interval, stride) = VideoReader(query), recipe.clip_shape().values()
    step = frame_step(num_frames, reader.frame_rate, stride, interval)
    figures["derivatives"] = plot_derivatives(
        reader.read(lambda length: uniform_clips(length, 1, num_frames, step, 2))[0]
    )
    neighbors = {arm: [first[arm][str(row)] for row in shown] for arm in (curves or first)}
    figures["retrieval"] = plot_retrieval(splits.queries, shown, splits.gallery, neighbors, NUM_NEIGHBORS)
    return [save_figure(figure, Path(output_dir) / f"{name}.png") for name, figure in figures.items()]
