"""Training a detector: the task of key frames in which each person has a box and one label or several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from accelerate import Accelerator
from torch import Tensor, nn

from vididi_hf.detection.key_frames import class_names, load_key_frames
from vididi_hf.detection.loading import KeyFrameLoader, TrainingKeyFrames
from vididi_hf.detection_vididi import ViDiDiForActionDetection
from vididi_hf.evaluation.detection_results import build_evaluator, write_results
from vididi_hf.evaluation.results import EvaluationResult, dataset_name
from vididi_hf.finetuning.detection_recipe import DetectionRecipe
from vididi_hf.finetuning.loop import Task, run
from vididi_hf.finetuning.models import build_processor, load_classifier
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


def finetune_detection(recipe: DetectionRecipe) -> EvaluationResult:
    """Trains a detector of actions on a pretrained encoder and tests it once, after the last epoch.

    `recipe.output_dir` then holds what `ViDiDiForActionDetection.from_pretrained` loads, with `metrics.json` (the
    test), `predictions-<input>.csv` (in AVA's format), `detections.png`, `metrics.jsonl` (a line per epoch) and
    `finetuning.json` (the recipe) beside it.

    Args:
        recipe: All choices of the run.

    Returns:
        The result of the test; in processes other than the main one, that of the main one.

    Raises:
        ValueError: If `output_dir` holds a run that shall not be resumed, or data set, model and recipe do not fit.
        FileNotFoundError: If there is no such data set, model or file of detections.
        FloatingPointError: If the loss is no longer finite.
    """
    return run(recipe, Detection)


class Detection(Task):
    """Action detection as a task of fine-tuning.

    Args:
        recipe: All choices of the run.
        accelerator: Knows device and processes.

    Raises:
        ValueError: If the data set has no boxes, or the checkpoint is no ViDiDi model.
        FileNotFoundError: If there is no such data set, model or file of detections.
    """

    title, unit = "training the detector", "key frames"

    model: ViDiDiForActionDetection

    def __init__(self, recipe: DetectionRecipe, accelerator: Accelerator) -> None:
        where = recipe.dataset, recipe.dataset_root
        train = load_key_frames(where[0], root=where[1], split=recipe.train_split, every=recipe.every)
        self.test_rows = recipe.load_test_rows(*where, recipe.test_split)
        processor = build_processor(recipe)
        model = load_classifier(
            ViDiDiForActionDetection,
            recipe,
            class_names(train),
            accelerator,
            problem_type=problem_type(recipe.labels, train),
            detection_stride=recipe.detection_stride,
        )
        self.samples = training_key_frames(recipe, train, processor)
        super().__init__(model, processor, build_loader(recipe, self.samples, accelerator))
        self.recipe = recipe

    def losses(
        self, model: nn.Module, frames: Tensor, orders: tuple[int, ...], batch: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """The loss of all persons: cross-entropy where each does one thing, otherwise one for each class."""
        boxes = [one.to(frames.device) for one in batch["boxes"]]
        labels = batch["labels"].to(frames.device)
        if self.model.config.problem_type == "single_label_classification":
            labels = labels.argmax(dim=1)
        return {"loss": model(frames, boxes, labels=labels, derivative_orders=orders).loss}

    def test(self) -> EvaluationResult:
        """Scores the boxes of the test's key frames."""
        recipe = self.recipe
        settings: dict[str, Any] = {
            "inputs": recipe.test_inputs,
            "batch_size": recipe.test_batch_size,
            "num_workers": recipe.num_workers,
            "progress": recipe.progress,
            "dataset": dataset_name(recipe.dataset),
            "split": recipe.test_split,
        }
        self.evaluator = build_evaluator(recipe, self.test_rows, self.processor, Path(recipe.output_dir), **settings)
        result = self.evaluator(self.model)
        result.protocol |= {"training_key_frames": len(self.samples)}
        return result

    def write(self, folder: Path, result: EvaluationResult, facts: Mapping[str, Any]) -> None:
        """Writes `metrics.json`, predictions and picture."""
        write_results(folder, self.evaluator, result, str(folder), facts)


def training_key_frames(
    recipe: DetectionRecipe, rows: datasets.Dataset, processor: ViDiDiVideoProcessor
) -> TrainingKeyFrames:
    """Builds the samples: an augmented clip around each key frame."""
    crop: Any = processor.crop_size
    return TrainingKeyFrames(
        rows,
        num_frames=processor.num_frames,
        stride=processor.frame_stride,
        extra_frames=recipe.extra_frames,
        augmentation=recipe.box_augmentation(crop["height"]),
        seed=recipe.seed,
    )


def build_loader(recipe: DetectionRecipe, samples: TrainingKeyFrames, accelerator: Accelerator) -> KeyFrameLoader:
    """Builds the loader of the samples."""
    assert recipe.batch_size is not None
    return KeyFrameLoader(
        samples,
        recipe.batch_size,
        num_workers=recipe.num_workers,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        pin_memory=accelerator.device.type == "cuda",
    )


def problem_type(labels: str, rows: datasets.Dataset) -> str:
    """Says which kind of problem the boxes are: with `"auto"`, several labels unless each box has exactly one."""
    if labels == "auto":
        labels = "single" if all(len(of_box) == 1 for row in rows["box_labels"] for of_box in row) else "multi"
    return f"{labels}_label_classification"
