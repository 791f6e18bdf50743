"""Action detection: the scores of all classes for the boxes of key frames, and their mean average precision."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from vididi_hf.data.readers.ava import EVALUATED_ACTIONS
from vididi_hf.detection.drawing import save_picture
from vididi_hf.detection.key_frames import KeyFrame, KeyFrameReader, class_names, is_ava, load_key_frames, names_of
from vididi_hf.detection.options import BoxOptions
from vididi_hf.detection.sources import ground_truth_boxes, load_boxes
from vididi_hf.detection_vididi import ViDiDiForActionDetection
from vididi_hf.evaluation.classification import logits_by_input, match_names, own_input, suitable_inputs
from vididi_hf.evaluation.features import DecodedRows, evaluation_mode
from vididi_hf.evaluation.inputs import CLASSIFIER_INPUTS, check_inputs, orders_of, sampling_facts, single_inputs
from vididi_hf.evaluation.metrics import VideoMeanAP
from vididi_hf.evaluation.metrics.ava_map import ava_mean_ap, write_ava_csv
from vididi_hf.evaluation.metrics.detection import average_precisions, flatten_frames
from vididi_hf.evaluation.results import METRICS_JSON, EvaluationResult, report_of, write_report
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


@dataclass
class DetectionEvaluator:
    """Measures how well a detector classifies the people in given boxes.

    The detector sees one clip around each key frame: the whole frame, resized so that its shorter side is that of a
    training clip. Every box gets the scores of all classes. A box is right if its IoU with the ground truth is at
    least 0.5. The metric is the mAP over AVA's 60 evaluated classes for AVA, and frame-mAP otherwise.

    Args:
        rows: Key frames, from `load_key_frames`, or a data set of which it loads the `split`.
        processor: Defines frames, stride and size of the clips, and normalizes them.
        boxes: The boxes (boxes, 4) of each row. Default: the ground truth.
        box_source: The source of the boxes, for the protocol.
        inputs: Some of "frames", "derivative", "both" and "ensemble". Default: the input of the training.
        batch_size: Clips per forward pass.
        num_workers: Processes that decode.
        progress: Whether to show a progress bar.
        dataset: Name of the data set, for the result.
        split: Split of `rows`, for the result.
        iou_threshold: Lowest IoU of a right box.
        max_detections: Most detections per key frame that count (AVA; its official evaluator: 50). Default: all.

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
    max_detections: int | None = None

    detections: dict[str, dict[KeyFrame, dict[str, list]]] = field(init=False, default_factory=dict)
    average_precisions: dict[str, dict[str, float | None]] = field(init=False, default_factory=dict)

    task: ClassVar[str] = "detection"

    def __post_init__(self) -> None:
        if not isinstance(self.rows, datasets.Dataset):
            self.rows = load_key_frames(self.rows, split=self.split)
        if not any(self.rows["boxes"]):
            raise ValueError("no key frame has a box in the ground truth")
        (name, count), *_ = Counter(names_of(self.rows)).most_common(1)
        if count > 1:
            raise ValueError(f"two key frames are called {name[0]}, {name[1]}: give their videos different names")
        if self.inputs is not None:
            check_inputs(self.inputs, CLASSIFIER_INPUTS)

    @property
    def primary_metric(self) -> str:
        return f"{'mAP' if is_ava(self.rows) else 'frame-mAP'}@{self.iou_threshold:g}"

    def __call__(self, model: ViDiDiForActionDetection) -> EvaluationResult:
        """Scores the boxes of every key frame. Raises a ValueError if none can be decoded or the model does not fit."""
        self.detections, self.average_precisions = {}, {}
        inputs = [own_input(model)] if self.inputs is None else list(self.inputs)
        boxes = ground_truth_boxes(self.rows) if self.boxes is None else self.boxes
        squares = model.vididi.backbone.takes_squares
        clips = EvaluationKeyFrames(self.rows, self.processor, boxes, max(orders_of(inputs)), squares)
        is_single = model.config.problem_type == "single_label_classification"
        scores = self._score(model, clips, inputs, is_single)
        names, classes = names_of(self.rows), class_names(self.rows)
        metrics = {}
        for name in inputs:
            parts = [scores[part] for part in single_inputs([name])]
            found = [torch.stack(of_parts).mean(0) for of_parts in zip(*parts)]
            self.detections[name] = {
                key: {
                    "boxes": of_frame.repeat_interleave(len(classes), dim=0).tolist(),
                    "labels": list(range(len(classes))) * len(of_frame),
                    "scores": of_boxes.flatten().tolist(),
                }
                for key, of_frame, of_boxes in zip(names, boxes, found)
            }
            metrics[name], precisions = self._measure(self.detections[name])
            self.average_precisions[name] = {
                classes[number]: None if math.isnan(value) else value for number, value in precisions.items()
            }
        protocol = {
            "key_frames": len(names),
            "boxes": sum(map(len, boxes)),
            "box_source": self.box_source,
            "max_detections": self.max_detections,
            "classes": len(classes),
            "evaluated_classes": sum(value is not None for value in self.average_precisions[inputs[0]].values()),
            "scores": "softmax" if is_single else "sigmoid",
            "trained_input": own_input(model),
            "clips_per_key_frame": 1,
            **sampling_facts(self.processor, "the key frame is in the middle"),
            "shorter_side": clips.side,
            "crop": "none, squeezed to a square" if clips.squares else "none",
            "detection_stride": model.config.detection_stride,
            "failed_videos": sorted(clips.broken),
        }
        return EvaluationResult(
            self.task, metrics, protocol, self.primary_metric, dataset=self.dataset, split=self.split
        )

    @torch.no_grad()
    def _score(
        self, model: ViDiDiForActionDetection, clips: "EvaluationKeyFrames", inputs: Sequence[str], is_single: bool
    ) -> dict[str, list[Tensor]]:
        """For each single input, the scores (boxes, classes) of each row, 0 if its video is broken."""
        names = suitable_inputs(model, inputs)
        order = match_names(class_names(self.rows), model)
        scores = {name: [torch.zeros(len(one), len(order)) for one in clips.boxes] for name in names}
        with evaluation_mode(model):
            loading = self.batch_size, self.num_workers, self.progress, "detection"
            for rows, batch in clips.batches(*loading) if len(clips) else ():
                of_rows = [clips.boxes[row].to(model.device) for row in rows]
                for name, logits in logits_by_input(model, self.processor, batch, names, of_rows):
                    found = (logits.softmax(-1) if is_single else logits.sigmoid()).cpu()[:, order]
                    for row, part in zip(rows, found.split([len(one) for one in of_rows])):
                        scores[name][row] = part
        return scores

    def _measure(self, detections: dict[KeyFrame, dict[str, list]]) -> tuple[dict[str, float], dict[int, float]]:
        """The metrics, and the average precision of each class by its number."""
        truth: dict[KeyFrame, dict[str, list]] = {
            name: {
                "boxes": [box for box, labels in zip(row["boxes"], row["box_labels"]) for _ in labels],
                "labels": [label for labels in row["box_labels"] for label in labels],
                "persons": [person for person, labels in zip(row["persons"], row["box_labels"]) for _ in labels],
            }
            for name, row in zip(detections, self.rows.select_columns(["boxes", "box_labels", "persons"]))
        }
        if is_ava(self.rows):
            evaluated = [number - 1 for number in EVALUATED_ACTIONS]
            mean, precisions = ava_mean_ap(
                detections, truth, evaluated, iou_threshold=self.iou_threshold, max_detections=self.max_detections
            )
            return {self.primary_metric: mean}, precisions
        boxes, true = (flatten_frames(list(part.values())) for part in (detections, truth))
        mean, precisions = average_precisions(boxes, true, np.unique(true.labels), self.iou_threshold)
        of_videos: Any = VideoMeanAP(keep_in_memory=True)
        found, wanted = (
            [{"video": video, "frame": frame, **one} for (video, frame), one in part.items()]
            for part in (detections, truth)
        )
        tubes = of_videos.compute(predictions=found, references=wanted)
        return {self.primary_metric: mean, **tubes}, precisions


