"""What an encoder is worth as a beginning: fine-tuned to recognize actions, and to detect them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from studies.runs import Protocol, Run
from vididi_hf.evaluation.results import EvaluationResult
from vididi_hf.finetuning.detection import finetune_detection
from vididi_hf.finetuning.recipe import DetectionRecipe, FinetuningRecipe
from vididi_hf.finetuning.recognition import finetune


class LabelledTask(NamedTuple):
    """A task that an encoder is trained for with labels.

    Attributes:
        recipe: The class of its recipe.
        train: Trains by a recipe, and tests.
        metric: Which metric of the test counts.
        column: What it is called among the numbers of a run.
    """

    recipe: type[FinetuningRecipe]
    train: Callable[[Any], EvaluationResult]
    metric: str
    column: str


TASKS = {
    "recognition": LabelledTask(FinetuningRecipe, finetune, "top-1", "fine-tuned"),
    "detection": LabelledTask(DetectionRecipe, finetune_detection, "frame-mAP@0.5", "frame-mAP"),
}
"""By the field of `Protocol` that has its recipe."""

# What each run says itself, of its encoder and its videos.
_OF_THE_RUN = {
    *("model", "random_init", "dataset", "dataset_root", "train_split", "test_split", "output_dir", "seed"),
    *("num_frames", "frame_stride", "image_size", "num_workers", "resume", "progress"),
}


def check_tasks(protocol: Protocol) -> None:
    """Checks that recipes of tasks can be.

    Raises:
        ValueError: If one sets what does not exist, what each run says itself, or an impossible value.
    """
    for name, declared in protocol.tasks.items():
        task = TASKS[name]
        known = {field.name for field in fields(task.recipe) if field.init} - _OF_THE_RUN
        if unknown := sorted(set(declared) - known):
            raise ValueError(f"{name} sets what no grid can: {', '.join(unknown)}")
        task.recipe(model="", **declared)


def train_tasks(run: Run, encoder: Path) -> dict[str, dict[str, float]]:
    """Trains the encoder of a run for each task of its protocol, and tests it.

    The classifier and its reports are left in the folder `recognition` or `detection` of the run. A task that was
    interrupted continues after its last whole epoch.

    Args:
        run: The run; its videos have the splits `train` and `test`.
        encoder: Where its encoder lies.

    Returns:
        By input, the metric of each task.

    Raises:
        ValueError: If the videos have no labels, or no boxes for detection, or the folder holds another recipe's run.
    """
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
            frame_stride=run.recipe.frame_stride,
            image_size=run.recipe.image_size,
            num_workers=run.recipe.num_workers,
            seed=run.seed,
            resume=True,
            progress=False,
            **declared,
        )
        for shown, numbers in task.train(recipe).metrics.items():
            found.setdefault(shown, {})[task.column] = numbers[task.metric]
    return found
