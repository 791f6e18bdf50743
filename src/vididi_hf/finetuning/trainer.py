"""Fine-tuning on the 🤗 `Trainer`, for recognition and detection: schedule, checkpoints and trackers."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, set_seed
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME

from vididi_hf.classification_vididi import ViDiDiClassifier
from vididi_hf.data.inventory import VideoList
from vididi_hf.data.loading import EpochBatches
from vididi_hf.data.workers import SteadyLoader
from vididi_hf.evaluation.inputs import INPUTS
from vididi_hf.evaluation.results import EvaluationResult, dataset_name
from vididi_hf.files import atomic_files, atomic_write, printable, write_text
from vididi_hf.finetuning.recipe import RECIPE_FILE, FinetuningRecipe
from vididi_hf.pretraining.accelerator import PATIENCE, check_environment, usable_precision
from vididi_hf.pretraining.checkpoints import named_disk_errors
from vididi_hf.pretraining.logging import MetricsFile, merge_broken
from vididi_hf.pretraining.optimization import parameter_groups
from vididi_hf.pretraining.run_state import StopRequest, changed_videos, check_size
from vididi_hf.reading import read_json
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

CHECKPOINTS = "checkpoints"
_VIDEOS, _SIZE = "videos.json.gz", "size.json"


def training_arguments(recipe: FinetuningRecipe) -> TrainingArguments:
    """Checks the run's folder, seeds the random generators, and builds the arguments of `Trainer`."""
    check_environment()
    output_dir = Path(recipe.output_dir)
    if find_checkpoint(output_dir) is not None:
        if not recipe.resume:
            raise ValueError(f"{output_dir} already holds a run: add --resume to continue it, or change output_dir")
        recipe.check_resumes(recipe.read_values(output_dir / RECIPE_FILE))
    elif (output_dir / CONFIG_NAME).exists():  # for example the pretrained encoder
        raise ValueError(f"{output_dir} already holds a model: choose another output_dir")
    if recipe.tracker != "none" and find_spec(recipe.tracker) is None:
        raise ImportError(f"the tracker {recipe.tracker} is not installed: run `pip install {recipe.tracker}`")
    precision = usable_precision(recipe.mixed_precision)
    numbers: Any = {"num_train_epochs": recipe.epochs, "per_device_train_batch_size": recipe.batch_size}
    numbers |= {} if precision == "no" else {precision: True}
    arguments = TrainingArguments(
        str(output_dir / CHECKPOINTS),
        **numbers,
        max_grad_norm=0.0,
        seed=recipe.seed,
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        save_strategy="no",  # SaveEpochs saves
        save_total_limit=1,
        report_to=recipe.tracker,
        run_name=output_dir.name,
        disable_tqdm=not recipe.progress,
        use_cpu=not torch.accelerator.is_available(),
        ddp_find_unused_parameters=False,
        ddp_timeout=round(PATIENCE.total_seconds()),
    )
    arguments.mixed_precision = precision  # Trainer takes it from the environment otherwise
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one GPU per process: no nn.DataParallel, which cannot split boxes
    if precision != recipe.mixed_precision and arguments.process_index == 0:
        print(f"{recipe.mixed_precision} needs a GPU: training in full precision")
    set_seed(recipe.seed)
    return arguments


def find_checkpoint(output_dir: Path) -> Path | None:
    """Returns the newest complete checkpoint: `Trainer` writes `trainer_state.json` last."""
    complete = [path.parent for path in (output_dir / CHECKPOINTS).glob("checkpoint-*/trainer_state.json")]
    return max(complete, key=_steps, default=None)


