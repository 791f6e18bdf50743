"""Saliency: which pixels and frames an encoder's embedding of a video depends on."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from vididi_hf.derivatives_vididi import temporal_derivative
from vididi_hf.evaluation.features import evaluation_mode
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.visualization.style import check_clip, image_grid, show_row


def video_saliency(
    model: ViDiDiModel,
    pixel_values: Tensor,
    *,
    derivative_order: int = 0,
    steps: int = 16,
    smoothing: tuple[float, float] = (1.0, 0.05),
) -> Tensor:
    """Computes where in space and time an encoder looks, by integrated gradients of its own embedding.

    Let f be the pooled features of the derivative of the given order, x the video, and x̄ a video without content: a
    still image of its mean frame, blurred by a quarter of its size. Then

        d = f(x) − f(x̄),    A = (x − x̄) · 1/n Σᵢ ∇⟨f, d/‖d‖⟩(x̄ + (i − ½)/n · (x − x̄)),    saliency = max(0, G ∗ A / ‖d‖)

    A is summed over the channels. A / ‖d‖ sums to 1, up to the n steps of the integral, so each value is a share of
    what the video contributes to the embedding. G is a Gaussian: gradients of both signs lie side by side, and only
    their sum means something. Unlike occluders, the path from x̄ to x adds no motion.

    Args:
        model: The encoder. It is used in evaluation mode and keeps its mode.
        pixel_values: Normalized frames (frames, channels, height, width), `derivative_order` more than it sees.
        derivative_order: Order of the derivative that the encoder sees; 0 for frames.
        steps: Steps of the integral, n.
        smoothing: Standard deviations of G in frames and as a share of the shorter side. `(0, 0)` returns A / ‖d‖.

    Returns:
        float32 (frames, height, width) on the CPU; 0 everywhere if the video does not change the embedding.

    Source: Sundararajan, Taly & Yan, "Axiomatic Attribution for Deep Networks" (https://arxiv.org/abs/1703.01365).
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
        if length <= 1e-5 * torch.maximum(whole.norm(), nothing.norm()):  # only rounding errors
            return torch.zeros(video.shape[0], *video.shape[2:])
        places = (torch.arange(steps, device=video.device) + 0.5) / steps
        path = (still + places.reshape(-1, 1, 1, 1, 1) * content).requires_grad_()
        [gradient] = torch.autograd.grad((embed(path) @ (difference / length)).sum(), path)
    shares = (content * gradient.mean(dim=0)).sum(dim=1, keepdim=True) / length
    if smoothing == (0, 0):
        return shares[:, 0].cpu()
    return _blur(shares, smoothing[0], smoothing[1] * shorter)[:, 0].clamp(min=0).cpu()


def share_on_motion(saliency: Tensor, clip: Tensor, threshold: float = 8.0) -> tuple[float, float]:
    """Computes the share of a saliency (frames, height, width) on pixels that change, and the share of such pixels.

    A pixel of the uint8 clip (frames, 3, height, width) changes if its mean over the channels differs by more than
    `threshold` gray levels from the frame before or after. The second share is what a uniform saliency would have.
    """
    if saliency.shape != (len(clip), *clip.shape[2:]) or len(clip) < 2:
        raise ValueError(f"the saliency must fit the clip, got {tuple(saliency.shape)} of {tuple(clip.shape)}")
    jumps = temporal_derivative(clip.float().mean(dim=1, keepdim=True)).abs()[:, 0] > threshold
    changes = F.pad(jumps, (0, 0, 0, 0, 1, 0)) | F.pad(jumps, (0, 0, 0, 0, 0, 1))
    total = float(saliency.sum())
    return (float(saliency[changes].sum()) / total if total else 0.0), float(changes.float().mean())


def plot_saliency(clip: Tensor, saliencies: Mapping[str, Tensor]) -> Figure:
    """Shows a clip and, for each encoder, the clip in gray under its saliency.

    Each row is scaled to the 99.5th percentile of its own values, so you can compare places but not values. A saliency
    has at least the clip's frames, and any height and width.
    """
    check_clip(clip)
    figure, grid = image_grid(1 + len(saliencies), len(clip), clip)
    show_row(grid[0], clip, "video", numbered=True)
    for axes, (name, saliency) in zip(grid[1:], saliencies.items()):
        if saliency.ndim != 3 or len(saliency) < len(clip):
            raise ValueError(f"the saliency of {name!r} has shape {tuple(saliency.shape)}, the clip {len(clip)} frames")
        show_row(axes, _overlay(clip, saliency[: len(clip)]), name)
    return figure


def _overlay(clip: Tensor, saliency: Tensor) -> Tensor:
    """Paints a saliency over a clip in gray, with colors and opacity that grow up to its 99.5th percentile."""
    limit = float(np.percentile(saliency.numpy(), 99.5)) or float(saliency.max()) or 1.0
    relative = (saliency / limit).clamp(max=1)
    relative = F.interpolate(relative[:, None], size=clip.shape[-2:], mode="bilinear", align_corners=False)
    heat = 255 * torch.from_numpy(colormaps["plasma"](relative[:, 0].numpy())[..., :3]).float().movedim(-1, 1)
    gray = clip.float().mean(dim=1, keepdim=True)
    return gray + (0.85 * relative) * (heat - gray)


def _blur(frames: Tensor, in_time: float, in_space: float) -> Tensor:
    """Blurs (frames, channels, height, width) by Gaussians, normalized over the pixels that exist."""
    for dim, std in ((0, in_time), (2, in_space), (3, in_space)):
        if std > 0:
            places = torch.arange(frames.shape[dim], dtype=frames.dtype, device=frames.device)
            weights = torch.exp(-((places[:, None] - places) ** 2) / (2 * std**2))
            weights = weights / weights.sum(dim=1, keepdim=True)
            frames = (frames.movedim(dim, -1) @ weights.T).movedim(-1, dim)
    return frames
