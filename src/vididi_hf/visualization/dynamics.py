"""Pictures of a clip's dynamics: its temporal derivatives, and what they predict."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from vididi_hf.derivatives_vididi import derivative_view, taylor_expand, temporal_derivative
from vididi_hf.visualization.style import FAINT, TEXT, check_clip, image_grid, name_row, show_frame, signed_image


def plot_derivatives(clip: Tensor, max_order: int = 2, colors: str = "rgb") -> Figure:
    """Shows a clip and its temporal derivatives, as the encoder sees them: one row per order, one column per frame.

    Derivatives are signed. Each row is scaled symmetrically to the 99.5th percentile of its absolute values, which its
    label states in gray levels out of 255.

    Args:
        clip: uint8 (frames, 3, height, width); the derivatives use up `max_order` frames at its end.
        max_order: The highest order.
        colors: `"rgb"`: each color channel of its own, mid-gray is no change. `"diverging"`: the mean of the
            channels, from blue (darker) over white (no change) to red (brighter).

    Returns:
        A figure of (max_order + 1) · (frames − max_order) images.

    Raises:
        ValueError: If the clip is too short or has another shape, or there are no such colors.

    Example:
        ```python
        >>> from vididi_hf.data.motion import render_motion
        >>> from vididi_hf.visualization import plot_derivatives
        >>> figure = plot_derivatives(render_motion("train", 3)[:10])
        >>> len(figure.axes)
        24

        ```
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
    for number, axis in enumerate(grid[0]):
        axis.set_title(f"frame {number}", fontsize=8, color=FAINT, pad=3)
    return figure


def plot_taylor(frames: Tensor, order: int = 2, horizon: int = 4, colors: str = "rgb") -> Figure:
    """Compares the last frames of a clip with their prediction from the frames before, by Taylor expansions.

    The first row is the video: the last known frame t and those that follow. Below, one row for each order k up to
    `order` holds the highest derivative that its expansion uses, ∂ᵏV(t), and the prediction; order 0 repeats frame t.
    The number under a prediction is its root mean square error in gray levels out of 255, bold for the best order.

    Args:
        frames: uint8 (at least `order + 1 + horizon` frames, 3, height, width).
        order: The highest order.
        horizon: The number of frames to predict.
        colors: Of the derivatives; see `plot_derivatives`.

    Returns:
        A figure of (order + 2) · (1 + horizon) images.

    Raises:
        ValueError: If there are too few frames or they have another shape, or there are no such colors.

    Example:
        ```python
        >>> from vididi_hf.data.motion import render_motion
        >>> from vididi_hf.visualization import plot_taylor
        >>> len(plot_taylor(render_motion("train", 3), order=1, horizon=4).axes)
        15

        ```
    """
    check_clip(frames)
    needed = order + 1 + horizon
    if len(frames) < needed:
        raise ValueError(
            f"an expansion of order {order} compared over {horizon} frames needs {needed} frames, got {len(frames)}"
        )
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
