"""What all detection metrics share: boxes, the matching of detections, average precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass
class LabelledBoxes:
    """Boxes of many frames in flat arrays; scores are there for detections only.

    Args:
        frames: (boxes,), the number of the frame that a box is in.
        boxes: (boxes, 4), x1 y1 x2 y2 in any unit.
        labels: (boxes,), the class of each box; a person with two labels is two boxes.
        scores: (boxes,), or None for the ground truth.

    Raises:
        ValueError: If the lengths differ, a box ends before it begins, or a number is not finite.
    """

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
            raise ValueError(f"a box needs a frame, a label and, if detected, a score; got the numbers {lengths}")
        if not np.isfinite(self.boxes).all() or not np.isfinite(0.0 if self.scores is None else self.scores).all():
            raise ValueError("boxes and scores must be finite numbers")
        if (self.boxes[:, :2] > self.boxes[:, 2:]).any():
            wrong = self.boxes[(self.boxes[:, :2] > self.boxes[:, 2:]).any(axis=1)][0]
            raise ValueError(f"boxes are x1 y1 x2 y2 with x1 <= x2 and y1 <= y2, got {wrong.tolist()}")

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, chosen: NDArray) -> LabelledBoxes:
        scores = None if self.scores is None else self.scores[chosen]
        return LabelledBoxes(self.frames[chosen], self.boxes[chosen], self.labels[chosen], scores)


def box_iou(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Computes intersection over union of pairs of boxes.

    Args:
        first: (…, 4), x1 y1 x2 y2.
        second: (…, 4), of a shape that broadcasts with the first.

    Returns:
        (…), between 0 and 1; 0 where both boxes are empty.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    shared = sides.prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


def match_detections(detections: LabelledBoxes, truth: LabelledBoxes, iou_threshold: float) -> NDArray[np.bool_]:
    """Decides which detections of one class are right.

    In the order of their scores (of equal ones the first comes first), each detection is compared with the box of the
    ground truth in its frame that it overlaps most. It is right if the overlap reaches the threshold and no detection
    before it had the same box: each box can be found once.

    Args:
        detections: Those of the class, with scores.
        truth: The boxes of the class.
        iou_threshold: The least intersection over union.

    Returns:
        (detections,), in the order of falling scores.

    Raises:
        ValueError: If the detections have no scores.

    Source: the matching of PASCAL VOC (Everingham et al., 2010), as AVA's evaluation uses it.
    """
    if detections.scores is None:
        raise ValueError("detections need scores, or they cannot be ranked")
    ranked = detections[np.argsort(-detections.scores, kind="stable")]
    truth = truth[np.argsort(truth.frames, kind="stable")]
    # Every pair of a detection and a box of its frame, without a loop over frames.
    begin, end = (np.searchsorted(truth.frames, ranked.frames, side) for side in ("left", "right"))
    counts = end - begin
    pair_detection = np.repeat(np.arange(len(ranked)), counts)
    first_pair = np.cumsum(counts) - counts
    pair_truth = np.arange(counts.sum()) - np.repeat(first_pair - begin, counts)
    iou = box_iou(ranked.boxes[pair_detection], truth.boxes[pair_truth])
    # The best pair of each detection: by detection, then falling overlap; the sort is stable.
    order = np.lexsort((-iou, pair_detection))
    with_pairs, first = np.unique(pair_detection[order], return_index=True)
    best = order[first]
    overlaps = iou[best] >= iou_threshold
    # Of the detections that meet one box, the one with the best score has it.
    _, winners = np.unique(pair_truth[best][overlaps], return_index=True)
    right = np.zeros(len(ranked), dtype=bool)
    right[with_pairs[overlaps][winners]] = True
    return right


def average_precision(right: NDArray[np.bool_], num_truth: int) -> float:
    """Computes the area under the curve of precision over recall.

    Precision is first made to fall: at each recall it becomes the highest at that or a greater one.

    Args:
        right: (detections,), whether each is right, in the order of falling scores.
        num_truth: Boxes that could be found.

    Returns:
        The area, between 0 and 1; NaN if there is nothing to find.

    Source: average precision of PASCAL VOC since 2010, over all points.

    Example:
        >>> import numpy as np
        >>> average_precision(np.array([True, False, True]), num_truth=2)  # 1/2 · 1 + 1/2 · 2/3
        0.8333333333333333
    """
    if num_truth == 0:
        return float("nan")
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(highest[right].sum() / num_truth)


def average_precisions(
    detections: LabelledBoxes, truth: LabelledBoxes, classes: ArrayLike, iou_threshold: float = 0.5
) -> dict[int, float]:
    """Computes the average precision of each class; NaN for those that the ground truth does not hold.

    Args:
        detections: With scores. Labels that are none of the classes are passed over.
        truth: The ground truth.
        classes: The classes that count.
        iou_threshold: The least intersection over union of a right detection.
    """
    precisions = {}
    for label in np.asarray(classes, dtype=np.int64).tolist():
        found, wanted = detections[detections.labels == label], truth[truth.labels == label]
        precisions[label] = average_precision(match_detections(found, wanted, iou_threshold), len(wanted))
    return precisions


def mean_over_classes(precisions: dict[int, float]) -> float:
    """Averages over the classes that the ground truth holds; NaN if it holds none of them."""
    held = [value for value in precisions.values() if not np.isnan(value)]
    return float(np.mean(held)) if held else float("nan")


def check_iou_threshold(iou_threshold: float) -> None:
    """Raises a ValueError unless 0 < threshold <= 1: at 0, boxes that do not touch would match."""
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be greater than 0 and at most 1, got {iou_threshold}")
