"""Temporal derivatives of a video V(t) and its Taylor expansion.

V(t + h) = V(t) + h ∂V(t) + h²/2 ∂²V(t) + … Every tensor is (…, frames, channels, height, width).
"""

import math

import torch
from torch import Tensor

from .choices_vididi import SCALES

FRAMES_DIM = -4
# One gray level of 255, in normalized frames. Smaller differences are rounding and camera noise.
SMALLEST_AMPLITUDE = 1 / 255 / 0.225


def temporal_derivative(frames: Tensor, order: int = 1) -> Tensor:
    """Differentiates a video in time by forward differences of its frames.

    The first derivative is ∂V(n) = V(n+1) − V(n). Applying it `order` times gives the higher ones, such as
    ∂²V(n) = V(n+2) − 2V(n+1) + V(n). Frame n of the result belongs to frame n of the input.

    Args:
        frames: (…, frames, channels, height, width). Integers become floats, whose differences do not wrap around.
        order: Order of the derivative, 0 or more. Order 0 returns the frames.

    Returns:
        (…, frames − order, channels, height, width), with the device and (if floating) the dtype of `frames`. The
        unit is that of the pixels per sampled frame.

    Raises:
        ValueError: If there are too few frames, or `order` is not an integer of at least 0.

    Source: https://arxiv.org/abs/2409.02371.

    Example:
        >>> import torch
        >>> temporal_derivative(torch.rand(2, 10, 3, 112, 112), order=2).shape
        torch.Size([2, 8, 3, 112, 112])
    """
    _check_order(order)
    _check_frames(frames, order + 1, f"a derivative of order {order}")
    return torch.diff(_as_float(frames), n=order, dim=FRAMES_DIM) if order else _as_float(frames)


def derivative_view(frames: Tensor, order: int, num_frames: int) -> Tensor:
    """Returns the first `num_frames` frames of a derivative, so that the views of all orders have one shape."""
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    _check_order(order)
    _check_frames(frames, num_frames + order, f"a view of {num_frames} frames of the derivative of order {order}")
    return temporal_derivative(frames.narrow(FRAMES_DIM, 0, num_frames + order), order)


def rescale_derivative(derivative: Tensor, order: int, scale: str) -> Tensor:
    """Divides each clip's derivative by its root mean square if the scale is `"unit"`; frames stay as they are."""
    # A fixed factor per order would change nothing: the BatchNorm behind the first convolution cancels it.
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    _check_frames(derivative)
    if order == 0 or scale == "none":
        return derivative
    # Half precision cannot sum so many squares.
    wide = torch.promote_types(derivative.dtype, torch.float32)
    energy = derivative.to(wide).square().mean(dim=(-4, -3, -2, -1), keepdim=True)
    # The floor keeps the noise of a video without motion small. It comes before the root, whose gradient at 0 is
    # infinite.
    return derivative / energy.clamp_min(SMALLEST_AMPLITUDE**2).sqrt().to(derivative.dtype)


def taylor_expand(frames: Tensor, order: int, horizon: int) -> Tensor:
    """Predicts the frames that follow from the derivatives at the last frame, V(t + h) = Σₖ hᵏ/k! ∂ᵏV(t).

    The derivatives come from the last `order + 1` frames. The expansion is exact for videos that are polynomials of
    degree ≤ `order` in time.

    Args:
        frames: (…, at least `order + 1` frames, channels, height, width).
        order: Highest derivative of the expansion, 0 or more.
        horizon: Number of frames to predict, at h = 1 … `horizon` frames after the last one.

    Returns:
        (…, `horizon`, channels, height, width), in the unit of the pixels.

    Raises:
        ValueError: If there are too few frames, `order` is not an integer of at least 0, `horizon` is below 1, or the
            weights of the frames are too large to be exact in their dtype.

    Source: https://arxiv.org/abs/2409.02371.

    Example:
        >>> import torch
        >>> ramp = torch.arange(4.0).reshape(4, 1, 1, 1)
        >>> taylor_expand(ramp, order=1, horizon=3).flatten().tolist()
        [4.0, 5.0, 6.0]
    """
    _check_order(order)
    _check_frames(frames, order + 1, f"an expansion of order {order}")
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    past = _as_float(frames).narrow(FRAMES_DIM, frames.shape[FRAMES_DIM] - order - 1, order + 1)
    exact = [[_taylor_weight(order, h, k) for k in range(order, -1, -1)] for h in range(1, horizon + 1)]
    wide = torch.promote_types(past.dtype, torch.float32)
    weights = torch.tensor(exact, dtype=torch.float64).to(wide)
    if weights.tolist() != exact:  # Python compares integers and floats exactly
        raise ValueError(
            f"the weights of order {order} with horizon {horizon} are too large for {wide}: lower order or horizon, "
            "or pass frames of float64"
        )
    return torch.einsum("tn,...nchw->...tchw", weights.to(past.device), past.to(wide)).to(past.dtype)


def _taylor_weight(order: int, h: int, k: int) -> int:
    """The integer weight of V(t − k) in V(t + h), if ∂V … are the derivatives of the polynomial through the frames."""
    return (-1) ** k * math.comb(h + k - 1, k) * math.comb(h + order, order - k)


def _as_float(frames: Tensor) -> Tensor:
    return frames if frames.is_floating_point() else frames.to(torch.get_default_dtype())


def _check_order(order: int) -> None:
    if isinstance(order, bool) or not isinstance(order, int) or order < 0:
        raise ValueError(f"order must be an integer of at least 0, got {order!r}")


def _check_frames(frames: Tensor, needed: int = 0, what: str = "") -> None:
    if frames.ndim < 4:
        raise ValueError(f"expected (..., frames, channels, height, width), got the shape {tuple(frames.shape)}")
    if frames.shape[FRAMES_DIM] < needed:
        raise ValueError(f"{what} needs at least {needed} frames, got {frames.shape[FRAMES_DIM]}")
