"""Temporal derivatives of a video, and the Taylor expansion that they span.

ViDiDi reads a video as a function of time V(t) with the Taylor expansion

    V(t + h) = V(t) + h ∂V(t) + h²/2 ∂²V(t) + …

and treats V, ∂V, ∂²V as views of one and the same dynamics (*Unfolding Videos Dynamics via Taylor Expansion*,
arXiv 2409.02371). Every tensor here has the shape (…, frames, channels, height, width).
"""

import math

import torch
from torch import Tensor

from .choices_vididi import SCALES

FRAMES_DIM = -4
SCHEMES = ("forward", "central")
# One gray level of 255, in normalized frames: differences below it are rounding and noise of the camera.
SMALLEST_AMPLITUDE = 1 / 255 / 0.225


def temporal_derivative(frames: Tensor, order: int = 1, *, step: float = 1.0, scheme: str = "forward") -> Tensor:
    """Differentiate a video in time by finite differences of its frames.

    `"forward"` is the paper's ∂V(n) = V(n+1) − V(n), applied `order` times, so ∂²V(n) = V(n+2) − 2V(n+1) + V(n);
    result frame n belongs to input frame n and `order` frames fewer come back.

    `"central"` is symmetric about the frame it belongs to and second-order accurate: ∂V(n) = (V(n+1) − V(n−1)) / 2,
    ∂²V(n) = V(n+1) − 2V(n) + V(n−1). With m = ⌈order/2⌉, result frame n belongs to input frame n + m, and 2m frames
    fewer come back: `order` for an even order, `order + 1` for an odd one.

    Args:
        frames: (…, frames, channels, height, width). Integer frames are converted to the default float type first,
            so that differences of `uint8` frames do not wrap around.
        order: Order of the derivative, 0 or more. Order 0 returns the frames.
        step: Time between two frames; the difference is divided by `step ** order`. Pass `stride / fps` for a rate
            per second. The default keeps the paper's plain differences.
        scheme: `"forward"` or `"central"`.

    Returns:
        The derivative, with the device and (if floating) the dtype of `frames`.

    Raises:
        ValueError: If there are too few frames, or an argument is impossible.

    Example:
        >>> import torch
        >>> video = torch.rand(2, 10, 3, 112, 112)
        >>> temporal_derivative(video, order=2).shape
        torch.Size([2, 8, 3, 112, 112])
        >>> temporal_derivative(video, order=1, step=3 / 30, scheme="central").shape
        torch.Size([2, 8, 3, 112, 112])
    """
    _check_frames(frames)
    _check_order(order)
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"step must be a positive time between two frames, got {step}")
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    central_odd = scheme == "central" and order % 2 == 1
    available, needed = frames.shape[FRAMES_DIM], order + central_odd + 1
    if available < needed:
        raise ValueError(f"a {scheme} derivative of order {order} needs at least {needed} frames, got {available}")

    derivative = _as_float(frames)
    if order > 0:
        derivative = torch.diff(derivative, n=order, dim=FRAMES_DIM)
    if central_odd:
        # An odd number of differences lies halfway between two frames; the mean of two neighbors lies on one.
        last = derivative.shape[FRAMES_DIM] - 1
        derivative = (derivative.narrow(FRAMES_DIM, 0, last) + derivative.narrow(FRAMES_DIM, 1, last)) / 2
    return derivative if order == 0 or step == 1 else derivative / step**order


def derivative_view(frames: Tensor, order: int, num_frames: int) -> Tensor:
    """Return the first `num_frames` frames of the forward derivative of the given order.

    A clip with as many extra frames as the highest order in use thus yields views of one shape for every order.

    Args:
        frames: (…, at least `num_frames + order` frames, channels, height, width).
        order: Order of the derivative, 0 or more.
        num_frames: Number of frames of the view.

    Returns:
        (…, `num_frames`, channels, height, width).

    Raises:
        ValueError: If the clip is too short, or an argument is impossible.

    Example:
        >>> import torch
        >>> clip = torch.rand(2, 10, 3, 112, 112)
        >>> [tuple(derivative_view(clip, order, num_frames=8).shape) for order in (0, 1, 2)]
        [(2, 8, 3, 112, 112), (2, 8, 3, 112, 112), (2, 8, 3, 112, 112)]
    """
    _check_frames(frames)
    _check_order(order)
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    available, needed = frames.shape[FRAMES_DIM], num_frames + order
    if available < needed:
        raise ValueError(
            f"a view of {num_frames} frames of the derivative of order {order} needs {needed} frames, got {available}"
        )
    return temporal_derivative(frames.narrow(FRAMES_DIM, 0, needed), order)


