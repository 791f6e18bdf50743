"""Figures of a clip's temporal derivatives and of the frames that they predict."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from vididi_hf.derivatives_vididi import derivative_view, taylor_expand, temporal_derivative
from vididi_hf.visualization.style import (
    FAINT,
    TEXT,
    check_clip,
    image_grid,
    name_row,
    number_frames,
    show_frame,
    signed_image,
)


def plot_derivatives(clip: Tensor, max_order: int = 2, colors: str = "rgb") -> Figure:
    """Shows a clip and its temporal derivatives, with one row per order and one column per frame.

    The label of a row states its scale: the 99.5th percentile of its absolute values, in gray levels out of 255.

    Args:
        clip: uint8 (frames, 3, height, width). The derivatives use up its last `max_order` frames.
        max_order: The highest order.
        colors: `"rgb"`: each color channel, with mid-gray for no change. `"diverging"`: the mean of the channels, from
            blue (darker) over white (no change) to red (brighter).
    """
    check_clip(clip)
    columns = len(clip) - max_order
    if columns < 1:
        raise ValueError(f"derivatives up to order {max_order} need at least {max_order + 1} frames, got {len(clip)}")
    figure, grid = image_grid(max_order + 1, columns, clip)
    for order, axes in enumerate(grid):
        view = derivative_view(clip, order, columns)
        label = _derivative_name(order)
        if order > 0:
            view, limit = signed_image(view, colors)
            label += f"\n±{limit:.0f}"
        for axis, frame in zip(axes, view):
            show_frame(axis, frame)
        name_row(axes[0], label)
    number_frames(grid[0])
    return figure


def plot_taylor(frames: Tensor, order: int = 2, horizon: int = 4, colors: str = "rgb") -> Figure:
    """Compares the last frames of a clip with their predictions by Taylor expansions.

    The first row is the video: the last known frame t and the frames after it. Each row below is an expansion: its
    highest derivative ∂ᵏV(t), and the predicted frames. Below each prediction is its root mean square error in gray
    levels out of 255, in bold for the best order.

    Args:
        frames: uint8 (at least `order + 1 + horizon` frames, 3, height, width).
        order: The highest order.
        horizon: The number of predicted frames.
        colors: Colors of the derivatives; see `plot_derivatives`.
    """
    check_clip(frames)
    needed = order + 1 + horizon
    if len(frames) < needed:
        raise ValueError(f"order {order} and horizon {horizon} need at least {needed} frames, got {len(frames)}")
    past, future = frames[:-horizon].float(), frames[-horizon:].float()
    predictions = [taylor_expand(past, k, horizon) for k in range(order + 1)]
    errors = torch.stack([(frames - future).square().mean(dim=(1, 2, 3)).sqrt() for frames in predictions])
    figure, grid = image_grid(order + 2, 1 + horizon, frames)
    for step, (axis, frame) in enumerate(zip(grid[0], frames[-horizon - 1 :])):
        show_frame(axis, frame)
        axis.set_title(f"t + {step}" if step else "t", fontsize=8, color=FAINT, pad=3)
    name_row(grid[0][0], "video")
    for k, (axes, predicted) in enumerate(zip(grid[1:], predictions)):
        derivative = temporal_derivative(past, k)[-1]
        show_frame(axes[0], signed_image(derivative, colors)[0] if k else derivative)
        axes[0].set_xlabel(f"{_derivative_name(k)}(t)", fontsize=8, color=FAINT, labelpad=2)
        for step, (axis, frame) in enumerate(zip(axes[1:], predicted)):
            show_frame(axis, frame)
            weight = "bold" if k == errors[:, step].argmin() else "normal"
            axis.set_xlabel(f"{errors[k, step]:.1f}", fontsize=8, color=TEXT, weight=weight, labelpad=2)
        name_row(axes[0], f"order {k}")
    return figure


def _derivative_name(order: int) -> str:
    exponent = str(order).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return {0: "V", 1: "∂V"}.get(order, f"∂{exponent}V")
