"""Frame-mAP, for JHMDB and UCF101-24."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from vididi_hf.evaluation.metrics.detection import LabelledBoxes, average_precisions


def flatten_frames(frames: Sequence[Mapping[str, Any]]) -> LabelledBoxes:
    """Converts frames of `boxes`, `labels` and, if detected, `scores` to flat arrays."""
    names = [name for name in ("boxes", "labels", "scores") if all(name in frame for frame in frames)]
    for number, frame in enumerate(frames):
        if len({len(frame[name]) for name in names}) > 1:
            lengths = ", ".join(f"{len(frame[name])} {name}" for name in names)
            raise ValueError(f"every box needs a label and, if detected, a score; frame {number} has {lengths}")
    counts = [len(frame["boxes"]) for frame in frames]
    columns: dict[str, list] = {name: [value for frame in frames for value in frame[name]] for name in names}
    return LabelledBoxes(np.repeat(np.arange(len(frames)), counts), **columns)  # type: ignore[arg-type]


def frame_mean_ap(
    predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]], iou_threshold: float = 0.5
) -> tuple[float, dict[int, float]]:
    """Computes `FrameMeanAP`: the mean, and the average precision of each class; NaN and {} without ground truth."""
    if len(predictions) != len(references):
        raise ValueError(f"got predictions of {len(predictions)} frames and references of {len(references)}")
    if not references:
        return float("nan"), {}
    detections, truth = flatten_frames(predictions), flatten_frames(references)
    return average_precisions(detections, truth, np.unique(truth.labels), iou_threshold)


class FrameMeanAP(evaluate.Metric):
    """Frame-mAP: mean over the classes of the ground truth of the average precision of boxes in single frames.

    A prediction is a frame's `{"boxes", "labels", "scores"}`, a reference its `{"boxes", "labels"}`, with boxes as
    x1 y1 x2 y2. Include all annotated frames: a detection in a frame without ground truth is wrong.
    `compute(..., iou_threshold=0.5)` returns `{"frame-mAP": ..., "AP": {class: ...}}`.

    Source: Gkioxari and Malik, "Finding Action Tubes" (CVPR 2015), with the matching and the area of PASCAL VOC. The
    ACT detector (Kalogeiton et al., ICCV 2017) takes trapezoids under the unmodified precision instead.

    Example:
        >>> found = [{"boxes": [[0, 0, 2, 2]], "labels": [3], "scores": [0.9]}]
        >>> truth = [{"boxes": [[0, 0, 2, 2], [4, 4, 5, 5]], "labels": [3, 3]}]
        >>> FrameMeanAP(keep_in_memory=True).compute(predictions=found, references=truth)
        {'frame-mAP': 0.5, 'AP': {3: 0.5}}
    """

    def _info(self) -> evaluate.MetricInfo:
        boxes = {
            "boxes": datasets.List(datasets.List(datasets.Value("float64"), length=4)),
            "labels": datasets.List(datasets.Value("int64")),
        }
        return evaluate.MetricInfo(
            description="Mean over classes of the average precision of boxes in single frames.",
            citation="",
            inputs_description="predictions: boxes, labels and scores of a frame. references: its boxes and labels.",
            features=datasets.Features(
                {"predictions": {**boxes, "scores": datasets.List(datasets.Value("float64"))}, "references": boxes}
            ),
        )

    def _compute(self, predictions: list[dict], references: list[dict], iou_threshold: float = 0.5) -> dict[str, Any]:
        mean, precisions = frame_mean_ap(predictions, references, iou_threshold)
        return {"frame-mAP": mean, "AP": precisions}