def rescale_derivative(derivative: Tensor, order: int, scale: str) -> Tensor:
    """Bring the derivatives of normalized clips to a scale.

    Frames normalized by mean and standard deviation have a root mean square of about 1, and their derivatives of a
    tenth of that. `"unit"` divides each clip's derivative by its root mean square, so that derivatives of all orders
    have the scale of frames and slow motion that of fast motion. A fixed factor for each order would change nothing
    wherever views pass a network one by one: the first convolution has no bias, and the BatchNorm behind it undoes
    every factor.

    Args:
        derivative: (…, frames, channels, height, width), floating.
        order: Which derivative it is. Frames (0) are returned as they are.
        scale: `"none"` returns every derivative as it is. `"unit"` gives each clip (its last four dimensions) a root
            mean square of 1; where it is below one gray level, the clip is divided by that level, so that the noise of
            a video without motion is not taken for motion.

    Returns:
        The derivative with its shape, dtype and device.

    Raises:
        ValueError: If the scale is unknown.

    Example:
        >>> import torch
        >>> difference = 0.1 * torch.randn(2, 8, 3, 112, 112)
        >>> scaled = rescale_derivative(difference, order=1, scale="unit")
        >>> scaled.shape, round(scaled[0].std().item(), 2)
        (torch.Size([2, 8, 3, 112, 112]), 1.0)
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    _check_frames(derivative)
    if order == 0 or scale == "none":
        return derivative
    # Half precision cannot sum so many squares.
    wide = torch.promote_types(derivative.dtype, torch.float32)
    energy = derivative.to(wide).square().mean(dim=(-4, -3, -2, -1), keepdim=True)
    # The floor comes before the root, whose gradient at 0 is infinite.
    return derivative / energy.clamp_min(SMALLEST_AMPLITUDE**2).sqrt().to(derivative.dtype)


def derivative_weights(order: int) -> Tensor:
    """Weights that turn the last `order + 1` frames into the derivatives 0 … `order` at the very last frame.

    The weights are one-sided: they look into the past only. They invert the Taylor system
    V(t − j) = Σₖ (−j)ᵏ/k! ∂ᵏV(t), j = 0 … `order`, and are therefore exact for every video that is a polynomial of
    degree ≤ `order` in time.

    Args:
        order: Highest derivative, 0 or more.

    Returns:
        float64 matrix (`order + 1`, `order + 1`); row k gives ∂ᵏV, columns go from the oldest frame to the newest.

    Raises:
        ValueError: If `order` is not an integer of at least 0.

    Example:
        >>> derivative_weights(1).int().tolist()
        [[0, 1], [-1, 1]]
    """
    _check_order(order)
    return torch.linalg.inv(_taylor_matrix(torch.arange(-order, 1), order))


def taylor_expand(frames: Tensor, order: int, horizon: int) -> Tensor:
    """Predict the frames that follow from the derivatives at the last frame, V(t + h) = Σₖ hᵏ/k! ∂ᵏV(t).

    The derivatives are those of `derivative_weights`, taken from the last `order + 1` frames, so that a video which is
    a polynomial of degree ≤ `order` in time is continued exactly. Order 0 repeats the last frame.

    Args:
        frames: (…, at least `order + 1` frames, channels, height, width).
        order: Highest derivative of the expansion, 0 or more.
        horizon: Number of frames to predict, at h = 1 … `horizon` frames after the last one.

    Returns:
        (…, `horizon`, channels, height, width).

    Raises:
        ValueError: If there are too few frames, or an argument is impossible.

    Example:
        >>> import torch
        >>> ramp = torch.arange(4.0).reshape(4, 1, 1, 1)
        >>> taylor_expand(ramp, order=1, horizon=3).flatten().tolist()
        [4.0, 5.0, 6.0]
    """
    _check_frames(frames)
    _check_order(order)
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    available = frames.shape[FRAMES_DIM]
    if available < order + 1:
        raise ValueError(f"an expansion of order {order} needs at least {order + 1} frames, got {available}")
    past = _as_float(frames).narrow(FRAMES_DIM, available - order - 1, order + 1)
    # Both matrices are tiny and are multiplied in float64 before they meet the frames: one pass over the pixels.
    weights = _taylor_matrix(torch.arange(1, horizon + 1), order) @ derivative_weights(order)
    return torch.einsum("tn,...nchw->...tchw", weights.to(past.dtype).to(past.device), past)


def _taylor_matrix(times: Tensor, order: int) -> Tensor:
    """(times, order + 1) float64 matrix of tᵏ/k!, which maps derivatives at time 0 to values at the given times."""
    powers = torch.arange(order + 1, dtype=torch.float64)
    factorials = torch.tensor([math.factorial(k) for k in range(order + 1)], dtype=torch.float64)
    return times.double().unsqueeze(1) ** powers / factorials


def _as_float(frames: Tensor) -> Tensor:
    return frames if frames.is_floating_point() else frames.to(torch.get_default_dtype())


def _check_order(order: int) -> None:
    if isinstance(order, bool) or not isinstance(order, int) or order < 0:
        raise ValueError(f"order must be an integer of at least 0, got {order!r}")


def _check_frames(frames: Tensor) -> None:
    if frames.ndim < 4:
        raise ValueError(f"expected (..., frames, channels, height, width), got the shape {tuple(frames.shape)}")
