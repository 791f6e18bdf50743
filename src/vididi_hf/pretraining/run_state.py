"""Where a run is: resuming, saving, and stopping on a signal."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import broadcast_object_list, gather_object
from transformers.utils import CONFIG_NAME

from vididi_hf.data.inventory import VideoList
from vididi_hf.files import lock_output_dir
from vididi_hf.pretraining.checkpoints import (
    VIDEOS,
    DamagedCheckpointError,
    Progress,
    list_checkpoints,
    load_checkpoint,
    named_disk_errors,
    save_checkpoint,
    save_encoder,
)
from vididi_hf.pretraining.logging import RunLog, merge_broken
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.pretraining.order_schedule import OrderPair
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.reading import reading
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

BEST_BY = "R@1"
"""The metric that decides which evaluated checkpoint is the best."""


def open_output_dir(recipe: PretrainingRecipe) -> ExitStack:
    """Creates and locks the folder of a run, or raises a ValueError if it holds a run and `resume` is false."""
    folder = Path(recipe.output_dir)
    if recipe.encoder and not recipe.resume and os.path.realpath(recipe.encoder) == os.path.realpath(folder):
        raise ValueError(f"output_dir {folder} is the folder of encoder: choose another, or the run would overwrite it")
    holds_model = (folder / CONFIG_NAME).exists() or any(folder.glob("checkpoints/checkpoint-*"))
    if holds_model and not list_checkpoints(folder):  # perhaps of fine-tuning
        raise ValueError(f"{folder} already holds a model: choose another output_dir")
    lock = lock_output_dir(folder)
    if list_checkpoints(folder) and not recipe.resume:
        raise ValueError(f"{folder} already holds a run: add --resume to continue it, or choose another output_dir")
    return lock


class StopRequest:
    """Notes SIGTERM and SIGINT instead of ending the process, while its context lasts. A second signal ends it.

    Outside of the main thread, signals keep their meaning. Signals may reach only some processes, so `agreed` is a
    collective call. They talk over CPUs, so a GPU's queue never runs empty for it.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._signal = 0
        self._speaks = accelerator.is_main_process
        self._group: Any = dist.new_group(backend="gloo") if accelerator.num_processes > 1 else None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def agreed(self) -> int:
        """Returns the signal that any process got, or 0. All processes must call this, and all get the same answer."""
        if self._group is None:
            return self._signal
        number = torch.tensor(self._signal)
        dist.all_reduce(number, dist.ReduceOp.MAX, group=self._group)
        return int(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal:  # the second one means it
            self.__exit__()
            signal.raise_signal(number)
            return
        self._signal = number
        if number == signal.SIGINT and self._speaks:  # print is not for signal handlers
            os.write(2, b"stopping after this step; press Ctrl-C again to stop at once\n")


class RunState:
    """Progress, checkpoints, log and stop requests of a run; entering it resumes. All processes call all methods."""

    def __init__(
        self,
        recipe: PretrainingRecipe,
        accelerator: Accelerator,
        model: ViDiDiForPreTraining,
        optimizer: AcceleratedOptimizer,
        processor: ViDiDiVideoProcessor,
        steps_per_epoch: int,
        list_videos: Callable[[], VideoList] | None = None,
    ) -> None:
        self._videos = list_videos() if list_videos and accelerator.is_main_process else None
        self.recipe, self.accelerator, self.processor = recipe, accelerator, processor
        self.model, self.optimizer, self.last_step = model, optimizer, recipe.epochs * steps_per_epoch
        self.progress = Progress(steps_per_epoch=steps_per_epoch, num_processes=accelerator.num_processes)
        self.log, self.stop = RunLog(recipe, accelerator, self.last_step), StopRequest(accelerator)

    @property
    def epoch(self) -> int:
        """Epochs that are finished."""
        return self.progress.epoch

    @property
    def step(self) -> int:
        """Steps of the current epoch that are finished."""
        return self.progress.step

    @property
    def total_steps(self) -> int:
        """Steps that are finished."""
        return self.progress.total_steps

    def __enter__(self) -> RunState:
        self._resume()
        self.log.start(self.progress)
        self.stop.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop.__exit__(*exception)

    def start_epoch(self) -> None:
        """Starts the clock of an epoch."""
        self.log.start_epoch()

    def after_step(self, orders: OrderPair, learning_rate: float, output: Any, batch: Any) -> None:
        """Counts, logs and, if due, saves a step. Ends the process if one was asked to stop, after saving."""
        progress = self.progress
        progress.step += 1
        progress.total_steps += 1
        progress.broken |= batch["broken"]
        self.log.step(orders, learning_rate, output, batch["sources"])
        number = self.stop.agreed()
        if number or (progress.step < progress.steps_per_epoch and self._is_save_due()):
            self.log.require_finite_loss()
            self.save()
        if number:
            self.log.close()
            self.accelerator.print(f"stopped and saved after {progress.total_steps} steps; continue with --resume")
            raise SystemExit(128 + number)

    def after_epoch(self, evaluate: Callable[[int], dict[str, float]]) -> None:
        """Evaluates, logs and, if due, saves an epoch. `evaluate` gets its number, counted from 1."""
        self.log.require_finite_loss()
        self.progress.epoch, self.progress.step = self.progress.epoch + 1, 0
        metrics = evaluate(self.progress.epoch)
        is_best = bool(metrics) and self.progress.note_score(metrics[BEST_BY])
        self.log.epoch(metrics)
        if is_best or self._is_save_due():
            self.save()

    def finish(self) -> Path:
        """Writes the encoder, and returns the folder of the run."""
        folder = Path(self.recipe.output_dir)
        if self.accelerator.is_main_process:
            with named_disk_errors(f"cannot write the encoder to {folder}"):
                save_encoder(folder, self.model, self.processor, self.recipe)
        self.log.close()
        return folder

    def save(self) -> None:
        """Writes a checkpoint from the main process while the others wait."""
        progress = replace(self.progress, broken=merge_broken(self.progress.broken))
        if self.accelerator.is_main_process:
            training = {"optimizer": self.optimizer.state_dict(), "reporter": self.log.state_dict()}
            if self.accelerator.scaler is not None:
                training["scaler"] = self.accelerator.scaler.state_dict()
            what = self.recipe, progress, training, self._videos
            save_checkpoint(self.recipe.output_dir, self.model, self.processor, *what)
        self.accelerator.wait_for_everyone()

    def _is_save_due(self) -> bool:
        recipe, progress = self.recipe, self.progress
        if recipe.save_steps and progress.total_steps % recipe.save_steps == 0:
            return True
        return progress.step == 0 and (progress.epoch % recipe.save_epochs == 0 or progress.epoch == recipe.epochs)

    def _resume(self) -> None:
        """Restores the newest checkpoint. A damaged one is skipped for the one before it."""
        checkpoints = list_checkpoints(self.recipe.output_dir)
        found, folder, reason = None, None, ""
        for folder in reversed(checkpoints):
            try:
                found = load_checkpoint(folder, self.model, self.recipe)
                break
            except DamagedCheckpointError as error:
                self.accelerator.print(f"skipped a checkpoint: {error}")
                reason = reason or str(error)
        steps = gather_object([found[0].total_steps if found else -1])
        if len(set(steps)) > 1:
            raise ValueError(f"the processes found checkpoints of the steps {steps}: output_dir must be one folder")
        if found is None or folder is None:
            if checkpoints:
                where = checkpoints[0].parent
                raise ValueError(f"no checkpoint in {where} can be read: choose another output_dir ({reason})")
            return
        progress, training = found
        if self._videos is not None and not (folder / VIDEOS).is_file():
            self.accelerator.print(f"{folder} does not say which videos it was trained on: they are not compared")
        if difference := changed_videos(self._videos, folder / VIDEOS, folder, self.recipe.accept_changed_data):
            self.accelerator.print(f"continuing with other videos than before: {difference}")
        progress.num_processes = progress.num_processes or self.progress.num_processes  # of an earlier version
        before, now = (
            {"processes": place.num_processes, "steps per epoch": place.steps_per_epoch}
            for place in (progress, self.progress)
        )
        check_size(folder, before, now)
        if progress.total_steps != progress.epoch * progress.steps_per_epoch + progress.step:
            raise ValueError(f"the epochs and steps in {folder} contradict each other: remove it, it is damaged")
        with reading(folder):
            self.optimizer.load_state_dict(training["optimizer"])
            self.log.load_state_dict(training["reporter"])
            if self.accelerator.scaler is not None and "scaler" in training:
                self.accelerator.scaler.load_state_dict(training["scaler"])
        self.progress = progress
        self.accelerator.print(f"resumed from {folder}: {progress.epoch} epochs and {progress.step} steps are done")


def check_size(checkpoint: Path | None, before: dict[str, int], now: dict[str, int]) -> None:
    """Raises a ValueError if a run has other numbers, such as of processes, than its checkpoint."""
    for name, number in before.items():
        if number != now.get(name):
            advice = "keep the videos and the number of processes"
            raise ValueError(f"{checkpoint} has {number} {name}, and this run has {now.get(name)}: {advice}")


def changed_videos(videos: VideoList | None, saved: Path, checkpoint: Path | None, accept: bool) -> str:
    """Says how the videos differ from a saved list. The main process, which has them, decides for all."""
    found = [videos.difference(VideoList.read(saved)) if videos is not None and saved.is_file() else ""]
    if (difference := broadcast_object_list(found)[0]) and not accept:
        where = f"the videos are not those of {checkpoint}: {difference}"
        raise ValueError(f"{where}; restore them, or add --accept_changed_data")
    return difference
