"""Average precision of detections (PASCAL VOC), and frame-mAP for JHMDB and UCF101-24."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import datasets
import numpy as np
from numpy.typing import ArrayLike, NDArray

from vididi_hf.evaluation.metrics.base import VideoMetric

TRUTH_COLUMNS = {
    "boxes": datasets.List(datasets.List(datasets.Value("float64"), length=4)),
    "labels": datasets.List(datasets.Value("int64")),
}
SCORES_COLUMN = {"scores": datasets.List(datasets.Value("float64"))}


class LabelledBoxes(NamedTuple):
    """Boxes of many frames in flat arrays: x1 y1 x2 y2 in any unit; the scores of the ground truth mean nothing."""

    frames: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]

    def select(self, chosen: NDArray) -> "LabelledBoxes":
        return LabelledBoxes(*(column[chosen] for column in self))


def flatten_frames(frames: Sequence[Mapping[str, Any]]) -> LabelledBoxes:
    """Converts frames of `boxes`, `labels` and, if detected, `scores` to flat arrays; a ValueError names bad boxes."""
    counts, boxes, labels, scores = [], [], [], []
    for number, frame in enumerate(frames):
        count = len(frame["boxes"])
        found = frame.get("scores", [0.0] * count)
        if not count == len(frame["labels"]) == len(found):
            lengths = f"{count} boxes, {len(frame['labels'])} labels and {len(found)} scores"
            raise ValueError(f"every box needs a label and, if detected, a score; frame {number} has {lengths}")
        counts.append(count)
        boxes += list(frame["boxes"])
        labels += list(frame["labels"])
        scores += list(found)
    flat = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if not (np.isfinite(flat).all() and np.isfinite(scores).all()):
        raise ValueError("boxes and scores must be finite numbers")
    wrong = (flat[:, :2] > flat[:, 2:]).any(axis=1)
    if wrong.any():
        raise ValueError(f"boxes are x1 y1 x2 y2 with x1 <= x2 and y1 <= y2, got {flat[wrong][0].tolist()}")
    numbers = np.repeat(np.arange(len(frames)), np.asarray(counts, dtype=np.int64))
    return LabelledBoxes(numbers, flat, np.asarray(labels, dtype=np.int64), np.asarray(scores, dtype=np.float64))


def box_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Computes the intersection over union of pairs of boxes, 0 if both are empty. The shapes (…, 4) broadcast."""
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    shared = sides.prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


def match_detections(detections: LabelledBoxes, truth: LabelledBoxes, iou_threshold: float) -> NDArray[np.bool_]:
    """Decides, in the order of falling scores, which detections of one class are correct."""
    # PASCAL VOC (Everingham et al., 2010), as AVA uses it: each detection, of equal scores the first first, is compared
    # with the box of its frame that it overlaps most. It is correct if the overlap reaches the threshold and no earlier
    # detection had the same box.
    ranked = detections.select(np.argsort(-detections.scores, kind="stable"))
    truth = truth.select(np.argsort(truth.frames, kind="stable"))
    # Every pair of a detection and a box of its frame, without a loop over frames.
    begin, end = (np.searchsorted(truth.frames, ranked.frames, side) for side in ("left", "right"))
    counts = end - begin
    pair_detection = np.repeat(np.arange(len(counts)), counts)
    first_pair = np.cumsum(counts) - counts
    pair_truth = np.arange(counts.sum()) - np.repeat(first_pair - begin, counts)
    iou = box_iou(ranked.boxes[pair_detection], truth.boxes[pair_truth])
    # The best pair of each detection: by detection, then by falling overlap. The sort is stable.
    order = np.lexsort((-iou, pair_detection))
    with_pairs, first = np.unique(pair_detection[order], return_index=True)
    best = order[first]
    overlaps = iou[best] >= iou_threshold
    # The detection with the best score gets the box.
    _, winners = np.unique(pair_truth[best][overlaps], return_index=True)
    correct = np.zeros(len(counts), dtype=bool)
    correct[with_pairs[overlaps][winners]] = True
    return correct


def average_precision(correct: NDArray[np.bool_], num_truth: int) -> float:
    """Returns the area under precision over recall, of detections in the order of falling scores (PASCAL VOC 2010)."""
    if num_truth == 0:
        return float("nan")
    precision = np.cumsum(correct) / np.arange(1, len(correct) + 1)
    # Over all points of recall, the highest precision from there on.
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(highest[correct].sum() / num_truth)


def average_precisions(
    detections: LabelledBoxes, truth: LabelledBoxes, classes: ArrayLike, iou_threshold: float = 0.5
) -> tuple[float, dict[int, float]]:
    """Computes the mean average precision and that of each class; NaN, and not in the mean, without ground truth."""
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be greater than 0 and at most 1, got {iou_threshold}")
    precisions = {}
    for label in np.asarray(classes, dtype=np.int64).tolist():
        found, wanted = (boxes.select(boxes.labels == label) for boxes in (detections, truth))
        correct = match_detections(found, wanted, iou_threshold)
        precisions[label] = average_precision(correct, len(wanted.labels))
    known = [value for value in precisions.values() if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan"), precisions


class FrameMeanAP(VideoMetric):
    """Frame-mAP: mean over the classes of the ground truth of the average precision of boxes in single frames.

    A prediction is a frame's `{"boxes", "labels", "scores"}`, a reference its `{"boxes", "labels"}`, with boxes as
    x1 y1 x2 y2. Include all annotated frames: a detection in a frame without ground truth is wrong.
    `compute(..., iou_threshold=0.5)` returns `{"frame-mAP": ..., "AP": {class: ...}}`; NaN and {} without ground truth.

    Source: Gkioxari and Malik, "Finding Action Tubes" (CVPR 2015), with the matching and the area of PASCAL VOC. The
    ACT detector (Kalogeiton et al., ICCV 2017) takes trapezoids under the unmodified precision instead.

    Example:
        >>> found = [{"boxes": [[0, 0, 2, 2]], "labels": [3], "scores": [0.9]}]
        >>> truth = [{"boxes": [[0, 0, 2, 2], [4, 4, 5, 5]], "labels": [3, 3]}]
        >>> FrameMeanAP(keep_in_memory=True).compute(predictions=found, references=truth)
        {'frame-mAP': 0.5, 'AP': {3: 0.5}}
    """

    columns: ClassVar = {"predictions": {**TRUTH_COLUMNS, **SCORES_COLUMN}, "references": TRUTH_COLUMNS}

    def _compute(self, predictions: list[dict], references: list[dict], iou_threshold: float = 0.5) -> dict[str, Any]:
        detections, truth = flatten_frames(predictions), flatten_frames(references)
        mean, precisions = average_precisions(detections, truth, np.unique(truth.labels), iou_threshold)
        return {"frame-mAP": mean, "AP": precisions}
