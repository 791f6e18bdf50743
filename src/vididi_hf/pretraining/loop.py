"""ViDiDi pretraining, top to bottom."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, set_seed
from torch.distributed.elastic.multiprocessing.errors import record

from vididi_hf.data.saved import DatasetObject, object_name
from vididi_hf.data.seeding import seed_of
from vididi_hf.evaluation.retrieval import RetrievalEvaluator
from vididi_hf.objectives import cosine_decay
from vididi_hf.pretraining.accelerator import build_accelerator
from vididi_hf.pretraining.gradient_caching import accumulate_gradients, cache_gradients
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining, build_model
from vididi_hf.pretraining.optimization import build_lr_schedule, build_optimizer, set_learning_rate
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.run_state import RunState, open_output_dir
from vididi_hf.pretraining.setup import build_evaluator, build_loader
from vididi_hf.pretraining.views import build_processor, derivative_views


def pretrain(recipe: PretrainingRecipe, dataset: DatasetObject | None = None) -> Path:
    """Pretrains an encoder on unlabeled videos by balanced alternating learning.

    Args:
        recipe: All choices of the run.
        dataset: The videos, as an object of 🤗 Datasets, instead of those of `recipe.dataset`.

    Returns:
        `recipe.output_dir`. `ViDiDiModel.from_pretrained` loads the encoder from it. It also holds `recipe.json`,
        `metrics.jsonl` and `checkpoints/`.

    Raises:
        ValueError: If `output_dir` holds a run and `resume` is false, or the data set or a checkpoint does not fit.
        FileNotFoundError: If the data set does not exist.
        ImportError: If the tracker is not installed.
        BlockingIOError: If another process uses `output_dir`.
        FloatingPointError: If the loss is not finite. No checkpoint is written after that.
        SystemExit: After SIGTERM (status 143) or SIGINT (status 130), once the step is finished and saved.

    Source: the algorithm of "Unfolding Videos Dynamics via Taylor Expansion" (arXiv 2409.02371).

    Example:
        ```python
        from vididi_hf import PretrainingRecipe, ViDiDiModel, pretrain

        folder = pretrain(PretrainingRecipe(dataset="path/to/videos", output_dir="runs/mine"))
        model = ViDiDiModel.from_pretrained(folder)
        ```
    """
    recipe = recipe if dataset is None else replace(recipe, dataset=object_name(dataset), streaming=False)
    recipe = recipe.completed()
    accelerator = build_accelerator(recipe)
    set_seed(recipe.seed)
    lock = open_output_dir(recipe)
    order_schedule = recipe.build_order_schedule()
    if share := order_schedule.imbalance(recipe.epochs):
        accelerator.print(f"note: {share}")
    processor = build_processor(recipe)
    loader = build_loader(recipe, accelerator, dataset)
    evaluator = build_evaluator(recipe, accelerator, processor, dataset)
    network = build_model(recipe, accelerator)
    lr_schedule = build_lr_schedule(recipe, loader.steps_per_epoch, accelerator.num_processes)
    model, optimizer = accelerator.prepare(network, build_optimizer(network, recipe))
    lengths: dict[str, Any] = {"num_frames": recipe.num_frames, "extra_frames": recipe.extra_frames}
    differentiate: Any = partial(derivative_views, processor=processor, **lengths)

    state = recipe, accelerator, network, optimizer, processor
    with lock, RunState(*state, loader.steps_per_epoch, loader.list_videos) as run:
        for epoch in range(run.epoch, recipe.epochs):
            model.train()
            run.start_epoch()
            for step, batch in enumerate(loader.epoch(epoch, run.step), run.step):
                orders = order_schedule(epoch, step)  # the derivative order of each view
                torch.manual_seed(seed_of("step", recipe.seed, epoch, step, accelerator.process_index))  # for dropout
                # Two clips per video: uint8 (batch, 2, frames + highest order, channels, height, width).
                clips = batch["clips"].to(accelerator.device, non_blocking=True)
                if recipe.chunk_size:
                    output = cache_gradients(accelerator, model, clips, orders, differentiate, recipe.chunk_size)
                elif recipe.gradient_accumulation > 1:
                    parts = recipe.gradient_accumulation
                    output = accumulate_gradients(accelerator, model, clips, orders, differentiate, parts)
                else:
                    views = differentiate(clips, orders)
                    output = model(views, orders)  # encoder, projector, objective over the global batch
                    accelerator.backward(output.loss)
                if recipe.max_grad_norm > 0:
                    accelerator.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
                learning_rate = lr_schedule(run.total_steps)
                set_learning_rate(optimizer, learning_rate)
                optimizer.step()
                optimizer.zero_grad()
                if network.target is not None:  # BYOL
                    network.update_target(cosine_decay(run.total_steps, run.last_step, recipe.ema_momentum))
                run.after_step(orders, learning_rate, output, batch)  # logs, checks, saves, stops on a signal
            run.after_epoch(partial(evaluate, recipe, accelerator, network, evaluator))
        return run.finish()


def evaluate(
    recipe: PretrainingRecipe,
    accelerator: Accelerator,
    network: ViDiDiForPreTraining,
    evaluator: RetrievalEvaluator | None,
    epoch: int,
) -> dict[str, float]:
    """Evaluates retrieval in the main process if it is due after this epoch. All processes get the metrics."""
    due = evaluator is not None and (epoch % recipe.evaluate_epochs == 0 or epoch == recipe.epochs)
    shared: list[dict[str, float]] = [{}]
    if due and evaluator is not None and accelerator.is_main_process:
        # Compiling for evaluation would take longer than evaluating.
        eager: Any = torch.compiler.set_stance("force_eager") if recipe.torch_compile else nullcontext()
        with eager:
            shared = [evaluator(network.vididi).metrics["frames"]]
    broadcast_object_list(shared)
    return shared[0]


@record  # torchrun then reports the error of the process that failed first
def run(recipe: PretrainingRecipe) -> None:
    """The command `vididi pretrain`."""
    folder = pretrain(recipe)
    PartialState().print(f"Wrote the encoder to {folder}.")
