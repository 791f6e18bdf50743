"""Action recognition by a fine-tuned classifier: the mean probabilities of several clips per video."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import datasets
import torch
from torch import Tensor

from vididi_hf.classification_vididi import ViDiDiClassifier, ViDiDiForVideoClassification
from vididi_hf.data.registry import rows_of
from vididi_hf.evaluation.checks import count_unlabeled
from vididi_hf.evaluation.features import EvaluationClips, evaluation_mode, label_names
from vididi_hf.evaluation.inputs import (
    CLASSIFIER_INPUTS,
    INPUTS,
    check_inputs,
    orders_of,
    sampling_facts,
    single_inputs,
)
from vididi_hf.evaluation.metrics.accuracy import score_inputs
from vididi_hf.evaluation.results import EvaluationResult
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


@dataclass
class ClassificationEvaluator:
    """Classifies the videos of a data set by the mean of the probabilities of their clips.

    Clips are evenly spaced and cropped at the center. Labels are matched by name.

    Args:
        videos: The labeled test videos, or a data set whose `split` they are.
        processor: Defines length, stride and size of the clips.
        inputs: Some of "frames", "derivative", "both" (which needs a model of both) and "ensemble". Default: the input
            of the training.
        num_clips: Clips per video.
        batch_size: Videos per forward pass.
        num_workers: Processes that decode videos.
        progress: Whether to show a progress bar.
        dataset: The name of the data set, for the result.
        split: The split of `videos`, for the result.

    Raises:
        ValueError: If the data set has no labels, an input is unknown, or, when called, no video can be decoded or
            a label or an input does not fit the model.

    Source: the usual protocol for fine-tuned networks: 10 clips, center crop, mean of softmax.

    Example:
        >>> from vididi_hf import ViDiDiConfig, ViDiDiForVideoClassification, ViDiDiVideoProcessor, load_video_dataset
        >>> rows = load_video_dataset("motion", split="test", num_train=8, num_test=8)
        >>> names = dict(enumerate(rows.features["label"].names))
        >>> config = ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1), id2label=names)
        >>> model = ViDiDiForVideoClassification(config)
        >>> processor = ViDiDiVideoProcessor(size=32, crop_size=32)
        >>> result = ClassificationEvaluator(rows, processor, inputs=("frames", "ensemble"), num_clips=2)(model)
        >>> sorted(result["metrics"]["ensemble"]), result["protocol"]["videos"]
        (['mean-class', 'top-1', 'top-5'], 8)
    """

    videos: datasets.Dataset
    processor: ViDiDiVideoProcessor
    inputs: Sequence[str] | None = None
    num_clips: int = 10
    batch_size: int = 4
    num_workers: int = 0
    progress: bool = False
    dataset: str = "unknown"
    split: str = "test"

    task: ClassVar[str] = "classification"
    primary_metric: ClassVar[str] = "top-1"

    def __post_init__(self) -> None:
        self.videos = rows_of(self.videos, self.split)
        if "label" not in self.videos.column_names:
            raise ValueError("classification needs labels, and the data set has no column 'label'")
        if missing := count_unlabeled(self.videos):
            raise ValueError(f"{missing} of {len(self.videos)} videos have no label")
        if self.inputs is not None:
            check_inputs(self.inputs, CLASSIFIER_INPUTS)

    def __call__(self, model: ViDiDiForVideoClassification) -> EvaluationResult:
        """Classifies every video."""
        inputs = [own_input(model)] if self.inputs is None else self.inputs
        labels = class_numbers(self.videos, model)
        probabilities, rows, broken = self.classify(model, inputs)
        protocol = {
            "videos": len(rows),
            "classes": model.config.num_labels,
            "trained_input": own_input(model),
            "clips_per_video": self.num_clips,
            **sampling_facts(self.processor),
            "crop": "center",
            "clips_combined": "mean of softmax",
            "failed_videos": sorted(broken),
        }
        metrics = score_inputs(inputs, probabilities, labels[rows])
        return EvaluationResult(
            self.task, metrics, protocol, self.primary_metric, dataset=self.dataset, split=self.split
        )

    @torch.no_grad()
    def classify(
        self, model: ViDiDiForVideoClassification, inputs: Sequence[str]
    ) -> tuple[dict[str, Tensor], Tensor, dict[str, str]]:
        """Returns the probabilities (videos, classes) of each single input, the videos' rows, and why others failed."""
        names = suitable_inputs(model, inputs)
        clips = EvaluationClips(self.videos, self.processor, self.num_clips, max(orders_of(names)))
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        rows: list[int] = []
        with evaluation_mode(model):
            for batch_rows, batch in clips.batches(self.batch_size, self.num_workers, self.progress, "classification"):
                rows += batch_rows
                for name, logits in logits_by_input(model, self.processor, batch.flatten(0, 1), names):
                    found[name].append(logits.softmax(-1).unflatten(0, (len(batch_rows), -1)).mean(1).cpu())
        return {name: torch.cat(parts) for name, parts in found.items()}, torch.tensor(rows), clips.broken


def logits_by_input(
    model: ViDiDiClassifier, processor: ViDiDiVideoProcessor, clips: Tensor, names: Sequence[str], *boxes: list[Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Yields each single input and its float32 logits of uint8 clips (clips, frames, 3, height, width)."""
    frames = processor.views(clips.to(model.device, non_blocking=True), orders=(0,))[0].to(model.dtype)
    for name in names:
        # Derivatives use up frames; the clips of all inputs have the same length.
        shown = frames[:, : processor.num_frames + max(INPUTS[name])]
        yield name, model(shown, *boxes, derivative_orders=INPUTS[name]).logits.float()


def own_input(model: ViDiDiClassifier) -> str:
    """Returns the name of the input that a model was trained with."""
    names = {orders: name for name, orders in INPUTS.items()}
    if (own := tuple(model.config.classifier_orders)) not in names:
        raise ValueError(f"the model's classifier_orders {own} are not one of {INPUTS}")
    return names[own]


def suitable_inputs(model: ViDiDiClassifier, inputs: Sequence[str]) -> list[str]:
    """Returns `single_inputs(inputs)`; a ValueError says if the model takes another number of views."""
    names = single_inputs(inputs)
    for name in names:
        if len(INPUTS[name]) != len(model.config.classifier_orders):
            raise ValueError(f"a model that was trained with {own_input(model)!r} does not accept {name!r}")
    return names


def class_numbers(rows: datasets.Dataset, model: ViDiDiForVideoClassification) -> Tensor:
    """Returns the model's class of each video, (videos,). Labels are matched by name, integers are class numbers."""
    kind = rows.features["label"]
    return torch.tensor(match_names(label_names(rows), model, isinstance(kind, datasets.Value) and "int" in kind.dtype))


def match_names(names: Sequence[str], model: ViDiDiClassifier, are_numbers: bool = False) -> list[int]:
    """Returns the model's number of each class."""
    number_of = {str(name): int(number) for number, name in (model.config.id2label or {}).items()}
    if are_numbers:
        number_of = {str(number): number for number in number_of.values()}
    if unknown := sorted(set(names) - set(number_of)):
        raise ValueError(
            f"{len(unknown)} labels of the data set are not among the model's {len(number_of)} classes "
            f"({', '.join(list(number_of)[:5])}, ...): {', '.join(unknown[:5])}"
        )
    return [number_of[name] for name in names]
