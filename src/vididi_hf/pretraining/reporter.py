"""Tells the user, the metrics file and the tracker how a run goes."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from vididi_hf.pretraining.checkpoints import Progress
from vididi_hf.pretraining.monitors import MetricsFile, RunningMeans
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.schedule import OrderPair

# Reading numbers makes the processor wait for the accelerator: only every so many steps.
_REFRESH_STEPS = 10


class Reporter:
    """Progress bar with rate and loss, `metrics.jsonl`, tracker, and the report of broken videos.

    All processes must call all methods; the main one writes.

    Args:
        recipe: The run.
        accelerator: Knows the processes and the tracker.
        total_steps: Steps of the whole run.
        progress: The place it starts from; read again when the run ends.
    """

    def __init__(self, recipe: PretrainingRecipe, accelerator: Accelerator, total_steps: int, progress: Progress):
        self.recipe = recipe
        self.accelerator = accelerator
        self.progress = progress
        self.means = RunningMeans()
        self.videos = 0
        self.epoch_start = time.perf_counter()
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

    def step(
        self, epoch: int, orders: OrderPair, rate: float, loss: Tensor, terms: dict[str, Tensor], videos: int
    ) -> None:
        """Reports one optimiser step.

        Raises:
            FloatingPointError: If the loss is not finite (looked at every few steps).
        """
        self.means.add({"loss": loss, **terms})
        self.videos += videos * self.accelerator.num_processes
        self.bar.update()
        if self.progress.total_steps % _REFRESH_STEPS:
            return
        means = self.means.read()
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(
                f"the loss is {means['loss']} at step {self.progress.total_steps} (epoch {epoch}, orders {orders}, "
                f"learning rate {rate:.3g}); lower learning_rate or set max_grad_norm"
            )
        speed = self.videos / (time.perf_counter() - self.epoch_start)
        shown = " ".join(f"{name} {value:.3g}" for name, value in means.items())
        self.bar.set_postfix_str(f"epoch {epoch + 1}/{self.recipe.epochs} {shown} {speed:.0f} videos/s", refresh=False)

    def epoch(self, epoch: int, rate: float, evaluation: dict[str, float]) -> None:
        """Writes the means of an epoch and what evaluation gave."""
        seconds = time.perf_counter() - self.epoch_start
        row: dict[str, Any] = {
            "epoch": epoch + 1,
            "total_steps": self.progress.total_steps,
            **self.means.read(),
            "learning_rate": rate,
            "videos_per_second": round(self.videos / seconds, 2),
            **evaluation,
        }
        if self.file is not None:
            self.file.write(row)
        self.accelerator.log({k: v for k, v in row.items() if k != "total_steps"}, step=self.progress.total_steps)
        self.means.reset()
        self.videos = 0

    def start_epoch(self) -> None:
        """Starts the clock of an epoch; evaluation and checkpoints before it do not count as training time."""
        self.epoch_start = time.perf_counter()

    def close(self) -> None:
        """Ends the bar and the tracker and names the videos that could not be used."""
        self.bar.close()
        broken: dict[str, str] = {}
        for part in gather_object([self.progress.broken or {}]):
            broken |= part
        if broken:
            lines = "\n".join(f"  {source}: {reason}" for source, reason in sorted(broken.items()))
            self.accelerator.print(f"{len(broken)} videos could not be decoded and were replaced by others:\n{lines}")
        if self.recipe.tracker != "none":
            self.accelerator.end_training()
