"""Tells the user, the metrics file and the tracker how a run goes."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from vididi_hf.pretraining.collapse import collapse_warnings, describe_representation
from vididi_hf.pretraining.gradient_caching import BatchOutput
from vididi_hf.pretraining.monitors import MetricsFile, RunningMeans, merge_broken
from vididi_hf.pretraining.order_schedule import OrderPair
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.run_state import Progress

# Reading numbers makes the processor wait for the accelerator: only every so many steps.
_REFRESH_STEPS = 10
_NAMED_VIDEOS = 64


class _Step(NamedTuple):
    """What has to be said of a step if its loss turns out not to be finite."""

    number: int
    orders: OrderPair
    learning_rate: float
    loss: Tensor
    sources: list[str]


class Reporter:
    """Progress bar with rate and loss, `metrics.jsonl`, tracker, warnings, and the report of broken videos.

    All processes must call all methods; the main one writes. What an epoch's row says are means over the steps of the
    epoch. Of the representation it says, for each pair of derivative orders, the means over the measured steps, from
    the main process's part of their batches: `rank_me/01` is for orders (0, 1).

    Args:
        recipe: The run.
        accelerator: Knows the processes and the tracker.
        total_steps: Steps of the whole run.
    """

    def __init__(self, recipe: PretrainingRecipe, accelerator: Accelerator, total_steps: int):
        self.recipe = recipe
        self.accelerator = accelerator
        self.total_steps = total_steps
        self.means = RunningMeans()
        self.representation = RunningMeans()
        self.warned: set[tuple[OrderPair, str]] = set()
        self.unchecked: list[_Step] = []
        self.learning_rate = 0.0
        self.videos = 0
        self.seconds = 0.0
        self.epoch_start = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Returns what the epoch has given so far."""
        return {
            "means": self.means.state_dict(),
            "representation": self.representation.state_dict(),
            "learning_rate": self.learning_rate,
            "videos": self.videos,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the epoch that `state_dict` was called in; before `open`."""
        self.means.load_state_dict(state["means"], self.accelerator.device)
        self.representation.load_state_dict(state["representation"])
        self.learning_rate, self.videos, self.seconds = (state[key] for key in ("learning_rate", "videos", "seconds"))

    def open(self, progress: Progress) -> None:
        """Starts bar, metrics file and tracker.

        Args:
            progress: The place the run starts from; read again as it goes on.
        """
        self.progress = progress
        self.bar = tqdm(
            total=self.total_steps,
            initial=progress.total_steps,
            desc=f"{self.recipe.objective} · {self.recipe.order_schedule}",
            unit="step",
            disable=not (self.recipe.progress and self.accelerator.is_main_process),
        )
        # The row of an epoch whose last step is done, but not what comes after it, is yet to be written.
        rows_until = progress.total_steps - (progress.step > 0)
        self.file = MetricsFile(self.recipe.output_dir, rows_until) if self.accelerator.is_main_process else None
        if self.recipe.tracker != "none":
            settings = {
                k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in asdict(self.recipe).items()
            }
            # The others write to the run's folder anyway, or to one of their own.
            own_folder = {"wandb": {"dir": self.recipe.output_dir}}
            self.accelerator.init_trackers("vididi", config=settings, init_kwargs=own_folder)

    def start_epoch(self) -> None:
        """Starts the clock of an epoch; evaluation and checkpoints between epochs do not count as training time."""
        self.epoch_start = time.perf_counter() - self.seconds

    def step(self, orders: OrderPair, learning_rate: float, output: BatchOutput, sources: list[str]) -> None:
        """Reports one optimizer step, which `progress` counts already.

        Args:
            orders: The derivative orders of the two views.
            learning_rate: The learning rate of the step.
            output: What the batch gave.
            sources: The files of the batch of this process.

        Raises:
            FloatingPointError: If a loss is not finite (looked at every few steps).
        """
        self.means.add({"loss": output.loss, **output.terms})
        self.unchecked.append(_Step(self.progress.total_steps, orders, learning_rate, output.loss, sources))
        self.learning_rate = learning_rate
        self.videos += len(sources) * self.accelerator.num_processes
        self.seconds = time.perf_counter() - self.epoch_start
        self.bar.update()
        if self.recipe.monitor_steps and (self.progress.step - 1) % self.recipe.monitor_steps == 0:
            self.require_finite_loss()
            self._look_at_representation(orders, output, sources)
        if self.progress.total_steps % _REFRESH_STEPS:
            return
        self.require_finite_loss()
        shown = " ".join(f"{name} {value:.3g}" for name, value in self.means.read().items())
        epoch = f"epoch {self.progress.epoch + 1}/{self.recipe.epochs}"
        self.bar.set_postfix_str(f"{epoch} {shown} {self.videos / self.seconds:.0f} videos/s", refresh=False)

    def require_finite_loss(self) -> None:
        """Checks that the losses since the last call were finite.

        Raises:
            FloatingPointError: If one was not; the message says where and when, and what helps.
        """
        steps, self.unchecked = self.unchecked, []
        for step, loss in zip(steps, torch.stack([step.loss for step in steps]).tolist() if steps else ()):
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss} at step {step.number}, with derivative orders {step.orders} and learning rate "
                    f"{step.learning_rate:.3g}: lower learning_rate or set max_grad_norm; the videos of this step were "
                    f"{_listed(step.sources)}"
                )

    def _look_at_representation(self, orders: OrderPair, output: BatchOutput, sources: list[str]) -> None:
        """Measures it, and warns once for each sign of a collapse and each pair of orders."""
        if not self.accelerator.is_main_process:
            return
        values = describe_representation(output.features, output.embeddings)
        self.representation.add({f"{name}/{orders[0]}{orders[1]}": value for name, value in values.items()})
        for sign, words in collapse_warnings(values).items():
            if (orders, sign) not in self.warned:
                self.warned.add((orders, sign))
                self.bar.write(
                    f"warning: the representation may be collapsing: {words} at step {self.progress.total_steps}, with "
                    f"derivative orders {orders}; the videos of this step were {_listed(sources)}",
                    file=sys.stderr,
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
            **self.representation.read(),
            "learning_rate": self.learning_rate,
            "videos_per_second": round(self.videos / self.seconds, 2),
            **evaluation,
        }
        if self.file is not None:
            self.file.write(row)
        self.accelerator.log({k: v for k, v in row.items() if k != "total_steps"}, step=self.progress.total_steps)
        self.means.reset()
        self.representation.reset()
        self.videos, self.seconds = 0, 0.0

    def close(self) -> None:
        """Ends the bar and the tracker and names the videos that could not be used."""
        self.bar.close()
        broken = merge_broken(self.progress.broken)
        if broken:
            lines = "\n".join(f"  {source}: {reason}" for source, reason in sorted(broken.items()))
            self.accelerator.print(f"videos that could not be decoded, replaced by others: {len(broken)}\n{lines}")
        if self.recipe.tracker != "none":
            self.accelerator.end_training()


def _listed(sources: list[str]) -> str:
    more = f" and {len(sources) - _NAMED_VIDEOS} more" if len(sources) > _NAMED_VIDEOS else ""
    return ", ".join(sources[:_NAMED_VIDEOS]) + more
