"""Whether ViDiDi helps: pretraining with and without it for as many epochs as fit, then retrieval and k-NN."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vididi_hf.data.loading import EpochBatches
from vididi_hf.pretraining.recipe import PretrainingRecipe

from .machine_state import free_memory, synchronize
from .runner import Context, Row, Skipped
from .training import Training, make_recipe
from .videos import Videos, evaluation_batch, load, render, training_batch

METHODS = {"VICReg": "baseline", "VICReg + ViDiDi": "paper"}
NEIGHBORS, TEMPERATURE, CLIPS = 20, 0.07, 3
MOST_EPOCHS = 400
CYCLE = 4  # epochs of the paper's schedule


def pretrain_and_evaluate(context: Context) -> Iterator[Row]:
    """Both methods run for the same number of epochs. It follows from the time of a few steps."""
    if Path(context.videos).exists():
        videos = load(context.videos, context.device)
    elif context.small:
        videos = render(24, 16, context.device)
    else:
        raise Skipped(f"{context.videos} is missing: make it with --prepare")
    options = {} if context.small else {"mixed_precision": "bf16", "batch_size": 64}
    recipe = make_recipe(context, epochs=MOST_EPOCHS, **options)
    batches = EpochBatches(int(videos.is_train.sum()), recipe.batch_size, seed=recipe.seed)
    yield "videos", {"data": videos.name, "train": batches.num_samples, "test": int((~videos.is_train).sum())}

    training = Training(recipe, batches.steps_per_epoch)
    start = time.perf_counter()
    yield "untrained", {"epochs": 0, **evaluate(training, videos)}
    evaluation = time.perf_counter() - start
    _train_epoch(training, videos, batches, 0)  # warms up
    start = time.perf_counter()
    _train_epoch(training, videos, batches, 1)
    epoch = time.perf_counter() - start
    del training
    free_memory()
    affordable = int(((context.left() - 5) / 2 - 2 * evaluation) / (1.1 * epoch))
    epochs = min(max(affordable // CYCLE * CYCLE, CYCLE), CYCLE if context.small else MOST_EPOCHS)
    for name, schedule in METHODS.items():
        if context.left() < epochs * epoch:
            raise Skipped(f"no time left for {epochs} epochs of {name}")
        yield name, _run(replace(recipe, order_schedule=schedule, epochs=epochs), videos, batches)
        free_memory()


def _run(recipe: PretrainingRecipe, videos: Videos, batches: EpochBatches) -> dict[str, Any]:
    training = Training(recipe, batches.steps_per_epoch)
    start = time.perf_counter()
    for epoch in range(recipe.epochs):
        loss = _train_epoch(training, videos, batches, epoch)
    seconds = time.perf_counter() - start
    speed = recipe.epochs * batches.steps_per_epoch * recipe.batch_size / seconds
    values = {"epochs": recipe.epochs, "seconds": seconds, "videos_per_second": speed, "loss": loss}
    return values | evaluate(training, videos)


def _train_epoch(training: Training, videos: Videos, batches: EpochBatches, epoch: int) -> float:
    """Takes the steps of an epoch, and returns their mean loss."""
    recipe = training.recipe
    schedule, augmentation = recipe.build_order_schedule(), recipe.augmentation()
    training_rows = videos.is_train.nonzero().flatten().tolist()
    random, losses = Random(recipe.seed * MOST_EPOCHS + epoch), []
    training.model.train()
    batches.set_epoch(epoch)
    for step, keys in enumerate(batches):
        orders = schedule(epoch, step)
        rows = [training_rows[index] for _, index in keys]
        clips = training_batch(videos, rows, augmentation, recipe.num_frames, schedule.max_order, random)
        losses.append(training.step(clips, orders, epoch * batches.steps_per_epoch + step).loss.detach())
    loss = float(torch.stack(losses).mean())
    synchronize()
    if loss != loss:
        raise FloatingPointError(f"the loss is not finite in epoch {epoch}: lower the learning rate")
    return loss


@torch.no_grad()
def evaluate(training: Training, videos: Videos, batch: int = 64) -> dict[str, float]:
    """Embeds all videos, and returns R@1 and the accuracy of 20-NN. Test videos query training videos by cosine."""
    recipe, encoder = training.recipe, training.network.vididi.eval()
    features = []
    for rows in torch.arange(len(videos.lengths)).split(batch):
        clips = evaluation_batch(videos, rows.tolist(), recipe.image_size, recipe.num_frames, CLIPS)
        frames = training.processor.views(clips.flatten(0, 1), orders=(0,))[0]
        with training.accelerator.autocast():
            pooled = encoder(frames, return_dict=True).pooler_output
        features.append(pooled.float().unflatten(0, (-1, CLIPS)).mean(dim=1).cpu())
    return score(torch.cat(features), videos.labels, videos.is_train)


def score(features: Tensor, labels: Tensor, is_train: Tensor) -> dict[str, float]:
    """Returns R@1 and the accuracy of the weighted vote of 20 neighbors, as `vididi evaluate retrieval` does."""
    gallery, queries = F.normalize(features[is_train], dim=1), F.normalize(features[~is_train], dim=1)
    values, nearest = (queries @ gallery.T).sort(dim=1, descending=True, stable=True)
    found, right = labels[is_train][nearest], labels[~is_train]
    votes = torch.zeros(len(queries), int(labels.max()) + 1)
    weights = (values[:, :NEIGHBORS] / TEMPERATURE).softmax(dim=1)
    votes.scatter_add_(1, found[:, :NEIGHBORS], weights)
    hits = {"R@1": found[:, 0] == right, f"{NEIGHBORS}-NN": votes.argmax(dim=1) == right}
    return {name: float(one.float().mean()) for name, one in hits.items()}
