"""Pictures: the derivative views of a clip, its Taylor expansion, training curves, and what retrieval finds.

Every function returns a `matplotlib.figure.Figure` that belongs to nobody else: no window is opened and pyplot's global
state stays untouched, so they work on servers and in threads.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import datasets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from vididi_hf.data.decoding import decode_clips
from vididi_hf.data.seeding import seeded_generator
from vididi_hf.derivatives_vididi import derivative_view, taylor_expand, temporal_derivative

SAME, OTHER, QUERY = "#2a9d5c", "#d1495b", "#30343b"
"""Border colours of retrieved videos with the query's label and with another one, and of the query."""
RUN_COLOURS = ("#8a8f98", "#2f6fdb", "#e07b39", "#2a9d5c", "#8e5bd0", "#c2185b")
"""Colours of runs, in their order; the first, grey, suits a baseline."""
STRIP_FRAMES = 3

_TEXT, _FAINT = "#30343b", "#8a8f98"
_THUMBNAIL = 96  # pixels
_SIDE = 0.75  # inches of a thumbnail in a figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes a figure; the suffix (.png, .pdf, .svg) chooses the format, missing folders are made.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight", facecolor="white")
    return path


def plot_derivatives(clip: Tensor, max_order: int = 2) -> Figure:
    """Shows a clip and its temporal derivatives, as the encoder sees them: one row per order, one column per frame.

    Derivatives are signed: mid-grey is no change. Each row is scaled symmetrically to the 99.5th percentile of its
    absolute values, which its label states in grey levels out of 255.

    Args:
        clip: uint8 (frames, 3, height, width); the derivatives use up `max_order` frames at its end.
        max_order: The highest order.

    Returns:
        A figure of (max_order + 1) · (frames − max_order) images.

    Raises:
        ValueError: If the clip is too short or has another shape.

    Example:
        ```python
        >>> from vididi_hf.data.motion import render_motion
        >>> from vididi_hf.visualization import plot_derivatives
        >>> figure = plot_derivatives(render_motion("train", 3)[:10])
        >>> len(figure.axes)
        24

        ```
    """
    _check_clip(clip)
    columns = len(clip) - max_order
    if columns < 1:
        raise ValueError(f"derivatives up to order {max_order} need at least {max_order + 1} frames, got {len(clip)}")
    figure, grid = _image_grid(max_order + 1, columns, clip)
    for order, axes in enumerate(grid):
        view = derivative_view(clip, order, columns)
        label = _derivative_name(order)
        if order > 0:
            view, limit = _around_grey(view)
            label += f"\n±{limit:.0f}"
        for axis, frame in zip(axes, view):
            _show(axis, frame)
        _name_row(axes[0], label)
    for number, axis in enumerate(grid[0]):
        axis.set_title(f"frame {number}", fontsize=8, color=_FAINT, pad=3)
    return figure


def plot_taylor(frames: Tensor, order: int = 2, horizon: int = 4) -> Figure:
    """Compares the last frames of a clip with their prediction from the frames before, by Taylor expansions.

    The first row is the video: the last known frame t and those that follow. Below, one row for each order k up to
    `order` holds the highest derivative that its expansion uses, ∂ᵏV(t), and the prediction; order 0 repeats frame t.
    The number under a prediction is its root mean square error in grey levels out of 255, bold for the best order.

    Args:
        frames: uint8 (at least `order + 1 + horizon` frames, 3, height, width).
        order: The highest order.
        horizon: The number of frames to predict.

    Returns:
        A figure of (order + 2) · (1 + horizon) images.

    Raises:
        ValueError: If there are too few frames or they have another shape.

    Example:
        ```python
        >>> from vididi_hf.data.motion import render_motion
        >>> from vididi_hf.visualization import plot_taylor
        >>> len(plot_taylor(render_motion("train", 3), order=1, horizon=4).axes)
        15

        ```
    """
    _check_clip(frames)
    needed = order + 1 + horizon
    if len(frames) < needed:
        raise ValueError(
            f"an expansion of order {order} compared over {horizon} frames needs {needed} frames, got {len(frames)}"
        )
    past, future = frames[:-horizon].float(), frames[-horizon:].float()
    predictions = [taylor_expand(past, k, horizon) for k in range(order + 1)]
    errors = torch.stack([(frames - future).square().mean(dim=(1, 2, 3)).sqrt() for frames in predictions])
    figure, grid = _image_grid(order + 2, 1 + horizon, frames)
    for step, (axis, frame) in enumerate(zip(grid[0], frames[-horizon - 1 :])):
        _show(axis, frame)
        axis.set_title(f"t + {step}" if step else "t", fontsize=8, color=_FAINT, pad=3)
    _name_row(grid[0][0], "video")
    for k, (axes, predicted) in enumerate(zip(grid[1:], predictions)):
        derivative = temporal_derivative(past, k)[-1]
        _show(axes[0], _around_grey(derivative)[0] if k else derivative)
        axes[0].set_xlabel(f"{_derivative_name(k)}(t)", fontsize=8, color=_FAINT, labelpad=2)
        for step, (axis, frame) in enumerate(zip(axes[1:], predicted)):
            _show(axis, frame)
            weight = "bold" if k == errors[:, step].argmin() else "normal"
            axis.set_xlabel(f"{errors[k, step]:.1f}", fontsize=8, color=_TEXT, weight=weight, labelpad=2)
        _name_row(axes[0], f"order {k}")
    return figure


