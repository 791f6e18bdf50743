"""The pictures of a comparison: curves, derivative views, what each encoder retrieves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch

from vididi_hf.comparison import NEIGHBOURS, Arm
from vididi_hf.data.decoding import decode_clips
from vididi_hf.pretraining.loop import splits_of
from vididi_hf.pretraining.monitors import read_metrics
from vididi_hf.video_processing_vididi import uniform_clips
from vididi_hf.visualization import choose_queries, plot_curves, plot_derivatives, plot_retrieval, save_figure

QUERIES_SHOWN = 4


def plot_comparison(arms: Sequence[Arm], results: Sequence[dict[str, Any]], output_dir: str | Path) -> list[Path]:
    """Writes `curves.png`, `derivatives.png` and `retrieval.png`.

    Args:
        arms: The encoders.
        results: What `run_arms` returned for them.
        output_dir: Where the pictures go.

    Returns:
        Their paths.
    """
    folder = Path(output_dir)
    recipe = arms[0].recipe
    splits = splits_of(recipe)
    labelled = "label" in splits.gallery.column_names

    curves: dict[str, list[dict[str, Any]]] = {}
    for arm in arms:
        curves.setdefault(arm.name, []).extend(read_metrics(arm.folder))
    chance = 1 / splits.gallery.features["label"].num_classes if labelled else None
    trained = {name: rows for name, rows in curves.items() if rows}
    keys = ("loss", "R@1") if any("R@1" in row for rows in trained.values() for row in rows) else ("loss",)
    figures = {"curves": plot_curves(trained, keys, chance=chance)}

    # The first seed's encoders, on the same queries.
    first = {result["arm"]: result["neighbours"] for result in results if result["seed"] == recipe.seed}
    rows = sorted(set.intersection(*({int(row) for row in found} for found in first.values())))
    if labelled:
        labels = torch.tensor(splits.queries["label"])[rows]
        shown = [rows[place] for place in choose_queries(labels, QUERIES_SHOWN).tolist()]
    else:
        shown = rows[:: max(1, len(rows) // QUERIES_SHOWN)][:QUERIES_SHOWN]

    def choose(num_video_frames: int) -> torch.Tensor:
        return uniform_clips(num_video_frames, 1, recipe.num_frames, recipe.frame_stride, lookahead=2)

    query = splits.queries.select(shown[:1]).cast_column("video", datasets.Video(decode=False))[0]["video"]
    figures["derivatives"] = plot_derivatives(decode_clips(query, choose)[0])
    neighbours = {name: [found[str(row)] for row in shown] for name, found in first.items() if name != "untrained"}
    figures["retrieval"] = plot_retrieval(splits.queries, shown, splits.gallery, neighbours, NEIGHBOURS)
    return [save_figure(figure, folder / f"{name}.png") for name, figure in figures.items()]
