"""Action detection: the scores of all classes for the boxes of key frames, and their mean average precision."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import datasets
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as vision
from tqdm.auto import tqdm

from vididi_hf.data.decoding import BrokenVideoError
from vididi_hf.data.readers.ava import EVALUATED_ACTIONS
from vididi_hf.data.workers import ordered_loader
from vididi_hf.detection.key_frames import KeyFrame, KeyFrameReader, class_names, is_ava, names_of
from vididi_hf.detection.sources import ground_truth_boxes
from vididi_hf.detection_vididi import ViDiDiForActionDetection
from vididi_hf.evaluation.classification import own_input, suitable_inputs
from vididi_hf.evaluation.features import evaluation_mode
from vididi_hf.evaluation.inputs import (
    CLASSIFIER_INPUTS,
    ENSEMBLE,
    ENSEMBLE_OF,
    INPUTS,
    check_inputs,
    orders_of,
)
from vididi_hf.evaluation.metrics.ava_map import ava_mean_ap
from vididi_hf.evaluation.metrics.frame_map import frame_mean_ap
from vididi_hf.evaluation.results import EvaluationResult
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


@dataclass
class DetectionEvaluator:
    """Measures what a detector says about persons in given boxes.

    Of each key frame one clip is taken around it, the whole picture, resized so that its shorter side is that of a
    training clip. Every box gets the scores of all classes. Boxes are compared with the ground truth at an IoU of 0.5:
    by the mAP over AVA's 60 evaluated classes for AVA, and otherwise by frame-mAP over the classes of the ground truth.

    Args:
        rows: Key frames, as `load_key_frames` gives them.
        processor: Says frames, stride and size of the clips, and normalizes them.
        boxes: The boxes (boxes, 4) of each row; by default those of the ground truth.
        box_source: Where they come from, for the protocol.
        inputs: What the model is shown, some of "frames", "derivative", "both" and "ensemble"; None means what it was
            trained with.
        batch_size: Clips per forward pass.
        num_workers: Processes that decode.
        progress: Whether to show a progress bar.
        dataset: The name of the data set, for the result.
        split: The split that `rows` are of, for the result.
        iou_threshold: The least overlap of a right box.

    Attributes:
        detections: After a call, by input and name of a key frame `boxes`, `labels` (numbers of the data set's classes)
            and `scores`, one of each for every box and class.
        average_precisions: After a call, by input, the average precision of each class by its name; None for classes
            without ground truth.

    Raises:
        ValueError: If no row has a box in the ground truth, two have one name, the numbers of rows differ, or an input
            is unknown.

    Source: frame-mAP (Gkioxari and Malik, 2015) with given boxes; AVA (Gu et al., 2018).
    """

    rows: datasets.Dataset
    processor: ViDiDiVideoProcessor
    boxes: Sequence[Tensor] | None = None
    box_source: str = "ground_truth"
    inputs: Sequence[str] | None = None
    batch_size: int = 16
    num_workers: int = 0
    progress: bool = False
    dataset: str = "unknown"
    split: str = "test"
    iou_threshold: float = 0.5

    detections: dict[str, dict[KeyFrame, dict[str, list]]] = field(init=False, default_factory=dict)
    average_precisions: dict[str, dict[str, float | None]] = field(init=False, default_factory=dict)

    task: ClassVar[str] = "detection"
    greater_is_better: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not any(self.rows["boxes"]):
            raise ValueError("no key frame has a box in the ground truth: there is nothing to be found")
        seen: set[KeyFrame] = set()
        for name in names_of(self.rows):
            if name in seen:
                raise ValueError(f"two key frames are called {name[0]}, {name[1]}: give their videos different names")
            seen.add(name)
        if self.boxes is not None and len(self.boxes) != len(self.rows):
            raise ValueError(f"got the boxes of {len(self.boxes)} key frames for {len(self.rows)} rows")
        if self.inputs is not None:
            check_inputs(self.inputs, CLASSIFIER_INPUTS)

    @property
    def primary_metric(self) -> str:
        """The name of the metric."""
        return f"{'mAP' if is_ava(self.rows) else 'frame-mAP'}@{self.iou_threshold:g}"

    def __call__(self, model: ViDiDiForActionDetection) -> EvaluationResult:
        """Scores the boxes of every key frame.

        Raises:
            ValueError: If no key frame can be decoded, the model lacks a class, or it cannot be shown an input.
        """
        inputs = [own_input(model)] if self.inputs is None else list(self.inputs)
        boxes = ground_truth_boxes(self.rows) if self.boxes is None else self.boxes
        scores, broken = self.score(model, boxes, inputs)
        names, classes = names_of(self.rows), class_names(self.rows)
        metrics = {}
        for name in inputs:
            parts = ENSEMBLE_OF if name == ENSEMBLE else (name,)
            found = [torch.stack([scores[part][row] for part in parts]).mean(0) for row in range(len(names))]
            self.detections[name] = {key: _as_detections(*pair) for key, *pair in zip(names, boxes, found)}
            mean, precisions = self._measure(self.detections[name])
            metrics[name] = {self.primary_metric: mean}
            self.average_precisions[name] = {
                classes[number]: None if math.isnan(value) else value for number, value in precisions.items()
            }
        return EvaluationResult(
            self.task,
            metrics,
            {
                "key_frames": len(names),
                "boxes": sum(map(len, boxes)),
                "box_source": self.box_source,
                "classes": len(classes),
                "evaluated_classes": len([value for value in precisions.values() if not math.isnan(value)]),
                "scores": "softmax" if _is_single_label(model) else "sigmoid",
                "trained_input": own_input(model),
                "clips_per_key_frame": 1,
                "frames_per_clip": self.processor.num_frames,
                "frame_stride": self.processor.frame_stride,
                "shorter_side": _shorter_side(self.processor),
                "crop": "none",
                "detection_stride": model.config.detection_stride,
                "failed_videos": sorted(broken),
            },
            primary=self.primary_metric,
            greater_is_better=self.greater_is_better,
            dataset=self.dataset,
            split=self.split,
        )

    @torch.no_grad()
    def score(
        self, model: ViDiDiForActionDetection, boxes: Sequence[Tensor], inputs: Sequence[str]
    ) -> tuple[dict[str, list[Tensor]], dict[str, str]]:
        """Computes the probabilities of all classes for boxes.

        Args:
            model: The detector; it is in evaluation mode meanwhile.
            boxes: The boxes (boxes, 4) of each row.
            inputs: What the model is shown.

        Returns:
            For each of `single_inputs(inputs)` and each row float32 (boxes, classes of the data set); and the reasons
            why videos could not be decoded, by their names. The boxes of such a video have the score 0.
        """
        names = suitable_inputs(model, inputs)
        order = _class_order(self.rows, model)
        wanted = [index for index, one in enumerate(boxes) if len(one)]
        scores = {name: [torch.zeros(len(one), len(order)) for one in boxes] for name in names}
        clips = EvaluationKeyFrames(self.rows, self.processor, wanted, max(orders_of(names)))
        num_frames = self.processor.num_frames
        probabilities = torch.Tensor.softmax if _is_single_label(model) else _sigmoid
        with evaluation_mode(model):
            for rows, batch in clips.batches(self.batch_size, self.num_workers, self.progress):
                frames = self.processor.views(batch.to(model.device, non_blocking=True), orders=(0,))[0].to(model.dtype)
                of_rows = [boxes[row].to(model.device) for row in rows]
                for name in names:
                    orders = INPUTS[name]
                    # Every input gets as many frames as it needs for clips of one length.
                    shown = frames[:, : num_frames + max(orders)]
                    logits = model(shown, of_rows, derivative_orders=orders).logits
                    found = probabilities(logits.float(), -1).cpu()[:, order]
                    for row, part in zip(rows, found.split([len(one) for one in of_rows])):
                        scores[name][row] = part
        return scores, clips.broken

    def _measure(self, detections: dict[KeyFrame, dict[str, list]]) -> tuple[float, dict[int, float]]:
        """The mean average precision, and that of each class by its number."""
        truth = [
            {
                "boxes": [box for box, labels in zip(row["boxes"], row["box_labels"]) for _ in labels],
                "labels": [label for labels in row["box_labels"] for label in labels],
            }
            for row in self.rows.select_columns(["boxes", "box_labels"])
        ]
        if not is_ava(self.rows):
            return frame_mean_ap(list(detections.values()), truth, self.iou_threshold)
        evaluated = [number - 1 for number in EVALUATED_ACTIONS]
        return ava_mean_ap(detections, dict(zip(detections, truth)), evaluated, iou_threshold=self.iou_threshold)


class EvaluationKeyFrames(Dataset):
    """The clips around key frames, resized in the workers but still `uint8`.

    Args:
        rows: Key frames.
        processor: Says frames, stride and size.
        wanted: The rows that are needed.
        extra_frames: Extra frames per clip, which derivatives use up.

    Attributes:
        broken: Videos that could not be decoded, with the reasons; filled while `batches` is iterated.
    """

    def __init__(
        self, rows: datasets.Dataset, processor: ViDiDiVideoProcessor, wanted: Sequence[int], extra_frames: int
    ) -> None:
        self.reader = KeyFrameReader(rows, processor.num_frames, processor.frame_stride, extra_frames)
        self.wanted = wanted
        self.side = _shorter_side(processor)
        self.broken: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, place: int) -> tuple[int, Tensor | None, dict[str, str]]:
        row = self.wanted[place]
        try:
            clip, _ = self.reader.read(row)
        except BrokenVideoError as error:
            return row, None, {error.source: error.reason}
        height, width = clip.shape[-2:]
        scale = self.side / min(height, width)
        return row, vision.resize(clip, [round(height * scale), round(width * scale)], antialias=True), {}

    def batches(self, batch_size: int, num_workers: int, progress: bool) -> Iterator[tuple[list[int], Tensor]]:
        """Iterates over the key frames that can be decoded, those of one size together.

        Yields:
            The rows, and uint8 (rows, frames + extra_frames, 3, height, width).

        Raises:
            ValueError: At the end, if no video could be decoded.
        """
        loader = ordered_loader(self, batch_size, num_workers)
        decoded = 0
        with tqdm(total=len(self), desc="detection", unit="frame", disable=not progress) as bar:
            for samples in loader:
                by_size: dict[torch.Size, list[tuple[int, Tensor]]] = {}
                for row, clip, broken in samples:
                    self.broken |= broken
                    if clip is not None:
                        by_size.setdefault(clip.shape, []).append((row, clip))
                        decoded += 1
                for group in by_size.values():
                    yield [row for row, _ in group], torch.stack([clip for _, clip in group])
                bar.update(len(samples))
        if self.wanted and not decoded:
            examples = "; ".join(f"{name}: {reason}" for name, reason in list(self.broken.items())[:3])
            raise ValueError(f"none of the {len(self.broken)} videos can be decoded: {examples}")


def _shorter_side(processor: ViDiDiVideoProcessor) -> int:
    crop: Any = processor.crop_size
    return crop["height"]


def _is_single_label(model: ViDiDiForActionDetection) -> bool:
    return model.config.problem_type == "single_label_classification"


def _sigmoid(logits: Tensor, _: int) -> Tensor:
    return logits.sigmoid()


def _class_order(rows: datasets.Dataset, model: ViDiDiForActionDetection) -> list[int]:
    """The model's number of each class of the data set."""
    number_of = {str(name): int(number) for number, name in (model.config.id2label or {}).items()}
    names = class_names(rows)
    if unknown := [name for name in names if name not in number_of]:
        raise ValueError(
            f"{len(unknown)} classes of the data set are none of the model's {len(number_of)}: {', '.join(unknown[:5])}"
        )
    return [number_of[name] for name in names]


def _as_detections(boxes: Tensor, scores: Tensor) -> dict[str, list]:
    """One detection for every box and class."""
    num_classes = scores.shape[1]
    return {
        "boxes": boxes.repeat_interleave(num_classes, dim=0).tolist(),
        "labels": list(range(num_classes)) * len(boxes),
        "scores": scores.flatten().tolist(),
    }
