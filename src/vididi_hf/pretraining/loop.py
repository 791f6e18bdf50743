"""ViDiDi pretraining, top to bottom."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType, broadcast_object_list, set_seed
from torch import Tensor

from vididi_hf.batch_norm_vididi import synchronize
from vididi_hf.data.loading import ClipLoader, ClipMaker, TrainingClips, stack_frames
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.data.streaming import ParquetVideos, StreamingClipLoader, find_shards
from vididi_hf.evaluation.retrieval import RetrievalEvaluator
from vididi_hf.evaluation.splits import RetrievalSplits, load_retrieval_splits
from vididi_hf.pretraining.compilation import compile_encoders
from vididi_hf.pretraining.logging import Reporter
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.pretraining.monitors import merge_broken
from vididi_hf.pretraining.optimization import build_optimizer
from vididi_hf.pretraining.order_schedule import OrderPair
from vididi_hf.pretraining.precision import open_accelerator
from vididi_hf.pretraining.preemption import PREEMPTED, StopRequest
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.run_state import (
    DamagedCheckpointError,
    Progress,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    save_encoder,
)
from vididi_hf.pretraining.step import TrainingStep
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

BEST_BY = "R@1"
"""The score by which one evaluated checkpoint is the best."""


def pretrain(recipe: PretrainingRecipe) -> Path:
    """Pretrains an encoder on unlabeled videos by balanced alternating learning.

    Args:
        recipe: All choices of the run.

    Returns:
        `recipe.output_dir`, from which `ViDiDiModel.from_pretrained` loads the encoder. Beside it lie `recipe.json`,
        `metrics.jsonl` and `checkpoints/`.

    Raises:
        ValueError: If `output_dir` holds a run that shall not be resumed, or the data set, the recipe or a checkpoint
            to resume from does not fit.
        FileNotFoundError: If there is no such data set.
        ImportError: If the tracker is not installed.
        FloatingPointError: If the loss is no longer finite. No checkpoint is written after that.
        SystemExit: With status 143, if the process got SIGTERM, once a checkpoint has been written after the step.

    Source: the algorithm of "Unfolding Videos Dynamics via Taylor Expansion" (arXiv 2409.02371).

    Example:
        ```python
        from vididi_hf import PretrainingRecipe, ViDiDiModel, pretrain

        folder = pretrain(PretrainingRecipe(dataset="path/to/videos", output_dir="runs/mine"))
        model = ViDiDiModel.from_pretrained(folder)
        ```
    """
    accelerator = build_accelerator(recipe)
    set_seed(recipe.seed)
    output_dir = Path(recipe.output_dir)
    if list_checkpoints(output_dir) and not recipe.resume:
        raise ValueError(f"{output_dir} holds a run already; add --resume to continue it, or choose another output_dir")
    output_dir.mkdir(parents=True, exist_ok=True)
    schedule = recipe.build_order_schedule()
    processor = build_processor(recipe)
    loader = build_loader(recipe, accelerator)
    evaluator = build_evaluator(recipe, accelerator, processor)
    raw_model = build_model(recipe, accelerator)
    model, optimizer = accelerator.prepare(
        raw_model,
        build_optimizer(
            raw_model, recipe.optimizer, recipe.learning_rate, recipe.weight_decay, fused=recipe.fused_optimizer
        ),
    )
    views_of = partial(derivative_views, processor=processor, num_frames=recipe.num_frames, device=accelerator.device)
    take_step = TrainingStep(recipe, accelerator, model, optimizer, views_of, loader.steps_per_epoch)
    reporter = Reporter(recipe, accelerator, take_step.total_steps)
    progress = resume(recipe, accelerator, raw_model, optimizer, reporter, loader.steps_per_epoch)
    reporter.open(progress)

    with StopRequest(accelerator) as stop:
        for epoch in range(progress.epoch, recipe.epochs):
            model.train()
            reporter.start_epoch()
            for step, batch in enumerate(loader.epoch(epoch, progress.step), progress.step):
                # 1. Two clips of each video, uint8 (batch, 2, frames + highest order, channels, height, width).
                clips = batch["clips"]
                # 2. The derivative order of each.
                orders = schedule(epoch, step)
                # 3. They are differentiated, one encoder embeds them, the objective compares them; its gradient changes
                # the weights.
                rate = take_step.learning_rate(progress.total_steps)
                output = take_step(clips, orders, progress.total_steps)

                progress.step += 1
                progress.total_steps += 1
                progress.broken |= batch["broken"]
                reporter.step(orders, rate, output, batch["sources"])
                stopping = stop.agreed()
                if stopping or (progress.step < loader.steps_per_epoch and is_save_due(recipe, progress)):
                    reporter.require_finite_loss()
                    save(recipe, accelerator, raw_model, optimizer, reporter, processor, progress)
                if stopping:
                    reporter.close()
                    accelerator.print(
                        f"asked to stop: saved after {progress.total_steps} steps; continue with --resume"
                    )
                    raise SystemExit(PREEMPTED)

            reporter.require_finite_loss()
            progress.epoch, progress.step = epoch + 1, 0
            scores = evaluate(recipe, accelerator, raw_model, evaluator, epoch)
            is_best = bool(scores) and progress.note_score(scores[BEST_BY])
            reporter.epoch(scores)
            if is_best or is_save_due(recipe, progress):
                save(recipe, accelerator, raw_model, optimizer, reporter, processor, progress)

    if accelerator.is_main_process:
        save_encoder(output_dir, raw_model, processor, recipe)
    reporter.close()
    return output_dir


def save_untrained(recipe: PretrainingRecipe) -> Path:
    """Writes the encoder that `pretrain` would start from, to tell training from architecture.

    Returns:
        `recipe.output_dir`.
    """
    set_seed(recipe.seed)
    folder = Path(recipe.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    save_encoder(folder, ViDiDiForPreTraining(recipe.model_config()), build_processor(recipe), recipe)
    return folder


def derivative_views(
    clips: Tensor, orders: OrderPair, processor: ViDiDiVideoProcessor, num_frames: int, device: torch.device
) -> Tensor:
    """Normalizes the two clips of every video and differentiates each to its own order.

    Args:
        clips: uint8 (batch, 2, num_frames + extra_frames, channels, height, width).
        orders: The derivative orders of the two views, each at most the extra_frames.
        processor: Knows the normalization.
        num_frames: Frames of the result.
        device: Where this is done.

    Returns:
        Float (batch, 2, num_frames, channels, height, width).
    """
    clips = clips.to(device, non_blocking=True)
    views = [
        processor.views(clips[:, view, : num_frames + order], orders=(order,))[0] for view, order in enumerate(orders)
    ]
    # Each view lies in memory by itself, as the encoder takes it.
    return stack_frames(views).transpose(0, 1)


def build_accelerator(recipe: PretrainingRecipe) -> Accelerator:
    """Builds what knows the device, the processes, the precision and the tracker.

    Raises:
        ImportError: If the tracker is not installed.
        ValueError: If accelerate is configured to spread the parameters over the processes.
    """
    tracker = None if recipe.tracker == "none" else recipe.tracker
    accelerator = open_accelerator(recipe.mixed_precision, log_with=tracker, project_dir=recipe.output_dir)
    if recipe.tracker != "none" and not accelerator.log_with:
        raise ImportError(f"tracker {recipe.tracker!r} is not installed: pip install {recipe.tracker}")
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ValueError(
            f"accelerate is configured for {accelerator.distributed_type.value}, but checkpoints are written from "
            "whole parameters: configure it for DistributedDataParallel (MULTI_GPU)"
        )
    return accelerator


def build_processor(recipe: PretrainingRecipe) -> ViDiDiVideoProcessor:
    """Builds the processor that is published with the encoder: center crops of 7/8 of the frame's short side."""
    return ViDiDiVideoProcessor(
        size={"shortest_edge": round(recipe.image_size * 8 / 7)},
        crop_size={"height": recipe.image_size, "width": recipe.image_size},
        num_frames=recipe.num_frames,
        frame_stride=recipe.frame_stride,
    )


