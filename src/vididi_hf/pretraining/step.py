"""One step of pretraining, from the loaded clips to weights that are a little better."""

from __future__ import annotations

from dataclasses import dataclass

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from vididi_hf.objectives import cosine_decay
from vididi_hf.pretraining.gradient_caching import BatchOutput, ViewsOf, accumulate_gradients, cache_gradients
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.pretraining.optimization import learning_rate_at
from vididi_hf.pretraining.order_schedule import OrderPair
from vididi_hf.pretraining.recipe import PretrainingRecipe


@dataclass
class TrainingStep:
    """Takes the steps of a run. Which one it is says the learning rate and how fast BYOL's target moves.

    Attributes:
        recipe: The run.
        accelerator: Knows the processes and the precision.
        model: A `ViDiDiForPreTraining` as `accelerator.prepare` returns it.
        optimizer: Likewise.
        views_of: Normalizes and differentiates clips.
        steps_per_epoch: Steps of an epoch.
    """

    recipe: PretrainingRecipe
    accelerator: Accelerator
    model: nn.Module
    optimizer: AcceleratedOptimizer
    views_of: ViewsOf
    steps_per_epoch: int

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.raw_model: ViDiDiForPreTraining = self.accelerator.unwrap_model(self.model)
        self.total_steps = recipe.epochs * self.steps_per_epoch
        self.warmup_steps = round(min(recipe.warmup_epochs, recipe.epochs / 10) * self.steps_per_epoch)
        self.peak_rate = recipe.learning_rate * recipe.batch_size * self.accelerator.num_processes / 256

    def learning_rate(self, number: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        final = self.recipe.final_learning_rate
        return learning_rate_at(number, self.total_steps, self.warmup_steps, self.peak_rate, final)

    def __call__(self, clips: Tensor, orders: OrderPair, number: int) -> BatchOutput:
        """Changes the weights.

        Args:
            clips: Two clips of each video, uint8 (batch, 2, frames + highest order, channels, height, width).
            orders: The derivative order of each.
            number: Which step of the run it is, from 0.

        Returns:
            Loss, terms, features and embeddings of the batch, before the change.
        """
        # 1. Both clips are differentiated, one encoder embeds them, the objective compares them over the global batch.
        # A batch that is too large passes in parts.
        if self.recipe.chunk_size:
            size = self.recipe.chunk_size
            output = cache_gradients(self.accelerator, self.model, clips, orders, self.views_of, size)
        else:
            parts = self.recipe.gradient_accumulation
            output = accumulate_gradients(self.accelerator, self.model, clips, orders, self.views_of, parts)
        # 2. One step of the optimizer, and of the moving average that BYOL aims at.
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(number)
        if self.recipe.max_grad_norm > 0:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.raw_model.target is not None:
            self.raw_model.update_target(cosine_decay(number, self.total_steps, self.recipe.ema_momentum))
        return output
