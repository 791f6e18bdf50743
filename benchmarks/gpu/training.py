"""A model in training: what `pretrain` does with a batch, without a data set, which needs further libraries."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor

from vididi_hf.objectives import cosine_decay
from vididi_hf.pretraining.accelerator import build_accelerator
from vididi_hf.pretraining.gradient_caching import cache_gradients
from vididi_hf.pretraining.modeling import build_model
from vididi_hf.pretraining.optimization import build_lr_schedule, build_optimizer, set_learning_rate
from vididi_hf.pretraining.order_schedule import OrderPair
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.views import build_processor, derivative_views

from .runner import Context

TINY: dict[str, Any] = {"hidden_sizes": [4, 4, 8, 8], "depths": [1, 1, 1, 1]}
SMALL: dict[str, Any] = {**TINY, "projector_sizes": [16, 16], "num_frames": 4, "image_size": 32, "batch_size": 8}


def make_recipe(context: Context, **options: Any) -> PretrainingRecipe:
    """Returns the recipe of R3D-18 at 112², or of a tiny network in a small run."""
    values: dict[str, Any] = {"epochs": 4, "progress": False, "monitor_steps": 0, "num_workers": 0, "frame_stride": 1}
    return PretrainingRecipe(**(values | (SMALL if context.small else {}) | options))


def random_clips(recipe: PretrainingRecipe, device: str, extra_frames: int = 2) -> Tensor:
    """Returns two uint8 clips of noise for each video of a batch, channels last in memory, as the loader does."""
    videos, size = recipe.batch_size, recipe.image_size
    shape = (min(videos, 64), 2, recipe.num_frames + extra_frames, size, size, 3)
    clips = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(device)
    return clips.repeat(-(-videos // 64), 1, 1, 1, 1, 1)[:videos].movedim(-1, -3)


class Training:
    """Model, optimizer and precision of a recipe. `step` repeats the body of the loop in `pretrain`."""

    def __init__(self, recipe: PretrainingRecipe, steps_per_epoch: int = 100) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)  # it refuses another precision otherwise
        self.recipe = recipe
        self.last_step = recipe.epochs * steps_per_epoch
        self.accelerator = build_accelerator(recipe)
        set_seed(recipe.seed)
        self.network = build_model(recipe, self.accelerator)
        self.model, self.optimizer = self.accelerator.prepare(self.network, build_optimizer(self.network, recipe))
        self.learning_rate = build_lr_schedule(recipe, steps_per_epoch)
        self.processor = build_processor(recipe)
        self.differentiate = partial(derivative_views, processor=self.processor, num_frames=recipe.num_frames)
        self.model.train()

    def step(self, clips: Tensor, orders: OrderPair, number: int) -> Any:
        """Takes step `number` with clips on the device, and returns the output of the model."""
        if self.recipe.chunk_size:
            chunk_size = self.recipe.chunk_size
            output = cache_gradients(self.accelerator, self.model, clips, orders, self.differentiate, chunk_size)
        else:
            output = self.model(self.differentiate(clips, orders), orders)
            self.accelerator.backward(output.loss)
        set_learning_rate(self.optimizer, self.learning_rate(number))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.network.target is not None:
            self.network.update_target(cosine_decay(number, self.last_step, self.recipe.ema_momentum))
        return output
