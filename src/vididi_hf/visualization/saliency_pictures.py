"""Pictures of where encoders look."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor, from_numpy

from vididi_hf.visualization.style import FAINT, check_clip, image_grid, name_row, show_frame


def plot_saliency(clip: Tensor, saliencies: Mapping[str, Tensor]) -> Figure:
    """Shows where encoders look: the clip, and below, one row per encoder, the clip in gray under its saliency.

    Each row is scaled to the 99.5th percentile of its own values, from gray (nothing) over violet to yellow: only the
    places can be compared, not the values of different encoders.

    Args:
        clip: uint8 (frames, 3, height, width).
        saliencies: By name of an encoder, what `video_saliency` returned: (at least as many frames, height, width).
            Height and width may differ from those of the clip.

    Returns:
        A figure of (1 + encoders) · frames images.

    Raises:
        ValueError: If the clip has another shape, or a saliency has too few frames.

    Example:
        ```python
        >>> import torch
        >>> from vididi_hf.data.motion import render_motion
        >>> from vididi_hf.visualization import plot_saliency
        >>> maps = {"baseline": torch.rand(8, 40, 40), "ViDiDi": torch.rand(8, 40, 40)}
        >>> len(plot_saliency(render_motion("train", 3)[:8], maps).axes)
        24

        ```
    """
    check_clip(clip)
    for name, saliency in saliencies.items():
        if saliency.ndim != 3 or len(saliency) < len(clip):
            raise ValueError(
                f"expected the saliency of {name!r} to be (at least {len(clip)} frames, height, width), "
                f"got {tuple(saliency.shape)}"
            )
    figure, grid = image_grid(1 + len(saliencies), len(clip), clip)
    for number, (axis, frame) in enumerate(zip(grid[0], clip)):
        show_frame(axis, frame)
        axis.set_title(f"frame {number}", fontsize=8, color=FAINT, pad=3)
    name_row(grid[0][0], "video")
    for axes, (name, saliency) in zip(grid[1:], saliencies.items()):
        name_row(axes[0], name)
        for axis, frame in zip(axes, overlay(clip, saliency[: len(clip)])):
            show_frame(axis, frame)
    return figure


def overlay(clip: Tensor, saliency: Tensor) -> Tensor:
    """Paints a saliency over a clip in gray, in colors and with an opacity that grow up to its 99.5th percentile.

    Args:
        clip: uint8 (frames, 3, height, width).
        saliency: (frames, any height, any width), at least 0.

    Returns:
        float (frames, 3, height, width), 0 … 255.
    """
    limit = float(np.percentile(saliency.numpy(), 99.5)) or float(saliency.max()) or 1.0
    relative = (saliency / limit).clamp(max=1)
    relative = F.interpolate(relative[:, None], size=clip.shape[-2:], mode="bilinear", align_corners=False)
    heat = 255 * from_numpy(colormaps["plasma"](relative[:, 0].numpy())[..., :3]).float().movedim(-1, 1)
    gray = clip.float().mean(dim=1, keepdim=True)
    return gray + (0.85 * relative) * (heat - gray)
