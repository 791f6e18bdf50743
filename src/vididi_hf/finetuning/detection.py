"""Fine-tuning for action detection: key frames in which each person has a box and one or more labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import datasets
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import record

from vididi_hf.data.saved import DatasetObject, object_name
from vididi_hf.detection.key_frames import class_names, load_key_frames
from vididi_hf.detection.loading import TrainingKeyFrames, collate_key_frames
from vididi_hf.detection.sources import load_test_rows, read_detections
from vididi_hf.detection_vididi import ViDiDiForActionDetection
from vididi_hf.evaluation.detection import build_evaluator, write_results
from vididi_hf.evaluation.results import EvaluationResult
from vididi_hf.files import lock_output_dir
from vididi_hf.finetuning.models import build_augmentation, build_processor, load_classifier
from vididi_hf.finetuning.recipe import DetectionRecipe
from vididi_hf.finetuning.trainer import FinetuningTrainer, print_test, training_arguments


def finetune_detection(recipe: DetectionRecipe, dataset: DatasetObject | None = None) -> EvaluationResult:
    """Fine-tunes an encoder to detect actions, and tests it once after the last epoch.

    Afterwards, `recipe.output_dir` holds the detector for `ViDiDiForActionDetection.from_pretrained`, `metrics.json`
    (the test), `predictions-<input>.csv` (in AVA's format), `detections.png`, `metrics.jsonl` (a line per epoch),
    `finetuning.json` (the recipe), and the last checkpoint of `Trainer` in `checkpoints`.

    Args:
        recipe: All choices of the run.
        dataset: The videos and boxes, as an object of 🤗 Datasets, instead of those of `recipe.dataset`.

    Returns:
        The result of the test, in all processes.

    Raises:
        ValueError: If `output_dir` holds a run and `resume` is False, or data set, model and recipe do not fit.
        FileNotFoundError: If the data set, the model or the file of detections does not exist.
        FloatingPointError: If the loss is not finite.
        BlockingIOError: If another process uses `output_dir`.
        SystemExit: After SIGTERM (status 143) or SIGINT (status 130), once the step is finished and saved.

    Example:
        ```python
        result = finetune_detection(DetectionRecipe(model="runs/mine", dataset_root="data/jhmdb"))
        print(result["primary_metric"])
        ```
    """
    recipe = recipe if dataset is None else replace(recipe, dataset=object_name(dataset))
    arguments = training_arguments(recipe)
    lock = lock_output_dir(recipe.output_dir)
    source, place = dataset or recipe.dataset, recipe.place()
    with arguments.main_process_first(local=False):
        train = load_key_frames(source, split=recipe.train_split, every=recipe.every, **place)
        test = load_test_rows(recipe, source, recipe.test_split, **place)
        if recipe.boxes == "file":  # a wrong file should fail before the training
            read_detections(recipe.detections or "", test, recipe.min_score)
    processor = build_processor(recipe)
    settings = {"problem_type": problem_type(recipe.labels, train), "detection_stride": recipe.detection_stride}
    model = load_classifier(ViDiDiForActionDetection, recipe, class_names(train), **settings)
    samples = TrainingKeyFrames(
        train,
        build_augmentation(recipe, processor),
        recipe.seed,
        num_frames=processor.num_frames,
        stride=processor.frame_stride,
        interval=processor.frame_interval,
        extra_frames=recipe.extra_frames,
    )

    def loss_of(model: nn.Module, frames: Tensor, orders: tuple[int, ...], batch: dict[str, Any]) -> dict[str, Tensor]:
        is_single = settings["problem_type"] == "single_label_classification"
        labels = batch["labels"].argmax(dim=1) if is_single else batch["labels"]
        return {"loss": model(frames, batch["boxes"], labels=labels, derivative_orders=orders).loss}

    with lock:
        trainer = FinetuningTrainer(recipe, arguments, model, processor, samples, collate_key_frames, loss_of)
        trainer.fit()
        result = None
        if trainer.is_world_process_zero():
            evaluator = build_evaluator(recipe, test, processor, trainer.output_dir, **trainer.test_settings())
            result = evaluator(model)
            facts = trainer.describe(result, training_key_frames=len(samples))
            write_results(trainer.output_dir, evaluator, result, recipe.output_dir, facts)
    return broadcast_object_list([result])[0]


@record  # shows the error of the process that failed first, if there are several
def run(recipe: DetectionRecipe) -> None:
    """Runs `vididi detect`."""
    print_test(finetune_detection(recipe), "{key_frames} key frames, {boxes} boxes")


def problem_type(labels: str, rows: datasets.Dataset) -> str:
    """Returns the problem type in the configuration; with "auto", single-label if each box has exactly one label."""
    if labels == "auto":
        labels = "single" if all(len(of_box) == 1 for row in rows["box_labels"] for of_box in row) else "multi"
    return f"{labels}_label_classification"
