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
    """Computes the mean average precision over the classes of the ground truth.

    Args:
        predictions: For each frame `boxes` (boxes, 4), `labels` (boxes,) and `scores` (boxes,).
        references: For each frame, in the same order, `boxes` and `labels`. Include all annotated frames. A detection
            in a frame without ground truth is wrong.
        iou_threshold: Lowest intersection over union of a correct detection.

    Returns:
        The mean, and the average precision of each class of the ground truth. NaN and {} if there is none.

    Raises:
        ValueError: If the numbers of frames differ, a box is invalid, or the threshold is impossible.

    Source: frame-mAP of Gkioxari and Malik, "Finding Action Tubes" (CVPR 2015), with the matching and the area of
    PASCAL VOC. The evaluation of the ACT detector (Kalogeiton et al., ICCV 2017) differs in the area: it takes
    trapezoids under the unmodified precision.

    Example:
        >>> truth = [{"boxes": [[0, 0, 2, 2]], "labels": [3]}]
        >>> found = [{"boxes": [[0, 0, 2, 1.5], [5, 5, 6, 6]], "labels": [3, 3], "scores": [0.5, 0.9]}]
        >>> frame_mean_ap(found, truth)
        (0.5, {3: 0.5})
    """
    if len(predictions) != len(references):
        raise ValueError(f"got predictions of {len(predictions)} frames and references of {len(references)}")
    if not references:
        return float("nan"), {}
    detections, truth = flatten_frames(predictions), flatten_frames(references)
    return average_precisions(detections, truth, np.unique(truth.labels), iou_threshold)


class FrameMeanAP(evaluate.Metric):
    """`frame_mean_ap` as a metric of 🤗 Evaluate.

    A prediction is a frame's `{"boxes", "labels", "scores"}`, a reference its `{"boxes", "labels"}`.
    `compute(..., iou_threshold=0.5)` returns `{"frame-mAP": ..., "AP": {class: ...}}`.

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
