"""Fine-tuning to recognize actions: the task of videos that have one label each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.data.loading import ClipLoader, TrainingClips
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.evaluation.classification import ClassificationEvaluator, class_numbers
from vididi_hf.evaluation.features import with_class_labels
from vididi_hf.evaluation.results import METRICS_JSON, EvaluationResult, dataset_name, report_of, write_report
from vididi_hf.finetuning.loop import Task, run
from vididi_hf.finetuning.models import build_processor, load_classifier
from vididi_hf.finetuning.recipe import FinetuningRecipe
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


def finetune(recipe: FinetuningRecipe) -> EvaluationResult:
    """Trains a classifier of actions on a pretrained encoder and tests it once, after the last epoch.

    `recipe.output_dir` then holds what `ViDiDiForVideoClassification.from_pretrained` and `pipeline` load, with
    `metrics.json` (the test), `metrics.jsonl` (a line per epoch) and `finetuning.json` (the recipe) beside it.

    Args:
        recipe: All choices of the run.

    Returns:
        The result of the test; in processes other than the main one, that of the main one.

    Raises:
        ValueError: If `output_dir` holds a run that shall not be resumed, or data set, model and recipe do not fit.
        FileNotFoundError: If there is no such data set or model.
        FloatingPointError: If the loss is no longer finite.

    Example:
        ```python
        from vididi_hf.finetuning.recipe import FinetuningRecipe
        from vididi_hf.finetuning.recognition import finetune

        result = finetune(FinetuningRecipe(model="runs/mine", dataset="clips.csv", output_dir="runs/classifier"))
        print(result["primary_metric"])
        ```
    """
    return run(recipe, Recognition)


class Recognition(Task):
    """Recognition of actions as a task of fine-tuning.

    Args:
        recipe: All choices of the run.
        accelerator: Knows device and processes.

    Raises:
        ValueError: If the videos have no labels, or the checkpoint is no ViDiDi model.
        FileNotFoundError: If there is no such data set or model.
    """

    title, unit = "fine-tuning", "videos"

    model: ViDiDiForVideoClassification

    def __init__(self, recipe: FinetuningRecipe, accelerator: Accelerator) -> None:
        with accelerator.main_process_first():  # in case it has to be made or downloaded
            self.train_rows, self.test_rows = load_splits(recipe)
        processor = build_processor(recipe)
        model = load_classifier(
            ViDiDiForVideoClassification,
            recipe,
            names_of_classes(self.train_rows),
            accelerator,
            problem_type="single_label_classification",
        )
        super().__init__(model, processor, build_loader(recipe, self.train_rows, processor, accelerator))
        self.recipe = recipe
        self.labels = class_numbers(self.train_rows, model).to(accelerator.device)

    def losses(
        self, model: nn.Module, frames: Tensor, orders: tuple[int, ...], batch: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Cross-entropy, and the share of videos whose class got the highest score."""
        # Of the videos that were read: a broken one has been replaced.
        targets = self.labels[batch["rows"].to(self.labels.device)]
        logits = model(frames, derivative_orders=orders).logits.float()
        loss = F.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing or 0.0)
        return {"loss": loss, "train_accuracy": (logits.argmax(dim=1) == targets).float().mean()}

    def test(self) -> EvaluationResult:
        """Classifies the test videos."""
        evaluator = ClassificationEvaluator(
            self.test_rows,
            self.processor,
            inputs=self.recipe.test_inputs,
            num_clips=self.recipe.test_clips,
            batch_size=self.recipe.test_batch_size,
            num_workers=self.recipe.num_workers,
            progress=self.recipe.progress,
            dataset=dataset_name(self.recipe.dataset),
            split=self.recipe.test_split,
        )
        result = evaluator(self.model)
        result.protocol |= {"training_videos": len(self.train_rows), "preset": self.recipe.preset}
        return result

    def write(self, folder: Path, result: EvaluationResult, facts: Mapping[str, Any]) -> None:
        """Writes `metrics.json`."""
        write_report(folder / METRICS_JSON, report_of(result, str(folder), **facts))


def load_splits(recipe: FinetuningRecipe) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Loads the videos to learn and to test on, their labels numbered alike.

    Raises:
        ValueError: If they have no labels.
    """
    splits = [
        load_video_dataset(recipe.dataset, root=recipe.dataset_root, split=split)
        for split in (recipe.train_split, recipe.test_split)
    ]
    for rows, split in zip(splits, (recipe.train_split, recipe.test_split)):
        if "label" not in rows.column_names:
            raise ValueError(f"fine-tuning needs labels, and the split {split!r} of {recipe.dataset} has none")
    return with_class_labels(*splits)


def names_of_classes(rows: datasets.Dataset) -> list[str]:
    """Returns the names of the classes; their numbers where they have no names."""
    kind = rows.features["label"]
    return kind.names if isinstance(kind, datasets.ClassLabel) else list(map(str, range(max(rows["label"]) + 1)))


def build_loader(
    recipe: FinetuningRecipe, train: datasets.Dataset, processor: ViDiDiVideoProcessor, accelerator: Accelerator
) -> ClipLoader:
    """Builds the loader of one augmented clip a video."""
    assert recipe.batch_size is not None
    crop: Any = processor.crop_size
    clips = TrainingClips(
        train,
        num_clips=1,
        num_frames=processor.num_frames,
        frame_stride=processor.frame_stride,
        extra_frames=recipe.extra_frames,
        augmentation=recipe.augmentation(crop["height"]),
        seed=recipe.seed,
    )
    return ClipLoader(
        clips,
        recipe.batch_size,
        num_workers=recipe.num_workers,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        pin_memory=accelerator.device.type == "cuda",
    )
