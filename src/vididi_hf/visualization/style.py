"""What all figures share: colors, image grids, how a frame is drawn, and how a figure is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

SAME, OTHER, QUERY = "#2a9d5c", "#d1495b", "#30343b"
"""Border colors of retrieved videos with the query's label, of those with another label, and of the query."""
RUN_COLORS = ("#8a8f98", "#2f6fdb", "#e07b39", "#2a9d5c", "#8e5bd0", "#c2185b", "#c8a415")
"""Colors of runs. The first one, gray, suits a baseline."""

TEXT, FAINT = "#30343b", "#8a8f98"
SIDE = 0.75  # inches of a thumbnail in a figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes a figure in the format of the path's suffix (.png, .pdf, .svg), and returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight", facecolor="white")
    return path


def image_grid(rows: int, columns: int, frames: Tensor) -> tuple[Figure, list[list[Axes]]]:
    """Makes a grid of axes for images of the size of (…, height, width) frames."""
    width = SIDE * 1.4 * frames.shape[-1] / frames.shape[-2]
    figure = Figure(figsize=(columns * width + 0.8, rows * (SIDE * 1.4 + 0.1) + 0.3), layout="compressed")
    return figure, [list(axes) for axes in figure.subplots(rows, columns, squeeze=False)]


def show_frame(axis: Axes, frame: Tensor) -> None:
    """Shows a frame (3, height, width) with values of 0 to 255, without axes."""
    pixels = frame.permute(1, 2, 0)
    axis.imshow(pixels.clamp(0, 255).round().to(torch.uint8).numpy())
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def name_row(axis: Axes, name: str) -> None:
    """Writes the name of a row of images to the left of its first image."""
    axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, color=TEXT, labelpad=6)


def number_frames(axes: list[Axes]) -> None:
    """Writes the number of each frame above it."""
    for number, axis in enumerate(axes):
        axis.set_title(f"frame {number}", fontsize=8, color=FAINT, pad=3)


def signed_image(values: Tensor, colors: str) -> tuple[Tensor, float]:
    """Maps signed values to colors, symmetrically up to the 99.5th percentile of their absolute values.

    Args:
        values: (…, 3, height, width), in gray levels out of 255.
        colors: `"rgb"`: each channel around mid-gray. `"diverging"`: the mean of the channels, from blue to red.

    Returns:
        (…, 3, height, width) with values around 0 to 255, and the limit of the scale. The limit is at least 1, so that
        the noise of a still video stays invisible.

    Raises:
        ValueError: If `colors` is unknown.
    """
    if colors not in ("rgb", "diverging"):
        raise ValueError(f"colors must be one of rgb, diverging, got {colors!r}")
    if colors == "diverging":
        values = values.mean(dim=-3)
    limit = max(float(np.percentile(values.abs().numpy(), 99.5)), 1.0)
    if colors == "rgb":
        return 127.5 + 127.5 * values / limit, limit
    painted = colormaps["RdBu_r"]((0.5 + 0.5 * values / limit).clamp(0, 1).numpy())[..., :3]
    return 255 * torch.from_numpy(painted).float().movedim(-1, -3), limit


def check_clip(clip: Tensor) -> None:
    """Raises a `ValueError` unless a clip is uint8 (frames, 3, height, width)."""
    if clip.dtype != torch.uint8 or clip.ndim != 4 or clip.shape[1] != 3:
        raise ValueError(f"expected uint8 (frames, 3, height, width), got {clip.dtype} {tuple(clip.shape)}")
