"""Fine-tuning for action recognition: videos that have one label each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import datasets
import torch.nn.functional as F
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import record

from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.data.loading import TrainingClips, collate_clips
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.data.saved import DatasetObject, object_name
from vididi_hf.evaluation.classification import ClassificationEvaluator, class_numbers
from vididi_hf.evaluation.features import with_class_labels
from vididi_hf.evaluation.results import METRICS_JSON, EvaluationResult, report_of, write_report
from vididi_hf.files import lock_output_dir
from vididi_hf.finetuning.models import build_augmentation, build_processor, load_classifier
from vididi_hf.finetuning.recipe import FinetuningRecipe
from vididi_hf.finetuning.trainer import FinetuningTrainer, print_test, training_arguments


def finetune(recipe: FinetuningRecipe, dataset: DatasetObject | None = None) -> EvaluationResult:
    """Fine-tunes an encoder to classify actions, and tests it once after the last epoch.

    Afterwards, `recipe.output_dir` holds the classifier for `ViDiDiForVideoClassification.from_pretrained` and
    `pipeline`, `metrics.json` (the test), `metrics.jsonl` (a line per epoch), `finetuning.json` (the recipe), and the
    last checkpoint of `Trainer` in `checkpoints`.

    Args:
        recipe: All choices of the run.
        dataset: The labeled videos, as an object of 🤗 Datasets, instead of those of `recipe.dataset`.

    Returns:
        The result of the test, in all processes.

    Raises:
        ValueError: If `output_dir` holds a run and `resume` is False, or data set, model and recipe do not fit.
        FileNotFoundError: If the data set or the model does not exist.
        FloatingPointError: If the loss is not finite.
        BlockingIOError: If another process uses `output_dir`.
        SystemExit: After SIGTERM (status 143) or SIGINT (status 130), once the step is finished and saved.

    Example:
        ```python
        result = finetune(FinetuningRecipe(model="runs/mine", dataset="clips.csv", output_dir="runs/classifier"))
        print(result["primary_metric"])
        ```
    """
    recipe = recipe if dataset is None else replace(recipe, dataset=object_name(dataset))
    arguments = training_arguments(recipe)
    lock = lock_output_dir(recipe.output_dir)
    with arguments.main_process_first(local=False):  # generates or downloads the data set once
        train, test = load_splits(recipe, dataset)
    kind = train.features["label"]
    numbers = range(max(*train["label"], *test["label"]) + 1)
    names = kind.names if isinstance(kind, datasets.ClassLabel) else list(map(str, numbers))
    processor = build_processor(recipe)
    model = load_classifier(ViDiDiForVideoClassification, recipe, names, problem_type="single_label_classification")
    sampling = ("num_frames", "frame_stride", "frame_interval")
    shape: dict[str, Any] = {name: getattr(processor, name) for name in sampling}
    shape["extra_frames"] = recipe.extra_frames
    augmentation = build_augmentation(recipe, processor)
    samples = TrainingClips(train, num_clips=1, augmentation=augmentation, seed=recipe.seed, **shape)
    labels = class_numbers(train, model).to(arguments.device)

    def loss_of(model: nn.Module, frames: Tensor, orders: tuple[int, ...], batch: dict[str, Any]) -> dict[str, Tensor]:
        targets = labels[batch["rows"]]  # of the videos that were decoded: a substitute has its own label
        logits = model(frames, derivative_orders=orders).logits.float()
        loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing or 0.0)
        return {"loss": loss, "train_accuracy": (logits.argmax(dim=1) == targets).float().mean()}

    with lock:
        trainer = FinetuningTrainer(recipe, arguments, model, processor, samples, collate_clips, loss_of)
        trainer.fit()
        result = None
        if trainer.is_world_process_zero():
            settings = trainer.test_settings()
            result = ClassificationEvaluator(test, processor, num_clips=recipe.test_clips, **settings)(model)
            facts = trainer.describe(result, training_videos=len(train), preset=recipe.preset)
            write_report(trainer.output_dir / METRICS_JSON, report_of(result, recipe.output_dir, **facts))
    return broadcast_object_list([result])[0]


@record  # shows the error of the process that failed first, if there are several
def run(recipe: FinetuningRecipe) -> None:
    """Runs `vididi finetune`."""
    print_test(finetune(recipe), "{videos} test videos, {classes} classes")


def load_splits(
    recipe: FinetuningRecipe, dataset: DatasetObject | None = None
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Loads the training and the test split, with the same class numbers."""
    rows = []
    for split in (recipe.train_split, recipe.test_split):
        rows.append(load_video_dataset(dataset or recipe.dataset, **recipe.place(), split=split))
        if "label" not in rows[-1].column_names:
            raise ValueError(f"fine-tuning needs labels, and the split {split!r} of {recipe.dataset} has none")
    return with_class_labels(*rows)