class EvaluationKeyFrames(DecodedRows):
    """The clips (frames + extra_frames, 3, height, width) around key frames that have boxes."""

    unit = "key frames"

    def __init__(
        self,
        rows: datasets.Dataset,
        processor: ViDiDiVideoProcessor,
        boxes: Sequence[Tensor],
        extra_frames: int,
        squares: bool,
    ) -> None:
        super().__init__([row for row, one in enumerate(boxes) if len(one)])
        clip = processor.num_frames, processor.frame_stride, extra_frames, processor.frame_interval
        self.reader = KeyFrameReader(rows, *clip)
        self.boxes, self.side = boxes, processor.crop_size["height"]
        self.squares = squares  # for encoders of one size

    def read(self, row: int) -> Tensor:
        clip, _ = self.reader.read(row)
        size = [round(length * self.side / min(clip.shape[-2:])) for length in clip.shape[-2:]]
        return vision.resize(clip, [self.side, self.side] if self.squares else size, antialias=True)


def build_evaluator(
    options: BoxOptions, rows: datasets.Dataset, processor: ViDiDiVideoProcessor, output: Path, **settings: Any
) -> DetectionEvaluator:
    """Builds the evaluator, with boxes from the source that the options name. A person detector writes to `output`."""
    boxes, source = load_boxes(options, rows, output, settings.get("progress", False))
    return DetectionEvaluator(rows, processor, boxes, source, max_detections=options.max_detections, **settings)


def write_results(
    output: Path, evaluator: DetectionEvaluator, result: EvaluationResult, model: str, facts: Mapping[str, Any]
) -> None:
    """Writes `metrics.json`, the predictions of every input in AVA's format, and a picture to the folder `output`."""
    for name, detections in evaluator.detections.items():
        # AVA numbers its classes from 1.
        numbered = {
            key: {**found, "labels": [label + 1 for label in found["labels"]]} for key, found in detections.items()
        }
        write_ava_csv(output / f"predictions-{name}.csv", numbered)
    detections = evaluator.detections[next(iter(result.metrics))]
    save_picture(output / "detections.png", evaluator.rows, detections, evaluator.iou_threshold)
    report = report_of(result, model, average_precisions=evaluator.average_precisions, **facts)
    write_report(output / METRICS_JSON, report)
