"""What a run reports: progress bar, `metrics.jsonl`, trackers, warnings, and the list of broken videos."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from vididi_hf.files import printable, write_text
from vididi_hf.pretraining.checkpoints import Progress
from vididi_hf.pretraining.collapse import collapse_warnings, describe_representation
from vididi_hf.pretraining.order_schedule import OrderPair
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.reading import check_file

METRICS_FILE = "metrics.jsonl"
# Reading numbers makes the processor wait for the accelerator, so it happens only every so many steps.
_REFRESH_STEPS = 10
_MAX_NAMED_VIDEOS = 64


class RunningMeans:
    """Means of named scalars since the last reset. The sums stay on the device until they are read."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, scalars: dict[str, Tensor]) -> None:
        for name, value in scalars.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] += 1

    def read(self) -> dict[str, float]:
        if not self._sums:
            return {}
        sums = torch.stack(list(self._sums.values())).tolist()
        return {name: total / self._counts[name] for name, total in zip(self._sums, sums)}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        self._sums = {name: total.to(device) for name, total in state["sums"].items()}
        self._counts = defaultdict(int, state["counts"])


class MetricsFile:
    """`metrics.jsonl`: one JSON object per line. A resumed run keeps the rows up to step `keep_until`."""

    def __init__(self, output_dir: str | Path, keep_until: int = 0) -> None:
        self.path = Path(output_dir) / METRICS_FILE
        kept = [row for row in read_metrics(output_dir) if row["total_steps"] <= keep_until] if keep_until else []
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row, which must have the key `total_steps`."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def read_metrics(output_dir: str | Path) -> list[dict[str, Any]]:
    """Reads the rows of a run's `metrics.jsonl`. A last line that a kill cut off is left out."""
    if not (path := Path(output_dir, METRICS_FILE)).exists():
        return []
    *lines, _ = check_file(path).read_text(encoding="utf-8").split("\n")
    try:
        rows = [json.loads(line) for line in lines]
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} must have a JSON object per line")
    return rows


def merge_broken(broken: dict[str, str]) -> dict[str, str]:
    """Merges the broken videos of all processes. All processes must call this, and all get the result."""
    merged: dict[str, str] = {}
    for part in gather_object([broken]):
        merged |= part
    return merged


class _Step(NamedTuple):
    """What an error message says about a step whose loss is not finite."""

    number: int
    orders: OrderPair
    learning_rate: float
    loss: Tensor
    sources: list[str]


