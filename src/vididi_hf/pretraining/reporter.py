"""Tells the user, the metrics file and the tracker how a run goes."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from vididi_hf.pretraining.checkpoints import Progress
from vididi_hf.pretraining.monitors import MetricsFile, RunningMeans, merge_broken
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.schedule import OrderPair

# Reading numbers makes the processor wait for the accelerator: only every so many steps.
_REFRESH_STEPS = 10


class Reporter:
    """Progress bar with rate and loss, `metrics.jsonl`, tracker, and the report of broken videos.

    All processes must call all methods; the main one writes. What an epoch's row says are means over the steps of the
    epoch, after a resume in its middle over the steps since then.

    Args:
        recipe: The run.
        accelerator: Knows the processes and the tracker.
        total_steps: Steps of the whole run.
        progress: The place it starts from; read again as the run goes on.
    """

    def __init__(self, recipe: PretrainingRecipe, accelerator: Accelerator, total_steps: int, progress: Progress):
        self.recipe = recipe
        self.accelerator = accelerator
        self.progress = progress
        self.means = RunningMeans()
        self.videos = 0
        self.learning_rate = 0.0
        self.orders: OrderPair = (0, 0)
        self.epoch_start = time.perf_counter()
        self.seconds = 0.0
        self.bar = tqdm(
            total=total_steps,
            initial=progress.total_steps,
            desc=f"{recipe.objective} · {recipe.schedule}",
            unit="step",
            disable=not (recipe.progress and accelerator.is_main_process),
        )
        self.file = MetricsFile(recipe.output_dir, progress.total_steps) if accelerator.is_main_process else None
        if recipe.tracker != "none":
            settings = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in asdict(recipe).items()}
            accelerator.init_trackers("vididi", config=settings)

    def start_epoch(self) -> None:
        """Starts the clock of an epoch; evaluation and checkpoints between epochs do not count as training time."""
        self.epoch_start = time.perf_counter()

    def step(
        self, orders: OrderPair, learning_rate: float, loss: Tensor, terms: dict[str, Tensor], videos: int
    ) -> None:
        """Reports one optimiser step, which `progress` counts already.

        Args:
            orders: The derivative orders of the two views.
            learning_rate: The learning rate of the step.
            loss: The loss, a scalar.
            terms: Its terms, scalars.
            videos: Videos in the batch of this process.

        Raises:
            FloatingPointError: If the loss is not finite (looked at every few steps).
        """
        self.means.add({"loss": loss, **terms})
        self.videos += videos * self.accelerator.num_processes
        self.seconds = time.perf_counter() - self.epoch_start
        self.orders, self.learning_rate = orders, learning_rate
        self.bar.update()
        if self.progress.total_steps % _REFRESH_STEPS:
            return
        self.require_finite_loss()
        shown = " ".join(f"{name} {value:.3g}" for name, value in self.means.read().items())
        epoch = f"epoch {self.progress.epoch + 1}/{self.recipe.epochs}"
        self.bar.set_postfix_str(f"{epoch} {shown} {self.videos / self.seconds:.0f} videos/s", refresh=False)

    def require_finite_loss(self) -> None:
        """Checks that the loss has been finite since the epoch began.

        Raises:
            FloatingPointError: If not; the message says where the run is and what helps.
        """
        loss = self.means.read()["loss"]
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the mean loss of this epoch is {loss} at step {self.progress.total_steps} (with orders {self.orders} "
                f"and learning rate {self.learning_rate:.3g}): lower learning_rate or set max_grad_norm"
            )

    def epoch(self, evaluation: dict[str, float]) -> None:
        """Writes the means of the epoch that `progress` has just finished.

        Args:
            evaluation: What evaluation gave, if there was one; becomes part of the row.
        """
        row: dict[str, Any] = {
            "epoch": self.progress.epoch,
            "total_steps": self.progress.total_steps,
            **self.means.read(),
            "learning_rate": self.learning_rate,
            "videos_per_second": round(self.videos / self.seconds, 2),
            **evaluation,
        }
        if self.file is not None:
            self.file.write(row)
        self.accelerator.log({k: v for k, v in row.items() if k != "total_steps"}, step=self.progress.total_steps)
        self.means.reset()
        self.videos = 0

    def close(self) -> None:
        """Ends the bar and the tracker and names the videos that could not be used."""
        self.bar.close()
        broken = merge_broken(self.progress.broken)
        if broken:
            lines = "\n".join(f"  {source}: {reason}" for source, reason in sorted(broken.items()))
            self.accelerator.print(f"videos that could not be decoded, replaced by others: {len(broken)}\n{lines}")
        if self.recipe.tracker != "none":
            self.accelerator.end_training()
