"""Fine-tuning, top to bottom: one loop, for every task that trains a classifier on a pretrained encoder."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from torch import Tensor, nn
from tqdm.auto import tqdm

from vididi_hf.classification_vididi import ViDiDiClassifier
from vididi_hf.evaluation.inputs import INPUTS
from vididi_hf.evaluation.results import EvaluationResult
from vididi_hf.finetuning.recipe import FinetuningRecipe
from vididi_hf.finetuning.state import STATE_FILE, load_state, save_state
from vididi_hf.pretraining.logging import MetricsFile, RunningMeans, merge_broken
from vididi_hf.pretraining.optimization import build_optimizer
from vididi_hf.pretraining.accelerator import open_accelerator
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


class Loader(Protocol):
    """Yields the batches of an epoch."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""

    def epoch(self, epoch: int) -> Iterator[Mapping[str, Any]]:
        """Iterates over the batches of an epoch."""


@dataclass
class Task(ABC):
    """What tells one kind of fine-tuning from another.

    Attributes:
        model: The classifier, on its device, with what shall not be trained frozen.
        processor: Normalizes the clips.
        loader: Yields batches with one clip of each sample, `clips`, and the videos that were `broken`.
        title: What the run is called while it goes on.
        unit: What samples are called.
    """

    model: ViDiDiClassifier
    processor: ViDiDiVideoProcessor
    loader: Loader

    title: ClassVar[str]
    unit: ClassVar[str]

    @abstractmethod
    def losses(
        self, model: nn.Module, frames: Tensor, orders: tuple[int, ...], batch: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Computes the loss of a batch.

        Args:
            model: The model, as it is wrapped for several processes.
            frames: Normalized frames (batch, frames, channels, height, width).
            orders: The derivatives that the model shall see.
            batch: What the loader gave.

        Returns:
            `loss`, and further scalars that shall be reported.
        """

    @abstractmethod
    def test(self) -> EvaluationResult:
        """Tests the trained model, in the main process."""

    @abstractmethod
    def write(self, folder: Path, result: EvaluationResult, facts: Mapping[str, Any]) -> None:
        """Writes what the test gave.

        Args:
            folder: The run's.
            result: What `test` returned, with what the run knows added to its protocol.
            facts: More to write down.
        """


def run(recipe: FinetuningRecipe, make_task: Callable[[Any, Accelerator], Task]) -> EvaluationResult:
    """Trains a model and tests it once, after the last epoch.

    Args:
        recipe: All choices of the run.
        make_task: From recipe and accelerator to the task.

    Returns:
        The result of the test; in processes other than the main one, that of the main one.

    Raises:
        ValueError: If `output_dir` holds a run that shall not be resumed, or data set, model and recipe do not fit.
        FileNotFoundError: If there is no such data set or model.
        FloatingPointError: If the loss is no longer finite.
    """
    assert recipe.epochs is not None
    assert recipe.batch_size is not None
    output_dir = Path(recipe.output_dir)
    if (output_dir / STATE_FILE).exists() and not recipe.resume:
        raise ValueError(f"{output_dir} holds a run already; add --resume to continue it, or choose another output_dir")
    accelerator = open_accelerator(recipe.mixed_precision)
    set_seed(recipe.seed)
    task = make_task(recipe, accelerator)
    processor, num_frames = task.processor, task.processor.num_frames
    model, optimizer = accelerator.prepare(
        task.model, build_optimizer(task.model, "sgd", recipe.learning_rate, recipe.weight_decay, recipe.momentum)
    )
    peak_rate = recipe.learning_rate * recipe.batch_size * accelerator.num_processes / 128
    steps = task.loader.steps_per_epoch
    first_epoch = load_state(output_dir, recipe, accelerator, task.model, optimizer)
    output_dir.mkdir(parents=True, exist_ok=True)
    log = MetricsFile(output_dir, first_epoch * steps) if accelerator.is_main_process else None
    bar = tqdm(
        total=recipe.epochs * steps,
        initial=first_epoch * steps,
        desc=task.title,
        unit="step",
        disable=not (recipe.progress and accelerator.is_main_process),
    )
    broken: dict[str, str] = {}

    for epoch in range(first_epoch, recipe.epochs):
        model.train()
        # Dropout is a function of the epoch too, so that a resumed run draws what an unbroken one would.
        set_seed((recipe.seed * 100_003 + epoch) % 2**31, device_specific=True)
        means, started = RunningMeans(), time.perf_counter()
        for step, batch in enumerate(task.loader.epoch(epoch)):
            # 1. A clip of each sample, uint8 (batch, frames + extra_frames, channels, height, width).
            clips = batch["clips"].flatten(0, -5).to(accelerator.device, non_blocking=True)
            # 2. Normalized frames; the model differentiates them as this batch's input asks.
            orders = INPUTS[recipe.inputs[(epoch * steps + step) % len(recipe.inputs)]]
            frames = processor.views(clips[:, : num_frames + max(orders)], orders=(0,))[0]
            # 3. The classes that the model sees in them against the labels.
            losses = task.losses(model, frames, orders, batch)
            # 4. One step of the optimizer.
            rate = peak_rate * recipe.learning_rate_factor(epoch + step / steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            accelerator.backward(losses["loss"])
            optimizer.step()
            optimizer.zero_grad()

            means.add(losses)
            broken |= batch["broken"]
            bar.update()
            if bar.n % 10 == 0:
                speed = (step + 1) * len(clips) * accelerator.num_processes / (time.perf_counter() - started)
                shown = " ".join(f"{name} {value:.3g}" for name, value in means.read().items())
                bar.set_postfix_str(
                    f"epoch {epoch + 1}/{recipe.epochs} {shown} {speed:.0f} {task.unit}/s", refresh=False
                )

        row = means.read()
        if not math.isfinite(row["loss"]):
            raise FloatingPointError(f"the mean loss of epoch {epoch + 1} is {row['loss']}: lower learning_rate")
        if log is not None:
            log.write({"epoch": epoch + 1, "total_steps": (epoch + 1) * steps, **row, "learning_rate": rate})
        if (epoch + 1) % recipe.save_epochs == 0 or epoch + 1 == recipe.epochs:
            save_state(output_dir, recipe, accelerator, task.model, optimizer, epoch + 1)

    bar.close()
    broken = merge_broken(broken)
    if broken:
        accelerator.print(f"training videos that could not be decoded, replaced by others: {', '.join(sorted(broken))}")
    result = None
    if accelerator.is_main_process:
        task.model.save_pretrained(output_dir)
        processor.save_pretrained(output_dir)
        recipe.save(output_dir)
        result = task.test()
        result.protocol |= {
            "train_split": recipe.train_split,
            "trained_part": recipe.train,
            "trained_inputs": recipe.inputs,
            "epochs": recipe.epochs,
            "failed_training_videos": sorted(broken),
        }
        facts = {"pretrained": recipe.model, "random_init": recipe.random_init, "seed": recipe.seed}
        task.write(output_dir, result, {**facts, "source": recipe.dataset})
    return _share(result, accelerator)


def _share(result: EvaluationResult | None, accelerator: Accelerator) -> EvaluationResult:
    """Gives all processes the result of the main one."""
    shared: list[Any] = [result]
    broadcast_object_list(shared)
    accelerator.wait_for_everyone()
    return shared[0]