class RunLog:
    """Reports a run. All processes must call all methods; the main process writes.

    A row holds means over an epoch. Measures of collapse are those of the main process, for each pair of derivative
    orders: `rank_me/01` is for orders (0, 1).
    """

    def __init__(self, recipe: PretrainingRecipe, accelerator: Accelerator, total_steps: int) -> None:
        self.recipe, self.accelerator, self.total_steps = recipe, accelerator, total_steps
        self.means, self.representation = RunningMeans(), RunningMeans()
        self.warned: set[tuple[OrderPair, str]] = set()
        self.unchecked: list[_Step] = []
        self.learning_rate, self.videos, self.seconds = 0.0, 0, 0.0
        self.epoch_start = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the current epoch."""
        means = {"means": self.means.state_dict(), "representation": self.representation.state_dict()}
        return {**means, "learning_rate": self.learning_rate, "videos": self.videos, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.means.load_state_dict(state["means"], self.accelerator.device)
        self.representation.load_state_dict(state["representation"])
        self.learning_rate, self.videos, self.seconds = (state[key] for key in ("learning_rate", "videos", "seconds"))

    def start(self, progress: Progress) -> None:
        """Opens the progress bar, the metrics file and the tracker of a run that starts at `progress`."""
        self.progress = progress
        self.bar = tqdm(
            total=self.total_steps,
            initial=progress.total_steps,
            desc=f"{self.recipe.objective} · {self.recipe.order_schedule}",
            unit="step",
            disable=not (self.recipe.progress and self.accelerator.is_main_process),
        )
        # An epoch whose last step is done but whose end is not has no row yet.
        rows_until = progress.total_steps - (progress.step > 0)
        self.file = MetricsFile(self.recipe.output_dir, rows_until) if self.accelerator.is_main_process else None
        if self.recipe.tracker != "none":
            settings = {k: v if isinstance(v, int | float | str) else str(v) for k, v in asdict(self.recipe).items()}
            own_folder = {"wandb": {"dir": self.recipe.output_dir}}  # where the others write anyway
            self.accelerator.init_trackers("vididi", config=settings, init_kwargs=own_folder)

    def start_epoch(self) -> None:
        """Starts the clock of an epoch. Evaluation and checkpoints between epochs do not count as training time."""
        self.epoch_start = time.perf_counter() - self.seconds

    def step(self, orders: OrderPair, learning_rate: float, output: Any, sources: list[str]) -> None:
        """Reports one step, which `progress` already counts. Raises a FloatingPointError if a loss is not finite."""
        output = output.detached()
        self.means.add({"loss": output.loss, **output.loss_terms})
        self.unchecked.append(_Step(self.progress.total_steps, orders, learning_rate, output.loss, sources))
        self.learning_rate = learning_rate
        self.videos += len(sources) * self.accelerator.num_processes
        self.seconds = time.perf_counter() - self.epoch_start
        self.bar.update()
        if self.recipe.monitor_steps and (self.progress.step - 1) % self.recipe.monitor_steps == 0:
            self.require_finite_loss()
            self._check_collapse(orders, output, sources)
        if self.progress.total_steps % _REFRESH_STEPS == 0:
            self.require_finite_loss()
            shown = " ".join(f"{name} {value:.3g}" for name, value in self.means.read().items())
            epoch = f"epoch {self.progress.epoch + 1}/{self.recipe.epochs}"
            self.bar.set_postfix_str(f"{epoch} {shown} {self.videos / self.seconds:.0f} videos/s", refresh=False)

    def require_finite_loss(self) -> None:
        """Raises a FloatingPointError if a loss since the last call was not finite."""
        steps, self.unchecked = self.unchecked, []
        for step, loss in zip(steps, torch.stack([step.loss for step in steps]).tolist() if steps else ()):
            if not math.isfinite(loss):
                where = f"step {step.number} with derivative orders {step.orders}"
                advice = f"learning rate {step.learning_rate:.3g}: lower learning_rate or set max_grad_norm"
                videos = f"the videos of this step were {_join(step.sources)}"
                raise FloatingPointError(f"the loss is {loss} at {where} and {advice}; {videos}")

    def epoch(self, evaluation: dict[str, float]) -> None:
        """Writes the row of the epoch that has just ended, with the metrics of its evaluation."""
        row: dict[str, Any] = {"epoch": self.progress.epoch, "total_steps": self.progress.total_steps}
        row |= self.means.read() | self.representation.read()
        row |= {"learning_rate": self.learning_rate, "videos_per_second": round(self.videos / self.seconds, 2)}
        row |= evaluation
        if self.file is not None:
            self.file.write(row)
        self.accelerator.log({k: v for k, v in row.items() if k != "total_steps"}, step=self.progress.total_steps)
        self.means.reset()
        self.representation.reset()
        self.videos, self.seconds = 0, 0.0

    def close(self) -> None:
        """Closes the bar and the tracker, and lists the videos that could not be decoded."""
        self.bar.close()
        if broken := merge_broken(self.progress.broken):
            lines = "\n".join(f"  {printable(source)}: {reason}" for source, reason in sorted(broken.items()))
            self.accelerator.print(f"{len(broken)} videos could not be decoded and were replaced by others:\n{lines}")
        if self.recipe.tracker != "none":
            self.accelerator.end_training()

    def _check_collapse(self, orders: OrderPair, output: Any, sources: list[str]) -> None:
        """Measures the representation, and warns once per kind of collapse and pair of orders."""
        if not self.accelerator.is_main_process:
            return
        values = describe_representation(output.pooler_output, output.embeddings)
        self.representation.add({f"{name}/{orders[0]}{orders[1]}": value for name, value in values.items()})
        for kind, warning in collapse_warnings(values).items():
            if (orders, kind) not in self.warned:
                self.warned.add((orders, kind))
                where = f"step {self.progress.total_steps} with derivative orders {orders}"
                message = f"warning: the representation may be collapsing: {warning} at {where}"
                self.bar.write(f"{message}; the videos of this step were {_join(sources)}", file=sys.stderr)


def _join(sources: list[str]) -> str:
    more = f" and {len(sources) - _MAX_NAMED_VIDEOS} more" if len(sources) > _MAX_NAMED_VIDEOS else ""
    return ", ".join(sources[:_MAX_NAMED_VIDEOS]) + more