def build_model(recipe: PretrainingRecipe, accelerator: Accelerator) -> ViDiDiForPreTraining:
    """Builds the model on its device, in the memory layout and with the compilation that the recipe asks for."""
    model = ViDiDiForPreTraining(recipe.model_config())
    if recipe.activation_checkpointing:
        model.gradient_checkpointing_enable()
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        synchronize(model)
    model = model.to(accelerator.device)
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last_3d)
    if recipe.torch_compile:
        compile_encoders(model)
    return model


def build_loader(recipe: PretrainingRecipe, accelerator: Accelerator) -> ClipLoader | StreamingClipLoader:
    """Opens the videos to train on; the first process goes first, in case they have to be made or downloaded."""
    clips: dict[str, Any] = {
        "num_frames": recipe.num_frames,
        "frame_stride": recipe.frame_stride,
        "extra_frames": recipe.build_order_schedule().max_order,
        "augmentation": recipe.augmentation(),
        "seed": recipe.seed,
    }
    running: dict[str, Any] = {
        "num_workers": recipe.num_workers,
        "rank": accelerator.process_index,
        "world_size": accelerator.num_processes,
        "pin_memory": accelerator.device.type == "cuda",
    }
    if recipe.streaming:
        videos = ParquetVideos(find_shards(recipe.dataset, recipe.split))
        make_clips = ClipMaker(num_clips=2, **clips)
        window = recipe.shuffle_window
        return StreamingClipLoader(videos, make_clips, recipe.batch_size, shuffle_window=window, **running)
    with accelerator.main_process_first():
        rows = load_video_dataset(recipe.dataset, root=recipe.dataset_root, split=recipe.split)
    return ClipLoader(TrainingClips(rows, **clips), recipe.batch_size, **running)


