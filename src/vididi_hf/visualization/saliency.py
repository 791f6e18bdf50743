"""Where an encoder looks: which pixels, and when, make the embedding of a video what it is.

No class is needed: the difference that the video makes to the embedding is shared out among the pixels, exactly.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vididi_hf.derivatives_vididi import temporal_derivative
from vididi_hf.evaluation.features import evaluation_mode
from vididi_hf.modeling_vididi import ViDiDiModel

STEPS = 16


def video_saliency(
    model: ViDiDiModel,
    pixel_values: Tensor,
    *,
    derivative_order: int = 0,
    steps: int = STEPS,
    smoothing: tuple[float, float] = (1.0, 0.05),
) -> Tensor:
    """Computes where in space and time an encoder looks, by integrated gradients of its own embedding.

    With f the pooled features of the derivative of the given order, x the video, and x̄ the video without content, a
    still of its mean frame blurred by a quarter of its size,

        d = f(x) − f(x̄),    A = (x − x̄) · 1/n Σᵢ ∇⟨f, d/‖d‖⟩(x̄ + (i − ½)/n · (x − x̄)),    saliency = max(0, G ∗ A / ‖d‖)

    A is summed over the channels; its sum over all pixels and frames is ‖d‖ but for the n steps of the integral, so
    each value of A / ‖d‖ is a share of what the video makes of the embedding. G is a Gaussian: differences in time and
    space have gradients of both signs side by side, which say nothing one by one. On the way from x̄ to x nothing moves
    that does not move in x (occluders, which come and go, would: an encoder of motion looks at them).

    Nothing is drawn at random. The cost is a forward and a backward pass of `steps` clips on the device of the model.

    Args:
        model: The encoder; it is used in evaluation mode and left in the mode in which it came.
        pixel_values: Normalized frames (frames, channels, height, width), `derivative_order` more than the encoder
            shall see.
        derivative_order: The derivative that the encoder is shown; 0 for the frames.
        steps: Points of the integral, n.
        smoothing: Deviations of G: in frames, and in space as a part of the smaller side. 0 is none; with `(0, 0)`,
            A / ‖d‖ itself is returned, with its negative values.

    Returns:
        float32 (frames, height, width) on the CPU. 0 everywhere if the video makes no difference.

    Raises:
        ValueError: If the frames have another shape or are too few for the order, or there are no steps.

    Source: integrated gradients are Sundararajan, Taly & Yan, "Axiomatic Attribution for Deep Networks"
    (https://arxiv.org/abs/1703.01365); the embedding's own direction takes the place of a class's score.

    Example:
        ```python
        >>> import torch
        >>> from vididi_hf import ViDiDiConfig, ViDiDiModel
        >>> from vididi_hf.visualization import video_saliency
        >>> model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(8, 16, 32, 64), depths=(1, 1, 1, 1)))
        >>> video_saliency(model, torch.rand(9, 3, 40, 40), derivative_order=1).shape
        torch.Size([9, 40, 40])

        ```
    """
    if pixel_values.ndim != 4:
        raise ValueError(f"expected (frames, channels, height, width), got {tuple(pixel_values.shape)}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    video = pixel_values.to(model.device, torch.float32)
    shorter = min(video.shape[-2:])
    still = _blur(video.mean(dim=0, keepdim=True), 0, shorter / 4)
    content = video - still

    def embed(videos: Tensor) -> Tensor:
        views = temporal_derivative(videos, derivative_order).to(model.dtype)
        return model(views, derivative_order=derivative_order).pooler_output.float()

    with evaluation_mode(model), torch.enable_grad():
        with torch.no_grad():
            whole, nothing = embed(video[None])[0], embed(still.expand_as(video)[None])[0]
        difference = whole - nothing
        length = difference.norm()
        if length <= 1e-5 * torch.maximum(whole.norm(), nothing.norm()):  # rounding, which must not be shared out
            return torch.zeros(video.shape[0], *video.shape[2:])
        places = (torch.arange(steps, device=video.device) + 0.5) / steps
        path = (still + places.reshape(-1, 1, 1, 1, 1) * content).requires_grad_()
        [gradient] = torch.autograd.grad((embed(path) @ (difference / length)).sum(), path)
    shares = (content * gradient.mean(dim=0)).sum(dim=1, keepdim=True) / length
    if smoothing == (0, 0):
        return shares[:, 0].cpu()
    return _blur(shares, smoothing[0], smoothing[1] * shorter)[:, 0].clamp(min=0).cpu()


def share_on_motion(saliency: Tensor, clip: Tensor, threshold: float = 8.0) -> tuple[float, float]:
    """Computes how much of a saliency lies where the video changes, and how much a uniform one would have there.

    A pixel changes where its mean over the channels differs by more than `threshold` from that of the frame before or
    of the next one.

    Args:
        saliency: (frames, height, width), at least 0.
        clip: uint8 (frames, 3, height, width); at least two frames.
        threshold: In gray levels out of 255.

    Returns:
        The share of the saliency on changing pixels, and the share of changing pixels, both in [0, 1]. The first is 0
        for a saliency that is 0 everywhere.

    Raises:
        ValueError: If the two have different shapes, or there are fewer than two frames.

    Example:
        ```python
        >>> import torch
        >>> from vididi_hf.visualization import share_on_motion
        >>> clip = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
        >>> clip[1, :, 0] = 200
        >>> share_on_motion(torch.ones(2, 4, 4), clip)
        (0.25, 0.25)

        ```
    """
    if saliency.shape != (len(clip), *clip.shape[2:]) or len(clip) < 2:
        raise ValueError(
            f"expected a saliency (frames, height, width) of a clip of at least 2 frames, got {tuple(saliency.shape)} "
            f"of {tuple(clip.shape)}"
        )
    jumps = temporal_derivative(clip.float().mean(dim=1, keepdim=True)).abs()[:, 0] > threshold
    changes = F.pad(jumps, (0, 0, 0, 0, 1, 0)) | F.pad(jumps, (0, 0, 0, 0, 0, 1))
    total = float(saliency.sum())
    return (float(saliency[changes].sum()) / total if total else 0.0), float(changes.float().mean())


def _blur(frames: Tensor, in_time: float, in_space: float) -> Tensor:
    """Blurs (frames, channels, height, width) by Gaussians of these deviations, with the pixels that exist."""
    for dim, deviation in ((0, in_time), (2, in_space), (3, in_space)):
        if deviation > 0:
            places = torch.arange(frames.shape[dim], dtype=frames.dtype, device=frames.device)
            weights = torch.exp(-((places[:, None] - places) ** 2) / (2 * deviation**2))
            weights = weights / weights.sum(dim=1, keepdim=True)
            frames = (frames.movedim(dim, -1) @ weights.T).movedim(-1, dim)
    return frames
