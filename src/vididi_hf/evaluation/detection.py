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
from vididi_hf.evaluation.inputs import CLASSIFIER_INPUTS, ENSEMBLE, ENSEMBLE_OF, INPUTS, check_inputs, orders_of
from vididi_hf.evaluation.metrics import AVAMeanAP, FrameMeanAP
from vididi_hf.evaluation.results import EvaluationResult
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


@dataclass
class DetectionEvaluator:
    """Measures how well a detector classifies the people in given boxes.

    The detector sees one clip around each key frame: the whole frame, resized so that its shorter side is that of a
    training clip. Every box gets the scores of all classes. A box is right if its IoU with the ground truth is at
    least 0.5. The metric is the mAP over AVA's 60 evaluated classes for AVA, and frame-mAP otherwise.

    Args:
        rows: Key frames, from `load_key_frames`.
        processor: Defines frames, stride and size of the clips, and normalizes them.
        boxes: The boxes (boxes, 4) of each row. Default: the ground truth.
        box_source: The source of the boxes, for the protocol.
        inputs: What the detector sees, some of "frames", "derivative", "both" and "ensemble". Default: the input of
            its training.
        batch_size: Clips per forward pass.
        num_workers: Processes that decode.
        progress: Whether to show a progress bar.
        dataset: Name of the data set, for the result.
        split: Split of `rows`, for the result.
        iou_threshold: Lowest IoU of a right box.

    Attributes:
        detections: After a call, by input and key frame, `boxes`, `labels` (class numbers of the data set) and
            `scores`, with one entry for every box and class.
        average_precisions: After a call, by input, the average precision of each class; None without ground truth.

    Raises:
        ValueError: If the ground truth has no box, two rows have the same name, or an argument does not fit.

    Source: frame-mAP (Gkioxari and Malik, 2015) with given boxes; AVA (Gu et al., 2018).

    Example:
        ```python
        rows = load_key_frames("jhmdb", root="data/jhmdb", split="test", every=10)
        model = ViDiDiForActionDetection.from_pretrained("runs/detector")
        processor = ViDiDiVideoProcessor.from_pretrained("runs/detector")
        print(DetectionEvaluator(rows, processor)(model)["primary_metric"])
        ```
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
            raise ValueError("no key frame has a box in the ground truth")
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
            ValueError: If no key frame can be decoded, the model lacks a class, or does not accept an input.
        """
        inputs = [own_input(model)] if self.inputs is None else list(self.inputs)
        boxes = ground_truth_boxes(self.rows) if self.boxes is None else self.boxes
        scores, broken = self._score(model, boxes, inputs)
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
    def _score(
        self, model: ViDiDiForActionDetection, boxes: Sequence[Tensor], inputs: Sequence[str]
    ) -> tuple[dict[str, list[Tensor]], dict[str, str]]:
        """Probabilities (boxes, classes) by input and row, 0 if the video is broken; and why, by name of a video."""
        names = suitable_inputs(model, inputs)
        order = _class_order(self.rows, model)
        wanted = [index for index, one in enumerate(boxes) if len(one)]
        scores = {name: [torch.zeros(len(one), len(order)) for one in boxes] for name in names}
        clips = EvaluationKeyFrames(self.rows, self.processor, wanted, max(orders_of(names)))
        num_frames = self.processor.num_frames
        with evaluation_mode(model):
            for rows, batch in clips.batches(self.batch_size, self.num_workers, self.progress):
                frames = self.processor.views(batch.to(model.device, non_blocking=True), orders=(0,))[0].to(model.dtype)
                of_rows = [boxes[row].to(model.device) for row in rows]
                for name in names:
                    orders = INPUTS[name]
                    # Every input gets as many frames as it needs for clips of the same length.
                    logits = model(frames[:, : num_frames + max(orders)], of_rows, derivative_orders=orders).logits
                    found = logits.float().softmax(-1) if _is_single_label(model) else logits.float().sigmoid()
                    for row, part in zip(rows, found.cpu()[:, order].split([len(one) for one in of_rows])):
                        scores[name][row] = part
        return scores, clips.broken

    def _measure(self, detections: dict[KeyFrame, dict[str, list]]) -> tuple[float, dict[int, float]]:
        """The mean average precision, and that of each class by its number."""
        truth: list[dict[str, Any]] = [
            {
                "boxes": [box for box, labels in zip(row["boxes"], row["box_labels"]) for _ in labels],
                "labels": [label for labels in row["box_labels"] for label in labels],
            }
            for row in self.rows.select_columns(["boxes", "box_labels"])
        ]
        found: list[dict[str, Any]] = list(detections.values())
        settings: dict[str, Any] = {"iou_threshold": self.iou_threshold}
        metric: Any = FrameMeanAP(keep_in_memory=True)
        if is_ava(self.rows):
            names = [{"video": video, "second": second} for video, second in detections]
            found, truth = ([{**name, **frame} for name, frame in zip(names, frames)] for frames in (found, truth))
            settings["classes"] = [number - 1 for number in EVALUATED_ACTIONS]
            metric = AVAMeanAP(keep_in_memory=True)
        numbers = metric.compute(predictions=found, references=truth, **settings)
        precisions = numbers.pop("AP")
        (mean,) = numbers.values()
        return mean, precisions


class EvaluationKeyFrames(Dataset):
    """The clips around the wanted key frames, resized in the workers but still `uint8`."""

    def __init__(
        self, rows: datasets.Dataset, processor: ViDiDiVideoProcessor, wanted: Sequence[int], extra_frames: int
    ) -> None:
        self.reader = KeyFrameReader(rows, processor.num_frames, processor.frame_stride, extra_frames)
        self.wanted = wanted
        self.side = _shorter_side(processor)
        self.broken: dict[str, str] = {}  # filled while `batches` is iterated

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
        """Yields rows and their clips, uint8 (rows, frames + extra_frames, 3, height, width), grouped by size."""
        decoded = 0
        with tqdm(total=len(self), desc="detection", unit="frame", disable=not progress) as bar:
            for samples in ordered_loader(self, batch_size, num_workers):
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


def _class_order(rows: datasets.Dataset, model: ViDiDiForActionDetection) -> list[int]:
    """The model's number of each class of the data set."""
    number_of = {str(name): int(number) for number, name in (model.config.id2label or {}).items()}
    names = class_names(rows)
    if unknown := [name for name in names if name not in number_of]:
        raise ValueError(
            f"the model's {len(number_of)} classes lack {len(unknown)} classes of the data set: "
            f"{', '.join(unknown[:5])}"
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