def plot_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    keys: Sequence[str] = ("loss", "R@1"),
    chance: float | None = None,
) -> Figure:
    """Draws metrics over epochs, one panel per metric and one colour per run.

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
            colour = RUN_COLOURS[number % len(RUN_COLOURS)]
            means = [fmean(group) for group in values.values()]
            panel.plot(
                list(values), means, color=colour, label=name, linewidth=1.8, marker="o" if recall else "", markersize=4
            )
            if any(len(group) > 1 for group in values.values()):
                lowest, highest = ([edge(group) for group in values.values()] for edge in (min, max))
                panel.fill_between(list(values), lowest, highest, color=colour, alpha=0.18, linewidth=0)
        if recall:
            panel.set_ylim(0, 1)
            if chance is not None:
                panel.axhline(chance, color=_FAINT, linewidth=1, linestyle="--")
                across = panel.get_yaxis_transform()
                panel.text(0.99, chance + 0.015, "chance", color=_FAINT, fontsize=8, ha="right", transform=across)
        panel.set_title(key, fontsize=10, color=_TEXT, loc="left")
        panel.set_xlabel("epoch", fontsize=9, color=_TEXT)
        panel.tick_params(labelsize=8, colors=_TEXT, length=3)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(axis="y", color="#e6e8eb", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(runs), frameon=False, fontsize=9)
    return figure


def choose_queries(labels: Tensor, count: int, seed: int = 0) -> Tensor:
    """Chooses a few queries to show: random ones, of as many different labels as possible.

    Args:
        labels: int64 (queries,).
        count: How many; at most all.
        seed: The seed of the choice.

    Returns:
        int64 (count,), positions in `labels`.

    Example:
        ```python
        >>> import torch
        >>> from vididi_hf.visualization import choose_queries
        >>> labels = torch.tensor([0, 0, 0, 1, 2])
        >>> sorted(labels[choose_queries(labels, 3)].tolist())
        [0, 1, 2]

        ```
    """
    shuffled = torch.randperm(len(labels), generator=seeded_generator("shown queries", seed))
    same = labels[shuffled, None] == labels[shuffled]
    earlier = same.tril(-1).sum(dim=1)  # videos of its label that come before it
    return shuffled[earlier.argsort(stable=True)][:count]


def plot_retrieval(
    queries: datasets.Dataset,
    query_rows: Sequence[int] | Tensor,
    gallery: datasets.Dataset,
    neighbours: Mapping[str, Sequence[Sequence[int]] | Tensor],
    num_neighbours: int = 5,
    title: str | None = None,
) -> Figure:
    """Shows queries with the videos retrieved for them, for several encoders one above the other.

    A video is a strip of three frames, at a quarter, the half and three quarters of its length, so that motion shows.
    Retrieved videos with the query's label have a green border and a tick, others a red border and a cross; without
    labels, borders are grey. Only the frames shown are decoded; all are cropped to the shape of the first query's.

    Args:
        queries: A data set with the column `video` and, where labels are known, `label`.
        query_rows: The rows of `queries` to show.
        gallery: The data set searched, with the same columns.
        neighbours: By name of an encoder: for each query shown, the rows of `gallery` found, nearest first; -1 is none.
        num_neighbours: How many of them to show.
        title: A line above the picture.

    Returns:
        The figure. Its axes are, query by query, the query and then what each encoder found.

    Raises:
        ValueError: If there is no query, or the neighbours of an encoder do not fit the queries.
        BrokenVideoError: If a video cannot be decoded.
    """
    found = {name: torch.as_tensor(rows)[:, :num_neighbours].tolist() for name, rows in neighbours.items()}
    for name, rows in found.items():
        if not len(rows) == len(query_rows) > 0:
            raise ValueError(f"{name!r} has the neighbours of {len(rows)} queries, but {len(query_rows)} are shown")
    asked = [_middle_frames(queries, int(row)) for row in query_rows]
    aspect = asked[0].shape[-1] / asked[0].shape[-2]

    # Everything has its place in inches from the top left, so that a strip has one size whatever is shown.
    strip, gap = STRIP_FRAMES * aspect * _SIDE, 0.1
    left = strip + 2 * gap + 0.085 * max(map(len, found))
    top, row_height = (0.65 if title else 0.25), _SIDE + 0.27
    block_height = len(found) * row_height + 0.2
    columns = max(len(ranked) for rows in found.values() for ranked in rows)
    width, height = left + columns * (strip + gap), top + len(query_rows) * block_height
    figure = Figure(figsize=(width, height))

    def draw(x: float, y: float, frames: Tensor, colour: str, label: str) -> None:
        axis = figure.add_axes((x / width, 1 - (y + _SIDE) / height, strip / width, _SIDE / height))
        _show_strip(axis, frames, aspect)
        for spine in axis.spines.values():
            spine.set(visible=True, color=colour, linewidth=2.5)
        axis.set_xlabel(label, fontsize=8, color=colour, labelpad=3)

    def write(x: float, y: float, text: str, size: int = 9, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text, fontsize=size, va="center", **{"color": _TEXT, **style})

    if title:
        write(0, 0.15, title, size=12)
    write(strip / 2, top - 0.12, "query", color=_FAINT, ha="center")
    for rank in range(columns):
        write(left + rank * (strip + gap) + strip / 2, top - 0.12, str(rank + 1), color=_FAINT, ha="center")
    for number, (row, frames) in enumerate(zip(query_rows, asked)):
        block = top + number * block_height
        wanted = _label(queries, int(row))
        draw(0, block + (len(found) - 1) * row_height / 2, frames, QUERY, wanted or "")
        for line, (name, rows) in enumerate(found.items()):
            y = block + line * row_height
            write(left - gap, y + _SIDE / 2, name, ha="right")
            for rank, neighbour in enumerate(rows[number]):
                if neighbour < 0:
                    continue
                label, colour = _label(gallery, neighbour), _FAINT
                if label is not None:
                    colour, mark = (SAME, "✓") if label == wanted else (OTHER, "✗")
                    label = f"{mark} {label}"
                draw(left + rank * (strip + gap), y, _middle_frames(gallery, neighbour), colour, label or "")
    return figure


def _middle_frames(rows: datasets.Dataset, row: int) -> Tensor:
    """Decodes uint8 (STRIP_FRAMES, 3, height, width), evenly spread between the ends of a video."""
    [sample] = rows.select([row]).select_columns("video").cast_column("video", datasets.Video(decode=False))
    places = torch.arange(1, STRIP_FRAMES + 1)
    return decode_clips(sample["video"], lambda length: (places * length // (STRIP_FRAMES + 1))[None])[0]


def _show_strip(axis: Axes, frames: Tensor, aspect: float) -> None:
    """Shows frames side by side, each cropped at its centre to the aspect ratio width / height."""
    height, width = frames.shape[-2:]
    shape = (_THUMBNAIL, round(_THUMBNAIL * aspect))
    scale = max(shape[0] / height, shape[1] / width)
    covering = [math.ceil(height * scale), math.ceil(width * scale)]
    frames = vision.center_crop(vision.resize(frames, covering, antialias=True), list(shape))
    _show(axis, torch.cat(frames.unbind(), dim=-1))
    for seam in range(1, len(frames)):
        axis.axvline(seam * shape[1] - 0.5, color="white", linewidth=1.5)


def _label(rows: datasets.Dataset, row: int) -> str | None:
    """Names the label of a video, where the data set has labels."""
    if "label" not in rows.column_names:
        return None
    label, feature = rows.select_columns("label")[row]["label"], rows.features["label"]
    return feature.int2str(label) if isinstance(feature, datasets.ClassLabel) else str(label)


def _image_grid(rows: int, columns: int, frames: Tensor) -> tuple[Figure, list[list[Axes]]]:
    """A grid of axes for images of the size of some (…, height, width) frames."""
    width = _SIDE * 1.4 * frames.shape[-1] / frames.shape[-2]
    figure = Figure(figsize=(columns * width + 0.8, rows * (_SIDE * 1.4 + 0.1) + 0.3), layout="compressed")
    return figure, [list(axes) for axes in figure.subplots(rows, columns, squeeze=False)]


def _show(axis: Axes, frame: Tensor) -> None:
    """Shows a frame (3, height, width) with values of 0 … 255, integer or not, without axes."""
    pixels = frame.permute(1, 2, 0)
    axis.imshow(pixels.clamp(0, 255).round().to(torch.uint8).numpy())
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _name_row(axis: Axes, name: str) -> None:
    axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, color=_TEXT, labelpad=6)


def _around_grey(derivative: Tensor) -> tuple[Tensor, float]:
    """Maps −limit … limit to 0 … 255 and returns the limit, at least 1 so that the noise of a still is not blown up."""
    limit = max(float(np.percentile(derivative.abs().numpy(), 99.5)), 1.0)
    return 127.5 + 127.5 * derivative / limit, limit


def _derivative_name(order: int) -> str:
    exponent = str(order).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return {0: "V", 1: "∂V"}.get(order, f"∂{exponent}V")


def _check_clip(clip: Tensor) -> None:
    if clip.dtype != torch.uint8 or clip.ndim != 4 or clip.shape[1] != 3:
        raise ValueError(f"expected uint8 (frames, 3, height, width), got {clip.dtype} {tuple(clip.shape)}")


def _by_epoch(rows: Sequence[Mapping[str, Any]], key: str) -> dict[int, list[float]]:
    values = defaultdict(list)
    for row in rows:
        if key in row:
            values[row["epoch"]].append(row[key])
    return dict(sorted(values.items()))
