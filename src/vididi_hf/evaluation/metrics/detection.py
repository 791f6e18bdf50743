"""What the detection metrics share: boxes, the matching of detections, average precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass
class LabelledBoxes:
    """Boxes of many frames in flat arrays: x1 y1 x2 y2 in any unit, and scores unless they are the ground truth."""

    frames: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        self.frames = np.asarray(self.frames, dtype=np.int64)
        self.boxes = np.asarray(self.boxes, dtype=np.float64).reshape(-1, 4)
        self.labels = np.asarray(self.labels, dtype=np.int64)
        self.scores = None if self.scores is None else np.asarray(self.scores, dtype=np.float64)
        lengths = [len(array) for array in (self.frames, self.boxes, self.labels, self.scores) if array is not None]
        if len(set(lengths)) > 1:
            raise ValueError(f"each box needs a frame, a label and, if detected, a score; got {lengths} of them")
        if not np.isfinite(self.boxes).all() or not np.isfinite(0.0 if self.scores is None else self.scores).all():
            raise ValueError("boxes and scores must be finite numbers")
        wrong = (self.boxes[:, :2] > self.boxes[:, 2:]).any(axis=1)
        if wrong.any():
            raise ValueError(f"boxes are x1 y1 x2 y2 with x1 <= x2 and y1 <= y2, got {self.boxes[wrong][0].tolist()}")

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, chosen: NDArray) -> LabelledBoxes:
        scores = None if self.scores is None else self.scores[chosen]
        return LabelledBoxes(self.frames[chosen], self.boxes[chosen], self.labels[chosen], scores)


def box_iou(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Computes the intersection over union of pairs of boxes, 0 if both are empty. The shapes (…, 4) broadcast."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    shared = sides.prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


def match_detections(detections: LabelledBoxes, truth: LabelledBoxes, iou_threshold: float) -> NDArray[np.bool_]:
    """Decides which detections of one class are correct.

    In the order of falling scores (of equal ones the first comes first), each detection is compared with the box of its
    frame that it overlaps most. It is correct if the overlap reaches the threshold and no earlier detection had the
    same box. Returns (detections,) in the order of falling scores.

    Source: the matching of PASCAL VOC (Everingham et al., 2010), as the evaluation of AVA uses it.
    """
    if detections.scores is None:
        raise ValueError("detections need scores to be ranked")
    ranked = detections[np.argsort(-detections.scores, kind="stable")]
    truth = truth[np.argsort(truth.frames, kind="stable")]
    # Every pair of a detection and a box of its frame, without a loop over frames.
    begin, end = (np.searchsorted(truth.frames, ranked.frames, side) for side in ("left", "right"))
    counts = end - begin
    pair_detection = np.repeat(np.arange(len(ranked)), counts)
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
    correct = np.zeros(len(ranked), dtype=bool)
    correct[with_pairs[overlaps][winners]] = True
    return correct


def average_precision(correct: NDArray[np.bool_], num_truth: int) -> float:
    """Computes the area under the curve of precision over recall, where precision is first made to fall.

    `correct` is in the order of falling scores. The result is NaN if there is nothing to find.

    Source: average precision of PASCAL VOC since 2010, over all points.

    Example:
        >>> average_precision(np.array([True, False, True]), num_truth=2)  # 1/2 · 1 + 1/2 · 2/3
        0.8333333333333333
    """
    if num_truth == 0:
        return float("nan")
    precision = np.cumsum(correct) / np.arange(1, len(correct) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(highest[correct].sum() / num_truth)


def average_precisions(
    detections: LabelledBoxes, truth: LabelledBoxes, classes: ArrayLike, iou_threshold: float = 0.5
) -> tuple[float, dict[int, float]]:
    """Computes the mean average precision, and the average precision of each class.

    Detections of other classes do not count. A class without ground truth has NaN, and is left out of the mean.
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be greater than 0 and at most 1, got {iou_threshold}")
    precisions = {}
    for label in np.asarray(classes, dtype=np.int64).tolist():
        found, wanted = detections[detections.labels == label], truth[truth.labels == label]
        precisions[label] = average_precision(match_detections(found, wanted, iou_threshold), len(wanted))
    known = [value for value in precisions.values() if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan"), precisions
