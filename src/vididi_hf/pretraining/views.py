"""From the uint8 clips of a batch to the views that the model compares. Imports no data-set library."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vididi_hf.data.loading import stack_frames
from vididi_hf.derivatives_vididi import temporal_derivative
from vididi_hf.loading import load_processor
from vididi_hf.pretraining.order_schedule import OrderPair
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


def build_processor(recipe: PretrainingRecipe) -> ViDiDiVideoProcessor:
    """Builds the processor that is published with the encoder. By default, its crop is 7/8 of the short side."""
    side = recipe.image_size
    settings: Any = recipe.clip_shape()
    sizes: Any = {"size": {"shortest_edge": round(side * 8 / 7)}, "crop_size": {"height": side, "width": side}}
    if not recipe.encoder:
        return ViDiDiVideoProcessor(**settings, **sizes)
    processor = load_processor(recipe.encoder, **settings)
    return processor if processor.crop_size["height"] == side else load_processor(recipe.encoder, **settings, **sizes)


def derivative_views(
    clips: Tensor, orders: OrderPair, *, processor: ViDiDiVideoProcessor, num_frames: int, extra_frames: bool = True
) -> Tensor:
    """Normalizes the two uint8 clips (batch, 2, frames, …) of every video and differentiates each to its own order.

    The result is float (batch, 2, num_frames, channels, height, width). Without extra frames, both views lose as many
    of them as the higher order needs.
    """
    num_frames -= 0 if extra_frames else max(orders)
    views = []
    for clip, order in zip(clips.unbind(dim=1), orders):
        views.append(temporal_derivative(processor.views(clip[:, : num_frames + order], orders=(0,))[0], order))
    # Each view is contiguous in memory, as the encoder reads it.
    return stack_frames(views).transpose(0, 1)
