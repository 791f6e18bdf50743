"""Where an encoder looks: how far its embedding turns when a piece of the video is wiped out.

No class is needed and no gradient is interpreted: every number is a distance that the encoder itself measures, the one
by which retrieval ranks.
"""

from __future__ import annotations

import math
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from vididi_hf.derivatives_vididi import temporal_derivative
from vididi_hf.evaluation.features import evaluation_mode
from vididi_hf.modeling_vididi import ViDiDiModel

GRID = (4, 6, 6)


@torch.no_grad()
def occlusion_saliency(
    model: ViDiDiModel,
    pixel_values: Tensor,
    *,
    derivative_order: int = 0,
    grid: tuple[int, int, int] = GRID,
    batch_size: int = 48,
) -> Tensor:
    """Computes where in space and time an encoder looks, by occlusion.

    With f the pooled features of the derivative of the given order, x the video, x̄ the video blurred beyond
    recognition, and windows mₚ with values in [0, 1] that tile space and time, Σₚ mₚ = 1 everywhere:

        xₚ = (1 − mₚ) · x + mₚ · x̄,    sₚ = 1 − cos(f(x), f(xₚ)),    saliency = Σₚ sₚ · mₚ

    Windows are products of raised cosines, one step of the grid wide at half their height: they have no edges that the
    encoder could see. x̄ is a Gaussian blur in time and space whose deviations are the steps of the grid: it keeps the
    colours around, and a uniform region is wiped out by itself. Frames are wiped before they are differentiated.

    Nothing is drawn at random. The cost is one forward pass for each window, all on the device of the model.

    Args:
        model: The encoder; it is used in evaluation mode and left in the mode in which it came.
        pixel_values: Normalised frames (frames, channels, height, width), `derivative_order` more than the encoder
            shall see.
        derivative_order: The derivative that the encoder is shown; 0 for the frames.
        grid: Windows along time, height and width.
        batch_size: Windows per forward pass.

    Returns:
        float32 (frames, height, width) on the CPU, at least 0 and at most 2; 0 where nothing would change.

    Raises:
        ValueError: If the frames have another shape, are too few for the order, or the grid is finer than they are.

    Source: occlusion with a grey square is Zeiler & Fergus (https://arxiv.org/abs/1311.2901), blur in its place Fong &
    Vedaldi (https://arxiv.org/abs/1704.03296); the cosine to the embedding itself takes the place of a class's score.

    Example:
        ```python
        >>> import torch
        >>> from vididi_hf import ViDiDiConfig, ViDiDiModel
        >>> from vididi_hf.visualization import occlusion_saliency
        >>> model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(8, 16, 32, 64), depths=(1, 1, 1, 1)))
        >>> occlusion_saliency(model, torch.rand(9, 3, 40, 40), derivative_order=1, grid=(2, 3, 3)).shape
        torch.Size([9, 40, 40])

        ```
    """
    if pixel_values.ndim != 4:
        raise ValueError(f"expected (frames, channels, height, width), got {tuple(pixel_values.shape)}")
    frames, _, height, width = pixel_values.shape
    for name, size, windows in zip(("frames", "height", "width"), (frames, height, width), grid):
        if not 1 <= windows <= size:
            raise ValueError(f"grid must have 1 to {size} windows along {name}, got {windows} in {tuple(grid)}")
    video = pixel_values.to(model.device, model.dtype)
    sizes = (frames, height, width)
    in_time, in_height, in_width = (_windows(size, windows).to(video) for size, windows in zip(sizes, grid))
    blurs = (_blur(size, size / windows).to(video) for size, windows in zip(sizes, grid))
    difference = torch.einsum("st,yh,xw,tchw->scyx", *blurs, video) - video

    def embed(videos: Tensor) -> Tensor:
        views = temporal_derivative(videos, derivative_order)
        return F.normalize(model(views, derivative_order=derivative_order).pooler_output.float(), dim=-1)

    places = torch.tensor(list(product(*map(range, grid))), device=video.device)
    with evaluation_mode(model):
        whole = embed(video[None])
        scores = []
        for t, y, x in (chunk.unbind(1) for chunk in places.split(batch_size)):
            masks = torch.einsum("pt,ph,pw->pthw", in_time[t], in_height[y], in_width[x])
            # Of unit vectors, half the squared distance is 1 − cos, without the cancellation.
            scores.append((embed(video + masks[:, :, None] * difference) - whole).square().sum(-1) / 2)
    score = torch.cat(scores).reshape(grid)
    return torch.einsum("pqr,pt,qh,rw->thw", score, in_time.float(), in_height.float(), in_width.float()).cpu()


def share_on_motion(saliency: Tensor, clip: Tensor, threshold: float = 8.0) -> tuple[float, float]:
    """Computes how much of a saliency lies where the video changes, and how much a uniform one would have there.

    A pixel changes where its mean over the channels differs by more than `threshold` from that of the frame before or
    of the next one.

    Args:
        saliency: (frames, height, width), at least 0.
        clip: uint8 (frames, 3, height, width); at least two frames.
        threshold: In grey levels out of 255.

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


def _windows(size: int, count: int) -> Tensor:
    """Raised cosines (count, size) with evenly spread centres, whose sum is 1 everywhere."""
    step = size / count
    distance = (torch.arange(size) + 0.5) / step - (torch.arange(count)[:, None] + 0.5)
    distance[0].clamp_(min=0)  # towards the border there is no other window that could take over
    distance[-1].clamp_(max=0)
    return torch.cos(distance.abs().clamp(max=1) * math.pi / 2).square()


def _blur(size: int, deviation: float) -> Tensor:
    """The matrix (size, size) of a Gaussian blur whose weights are those of the pixels that exist."""
    places = torch.arange(size, dtype=torch.float32)
    weights = torch.exp(-((places[:, None] - places) ** 2) / (2 * deviation**2))
    return weights / weights.sum(dim=1, keepdim=True)
