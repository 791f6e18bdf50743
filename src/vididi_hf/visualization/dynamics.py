"""Figures of a clip's temporal derivatives and of the frames that they predict."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from vididi_hf.derivatives_vididi import derivative_view, taylor_expand, temporal_derivative
from vididi_hf.visualization.style import FAINT, TEXT, check_clip, image_grid, show_row, signed_image


def plot_derivatives(clip: Tensor, max_order: int = 2, colors: str = "rgb") -> Figure:
    """Shows a clip and its temporal derivatives, with one row per order and one column per frame.

    The label of a row states its scale: the 99.5th percentile of its absolute values, in gray levels out of 255.

    Args:
        clip: uint8 (frames, 3, height, width). The derivatives use up its last `max_order` frames.
        max_order: The highest order.
        colors: `"rgb"`: each channel around mid-gray. `"diverging"`: their mean, from blue (darker) to red (brighter).
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
        show_row(axes, view, label, numbered=order == 0)
    return figure


def plot_taylor(frames: Tensor, order: int = 2, horizon: int = 4, colors: str = "rgb") -> Figure:
    """Compares the last frames of a clip with their predictions by Taylor expansions.

    The first row is the video: the last known frame t and those after it. Each row below is an expansion: its highest
    derivative ∂ᵏV(t), and the predicted frames with their root mean square errors in gray levels out of 255, in bold
    for the best order.

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
    show_row(grid[0], frames[-horizon - 1 :], "video")
    for step, axis in enumerate(grid[0]):
        axis.set_title(f"t + {step}" if step else "t", fontsize=8, color=FAINT, pad=3)
    for k, (axes, predicted) in enumerate(zip(grid[1:], predictions)):
        derivative = temporal_derivative(past, k)[-1]
        shown = signed_image(derivative, colors)[0] if k else derivative
        show_row(axes, torch.cat([shown[None], predicted]), f"order {k}")
        axes[0].set_xlabel(f"{_derivative_name(k)}(t)", fontsize=8, color=FAINT, labelpad=2)
        for step, axis in enumerate(axes[1:]):
            weight = "bold" if k == errors[:, step].argmin() else "normal"
            axis.set_xlabel(f"{errors[k, step]:.1f}", fontsize=8, color=TEXT, weight=weight, labelpad=2)
    return figure


def _derivative_name(order: int) -> str:
    exponent = str(order).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return {0: "V", 1: "∂V"}.get(order, f"∂{exponent}V")