def _steps(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


class FinetuningTrainer(Trainer):
    """A `Trainer` for batches of augmented clips, whose model differentiates them as the input of the batch asks.

    Batches depend on (seed, epoch, step, rank) only, so a resumed run equals an unbroken one. `samples` maps (epoch,
    index) to a sample. `collate` returns a batch with `clips`, and the `broken` videos that were replaced.
    `loss_of(model, frames, orders, batch)` returns the `loss` of normalized frames, seen in some derivative orders, and
    further scalars for `metrics.jsonl`.
    """

    def __init__(
        self,
        recipe: FinetuningRecipe,
        arguments: TrainingArguments,
        model: ViDiDiClassifier,
        processor: ViDiDiVideoProcessor,
        samples: Any,
        collate: Callable[[list[Any]], Any],
        loss_of: Callable[..., dict[str, Tensor]],
    ) -> None:
        self.recipe, self.classifier, self.processor, self.loss_of = recipe, model, processor, loss_of
        self.output_dir = Path(recipe.output_dir)
        batch_size, rank, world_size = arguments.train_batch_size, arguments.process_index, arguments.world_size
        self.batches = EpochBatches(len(samples), batch_size, seed=recipe.seed, rank=rank, world_size=world_size)
        self.broken: dict[str, str] = {}
        self.metrics_file: MetricsFile | None = None
        self._sums: dict[str, Tensor] = {}
        self._steps = 0  # in the sums: fewer than an epoch has, if the run was resumed within
        rate, steps = recipe.learning_rate * batch_size * world_size / 128, self.batches.steps_per_epoch
        optimizer = SGD(parameter_groups(model, recipe.weight_decay), lr=rate, momentum=recipe.momentum)
        scheduler = LambdaLR(optimizer, lambda step: recipe.learning_rate_factor(step / steps))
        how: dict[str, Any] = {"callbacks": [SaveEpochs(recipe.save_epochs)], "optimizers": (optimizer, scheduler)}
        super().__init__(model, arguments, collate, samples, processing_class=processor, **how)
        self.remove_callback(PrinterCallback)  # prints a dictionary per epoch if there is no progress bar
        vars(model.config).pop("use_cache", None)  # Trainer sets it, for language models

    def fit(self) -> None:
        """Trains, from the newest checkpoint if there is one, and saves model, processor and recipe."""
        checkpoint = find_checkpoint(self.output_dir)
        file = self.output_dir / CHECKPOINTS / _VIDEOS
        videos = VideoList.of(self.train_dataset.rows) if self.is_world_process_zero() else None  # type: ignore[union-attr]
        changed_videos(videos if checkpoint else None, file, checkpoint, self.recipe.accept_changed_data)
        self._check_size(checkpoint)
        if videos is not None:
            with atomic_write(file) as unfinished:
                videos.write(unfinished)
        if self.is_world_process_zero():
            write_text(self.output_dir / RECIPE_FILE, self.recipe.to_json())
            self.metrics_file = MetricsFile(self.output_dir, _steps(checkpoint) if checkpoint else 0)
            if checkpoint:
                print(f"resuming from {checkpoint}")
        set_seed(self.recipe.seed, device_specific=True)  # processes draw different dropout
        with StopRequest(self.accelerator) as stop:
            self.add_callback(StopAndSave(stop))
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        self.broken = merge_broken(self.broken)
        if self.is_world_process_zero():
            if self.broken:
                print(f"replaced training videos that cannot be decoded: {printable(', '.join(sorted(self.broken)))}")
            named = named_disk_errors(f"cannot write the model to {self.output_dir}")
            with named, atomic_files(self.output_dir, last=CONFIG_NAME) as unfinished:
                self.classifier.save_pretrained(unfinished)
                self.processor.save_pretrained(unfinished)

    def _check_size(self, checkpoint: Path | None) -> None:
        """Raises a ValueError if a checkpoint has another number of processes or steps, which `Trainer` miscounts."""
        file = self.output_dir / CHECKPOINTS / _SIZE
        size = {"processes": self.args.world_size, "steps per epoch": self.batches.steps_per_epoch}
        saved = [read_json(file) if checkpoint and self.is_world_process_zero() and file.is_file() else size]
        check_size(checkpoint, broadcast_object_list(saved)[0], size)
        if self.is_world_process_zero():
            write_text(file, json.dumps(size) + "\n")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Writes a checkpoint; on a full disk, none is left half-written. It never replaces one by NaN weights."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.classifier.parameters()):
            raise FloatingPointError("the weights are not finite: lower learning_rate")
        folder = Path(self.args.output_dir or "", f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        try:
            with named_disk_errors(f"cannot write checkpoint {folder}"):
                super()._save_checkpoint(model, trial)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def test_settings(self) -> dict[str, Any]:
        """Returns the arguments that both evaluators take."""
        recipe, dataset = self.recipe, dataset_name(self.recipe.dataset)
        running = {"batch_size": recipe.test_batch_size, "num_workers": recipe.num_workers, "progress": recipe.progress}
        return {"inputs": recipe.test_inputs, "dataset": dataset, "split": recipe.test_split, **running}

    def describe(self, result: EvaluationResult, **protocol: Any) -> dict[str, Any]:
        """Adds the training to the protocol of a test, and returns further facts for `metrics.json`."""
        recipe = self.recipe
        trained = {"train_split": recipe.train_split, "trained_part": recipe.train, "trained_inputs": recipe.inputs}
        broken = sorted(self.broken)
        result.protocol |= {**protocol, **trained, "epochs": recipe.epochs, "failed_training_videos": broken}
        started = {"pretrained": recipe.model, "random_init": recipe.random_init, "seed": recipe.seed}
        return {**started, "source": recipe.dataset}

    def get_train_dataloader(self) -> DataLoader:
        loader: Any = SteadyLoader(
            self.train_dataset,
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            num_workers=self.recipe.num_workers,
            pin_memory=self.args.device.type == "cuda",
            persistent_workers=self.recipe.num_workers > 0,
        )
        loader.set_epoch = self.batches.set_epoch  # Trainer calls it
        return loader

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Normalizes the clips of a batch, and computes its loss with the derivative orders whose turn it is."""
        self.broken |= inputs["broken"]
        orders = INPUTS[self.recipe.inputs[self.state.global_step % len(self.recipe.inputs)]]
        clips = inputs["clips"].flatten(0, -5)[:, : self.processor.num_frames + max(orders)]
        scalars = self.loss_of(model, self.processor.views(clips, orders=(0,))[0], orders, inputs)
        loss = scalars.pop("loss")
        self._steps += 1
        for name, value in scalars.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Writes the means of an epoch to `metrics.jsonl`, besides the trackers."""
        if "loss" in logs:  # all processes are here, at the end of an epoch
            epoch = round(self.state.epoch or 0)
            if not math.isfinite(logs["loss"]):
                raise FloatingPointError(f"the mean loss of epoch {epoch} is {logs['loss']}: lower learning_rate")
            for name, total in self._sums.items():
                logs[name] = float(self.accelerator.reduce(total, "mean")) / self._steps
            self._sums, self._steps = {}, 0
            if self.metrics_file is not None:
                row = {name: value for name, value in logs.items() if name != "grad_norm"}
                self.metrics_file.write({"epoch": epoch, "total_steps": self.state.global_step, **row})
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # the estimate of Trainer is for language models


class SaveEpochs(TrainerCallback):
    """Saves a checkpoint every so many epochs, and after the last one."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        epoch = round(state.epoch)
        control.should_save = epoch % self.epochs == 0 or epoch == args.num_train_epochs


class StopAndSave(TrainerCallback):
    """Saves a checkpoint after the step in which a signal came, and ends the process."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop, self.number = stop, 0

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self.number = self.stop.agreed()
        control.should_save |= bool(self.number)
        control.should_log |= bool(self.number) and float(state.epoch).is_integer()  # the row of a whole epoch

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if self.number:
            if state.is_world_process_zero:
                print(f"stopped and saved after {state.global_step} steps; continue with --resume")
            raise SystemExit(128 + self.number)


def print_test(result: EvaluationResult, counts: str) -> None:
    """Prints counts like "{videos} videos" of the protocol and the table of metrics, in the main process."""
    from vididi_hf.evaluation.commands import format_table, print_failed

    if PartialState().is_main_process:
        print(counts.format(**result.protocol))
        print(format_table(result.metrics))
        print_failed(result)
