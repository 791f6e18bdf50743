"""What all pictures share: colors, how a frame is drawn, how a figure is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

SAME, OTHER, QUERY = "#2a9d5c", "#d1495b", "#30343b"
"""Border colors of retrieved videos with the query's label and with another one, and of the query."""
RUN_COLOURS = ("#8a8f98", "#2f6fdb", "#e07b39", "#2a9d5c", "#8e5bd0", "#c2185b", "#c8a415")
"""Colors of runs, in their order; the first, gray, suits a baseline."""
SIGNED_COLOURS = ("rgb", "diverging")
"""How a signed image is drawn: each color channel around mid-gray, or the mean of the channels from blue to red."""

TEXT, FAINT = "#30343b", "#8a8f98"
SIDE = 0.75  # inches of a thumbnail in a figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes a figure; the suffix (.png, .pdf, .svg) chooses the format, missing folders are made.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight", facecolor="white")
    return path


def image_grid(rows: int, columns: int, frames: Tensor) -> tuple[Figure, list[list[Axes]]]:
    """Makes a grid of axes for images of the size of some (…, height, width) frames."""
    width = SIDE * 1.4 * frames.shape[-1] / frames.shape[-2]
    figure = Figure(figsize=(columns * width + 0.8, rows * (SIDE * 1.4 + 0.1) + 0.3), layout="compressed")
    return figure, [list(axes) for axes in figure.subplots(rows, columns, squeeze=False)]


def show_frame(axis: Axes, frame: Tensor) -> None:
    """Shows a frame (3, height, width) with values of 0 … 255, integer or not, without axes."""
    pixels = frame.permute(1, 2, 0)
    axis.imshow(pixels.clamp(0, 255).round().to(torch.uint8).numpy())
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def name_row(axis: Axes, name: str) -> None:
    """Writes the name of a row of images to the left of its first one."""
    axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, color=TEXT, labelpad=6)


def signed_image(values: Tensor, colors: str) -> tuple[Tensor, float]:
    """Colors signed values symmetrically, up to the 99.5th percentile of their absolute values.

    Args:
        values: (…, 3, height, width), in gray levels out of 255.
        colors: One of `SIGNED_COLOURS`.

    Returns:
        (…, 3, height, width) with values of 0 … 255 or a little beyond, and the limit of the scale: at least 1, so that
        the noise of a still video is not blown up.

    Raises:
        ValueError: If there are no such colors.
    """
    if colors not in SIGNED_COLOURS:
        raise ValueError(f"colors must be one of {', '.join(SIGNED_COLOURS)}, got {colors!r}")
    if colors == "diverging":
        values = values.mean(dim=-3)
    limit = max(float(np.percentile(values.abs().numpy(), 99.5)), 1.0)
    if colors == "rgb":
        return 127.5 + 127.5 * values / limit, limit
    painted = colormaps["RdBu_r"]((0.5 + 0.5 * values / limit).clamp(0, 1).numpy())[..., :3]
    return 255 * torch.from_numpy(painted).float().movedim(-1, -3), limit


def check_clip(clip: Tensor) -> None:
    """Checks that a clip is what the pictures take.

    Raises:
        ValueError: If it is not uint8 (frames, 3, height, width).
    """
    if clip.dtype != torch.uint8 or clip.ndim != 4 or clip.shape[1] != 3:
        raise ValueError(f"expected uint8 (frames, 3, height, width), got {clip.dtype} {tuple(clip.shape)}")
