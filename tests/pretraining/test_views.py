"""The two views of a step, by hand."""

import pytest
import torch

from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.views import build_processor, derivative_views


@pytest.mark.parametrize("extra_frames", [True, False])
@pytest.mark.parametrize("orders", [(0, 0), (0, 1), (2, 1)])
def test_without_extra_frames_both_views_are_as_long_as_the_shorter_one(orders, extra_frames: bool) -> None:
    recipe = PretrainingRecipe(num_frames=8, image_size=32, extra_frames=extra_frames)
    processor = build_processor(recipe)
    length = 8 + (2 if extra_frames else 0)
    clips = torch.randint(256, (3, 2, length, 3, 32, 32), dtype=torch.uint8)
    lengths = {"num_frames": recipe.num_frames, "extra_frames": recipe.extra_frames}
    views = derivative_views(clips, orders, processor=processor, **lengths)
    mean, std = (torch.tensor(value)[:, None, None] for value in (processor.image_mean, processor.image_std))
    frames = (clips / 255 - mean) / std
    kept = 8 if extra_frames else 8 - max(orders)  # the authors: 8 frames, 7 with ∂V, 6 with ∂²V
    for view, order in enumerate(orders):
        expected = frames[:, view].diff(n=order, dim=1)[:, :kept]
        torch.testing.assert_close(views[:, view], expected, atol=1e-4, rtol=0)