def build_evaluator(
    recipe: PretrainingRecipe, accelerator: Accelerator, processor: ViDiDiVideoProcessor
) -> RetrievalEvaluator | None:
    """Opens the videos to evaluate with, where the recipe asks for that and they have labels."""
    if not recipe.evaluate_epochs:
        return None
    with accelerator.main_process_first():
        splits = splits_of(recipe)
    if "label" not in splits.gallery.column_names:
        accelerator.print(f"{recipe.dataset} has no labels: nothing is evaluated")
        return None
    return RetrievalEvaluator(
        splits.gallery,
        splits.queries,
        processor,
        inputs=("frames",),
        num_clips=1,
        batch_size=recipe.batch_size,
        num_workers=recipe.num_workers,
        group_column=splits.group_column,
    )


def splits_of(recipe: PretrainingRecipe) -> RetrievalSplits:
    """Loads the gallery and the queries that belong to a run."""
    return load_retrieval_splits(
        recipe.dataset, root=recipe.dataset_root, gallery_split=recipe.split, group_column=recipe.group_column
    )


def is_save_due(recipe: PretrainingRecipe, progress: Progress) -> bool:
    """Whether a checkpoint belongs here: after so many steps, after so many epochs, at the end of the run."""
    if recipe.save_steps and progress.total_steps % recipe.save_steps == 0:
        return True
    return progress.step == 0 and (progress.epoch % recipe.save_epochs == 0 or progress.epoch == recipe.epochs)


def save(
    recipe: PretrainingRecipe,
    accelerator: Accelerator,
    model: ViDiDiForPreTraining,
    optimizer: AcceleratedOptimizer,
    reporter: Reporter,
    processor: ViDiDiVideoProcessor,
    progress: Progress,
) -> None:
    """Writes a checkpoint from the main process while the others wait."""
    progress = replace(progress, broken=merge_broken(progress.broken))
    if accelerator.is_main_process:
        training = {"optimizer": optimizer.state_dict(), "reporter": reporter.state_dict()}
        if accelerator.scaler is not None:
            training["scaler"] = accelerator.scaler.state_dict()
        save_checkpoint(recipe.output_dir, model, processor, recipe, progress, training)
    accelerator.wait_for_everyone()


def resume(
    recipe: PretrainingRecipe,
    accelerator: Accelerator,
    model: ViDiDiForPreTraining,
    optimizer: AcceleratedOptimizer,
    reporter: Reporter,
    steps_per_epoch: int,
) -> Progress:
    """Restores model, optimizer, loss scaler and the epoch's means from the newest checkpoint, if there is one.

    A checkpoint that a disk or a copy has damaged is skipped for the one before it.

    Returns:
        The place in the run; its beginning where there is no checkpoint.

    Raises:
        ValueError: If no checkpoint can be read, or they belong to another run than the recipe's.
    """
    checkpoints = list_checkpoints(recipe.output_dir)
    if not checkpoints:
        return Progress(steps_per_epoch=steps_per_epoch)
    for folder in reversed(checkpoints):
        try:
            progress, training = load_checkpoint(folder, model, recipe)
        except DamagedCheckpointError as error:
            accelerator.print(f"skipped a checkpoint: {error}")
            continue
        if progress.steps_per_epoch != steps_per_epoch:
            raise ValueError(
                f"{folder} comes from a run of {progress.steps_per_epoch} steps an epoch, and this one has "
                f"{steps_per_epoch}: the videos and the number of processes must stay"
            )
        optimizer.load_state_dict(training["optimizer"])
        reporter.load_state_dict(training["reporter"])
        if accelerator.scaler is not None and "scaler" in training:
            accelerator.scaler.load_state_dict(training["scaler"])
        accelerator.print(f"resumed from {folder}: {progress.epoch} epochs and {progress.step} steps are done")
        return progress
    raise ValueError(
        f"none of the checkpoints in {checkpoints[0].parent} can be read; start again in another output_dir"
    )


def evaluate(
    recipe: PretrainingRecipe,
    accelerator: Accelerator,
    model: ViDiDiForPreTraining,
    evaluator: RetrievalEvaluator | None,
    epoch: int,
) -> dict[str, float]:
    """Runs retrieval after an epoch, where the recipe asks for it; otherwise returns nothing.

    The main process does it, and all get the result.
    """
    due = evaluator is not None and ((epoch + 1) % recipe.evaluate_epochs == 0 or epoch + 1 == recipe.epochs)
    shared: list[dict[str, float]] = [{}]
    if due and evaluator is not None and accelerator.is_main_process:
        # Compiling for evaluation mode and for batches of other sizes would take longer than evaluating.
        compiling: Any = torch.compiler.set_stance("force_eager") if recipe.torch_compile else nullcontext()
        with compiling:
            shared = [evaluator(model.vididi).metrics["frames"]]
    broadcast_object_list(shared)
    return shared[0]
