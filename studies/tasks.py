"""Fine-tunes the encoder of a run, to recognize actions and to detect them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from studies.runs import Protocol, Run
from vididi_hf.data.options import FRAME_DISTANCES
from vididi_hf.finetuning.recipe import DetectionRecipe, FinetuningRecipe


class Task(NamedTuple):
    """A fine-tuning task: its recipe, the metric of the test, and the name of the metric in tables."""

    recipe: type[Any]
    metric: str
    column: str


TASKS = {
    "recognition": Task(FinetuningRecipe, "top-1", "fine-tuned"),
    "detection": Task(DetectionRecipe, "frame-mAP@0.5", "frame-mAP"),
}
"""By the field of `Protocol` that holds the recipe."""

# The run sets these itself.
_OF_THE_RUN = {
    *("model", "random_init", "dataset", "dataset_root", "train_split", "test_split", "output_dir", "seed"),
    *("num_frames", *FRAME_DISTANCES, "image_size", "num_workers", "resume", "progress"),
}


def check_tasks(protocol: Protocol) -> None:
    """Checks the recipes of a protocol.

    Raises:
        ValueError: If a field does not exist, belongs to the run, or has an impossible value.
    """
    for name, declared in protocol.tasks.items():
        recipe = TASKS[name].recipe
        known = {field.name for field in fields(recipe) if field.init} - _OF_THE_RUN
        if unknown := sorted(set(declared) - known):
            raise ValueError(f"{name} cannot set {', '.join(unknown)}")
        recipe(model="", **declared)


def train_tasks(run: Run, encoder: Path) -> dict[str, dict[str, float]]:
    """Fine-tunes and tests the encoder of a run for each task of its protocol.

    The models stay in the folders `recognition` and `detection` of the run. An interrupted task continues.

    Returns:
        By input, the metric of each task.
    """
    if not run.protocol.tasks:
        return {}
    from vididi_hf.finetuning.detection import finetune_detection
    from vididi_hf.finetuning.recognition import finetune

    train = {"recognition": finetune, "detection": finetune_detection}
    found: dict[str, dict[str, float]] = {}
    for name, declared in run.protocol.tasks.items():
        task = TASKS[name]
        recipe = task.recipe(
            model=str(encoder),
            dataset=run.source.dataset,
            dataset_root=run.source.root,
            train_split=run.source.split,
            output_dir=str(run.folder / name),
            num_frames=run.recipe.num_frames,
            frame_interval=run.recipe.frame_interval,
            frame_stride=run.recipe.frame_stride,
            image_size=run.recipe.image_size,
            num_workers=run.recipe.num_workers,
            seed=run.seed,
            resume=True,
            progress=False,
            **declared,
        )
        for shown, numbers in train[name](recipe).metrics.items():
            found.setdefault(shown, {})[task.column] = numbers[task.metric]
    return found
