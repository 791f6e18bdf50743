"""What all figures share: colors, image grids, how a frame is drawn, and how a figure is written."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from vididi_hf.files import atomic_write

# Borders of retrieved videos with the query's label, of those with another label, and of the query.
SAME, OTHER, QUERY = "#2a9d5c", "#d1495b", "#30343b"
# The first color, gray, suits a baseline.
RUN_COLORS = ("#8a8f98", "#2f6fdb", "#e07b39", "#2a9d5c", "#8e5bd0", "#c2185b", "#c8a415")
TEXT, FAINT = "#30343b", "#8a8f98"
SIDE = 0.75  # inches of a thumbnail in a figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes a figure in the format of the path's suffix (.png, .pdf, .svg), and returns the path."""
    path = Path(path)
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, format=path.suffix[1:] or None, dpi=150, bbox_inches="tight", facecolor="white")
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


def show_row(axes: Sequence[Axes], frames: Tensor, name: str, numbered: bool = False) -> None:
    """Shows frames side by side, with the name of the row to the left and, if wanted, numbers above."""
    for number, (axis, frame) in enumerate(zip(axes, frames)):
        show_frame(axis, frame)
        if numbered:
            axis.set_title(f"frame {number}", fontsize=8, color=FAINT, pad=3)
    axes[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, color=TEXT, labelpad=6)


def signed_image(values: Tensor, colors: str) -> tuple[Tensor, float]:
    """Maps signed gray levels (…, 3, height, width) to colors of 0 to 255; returns these and the limit of the scale."""
    if colors not in ("rgb", "diverging"):
        raise ValueError(f"colors must be one of rgb, diverging, got {colors!r}")
    values = values.mean(dim=-3) if colors == "diverging" else values
    limit = max(float(np.percentile(values.abs().numpy(), 99.5)), 1.0)  # the noise of a still video stays invisible
    if colors == "rgb":
        return 127.5 + 127.5 * values / limit, limit
    painted = colormaps["RdBu_r"]((0.5 + 0.5 * values / limit).clamp(0, 1).numpy())[..., :3]
    return 255 * torch.from_numpy(painted).float().movedim(-1, -3), limit


def check_clip(clip: Tensor) -> None:
    """Raises a `ValueError` unless a clip is uint8 (frames, 3, height, width)."""
    if clip.dtype != torch.uint8 or clip.ndim != 4 or clip.shape[1] != 3:
        raise ValueError(f"expected uint8 (frames, 3, height, width), got {clip.dtype} {tuple(clip.shape)}")
