"""Action tubes: boxes linked over time by score and overlap, and their mean average precision (video-mAP)."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import datasets
import numpy as np
from numpy.typing import NDArray

from vididi_hf.evaluation.metrics.base import VideoMetric
from vididi_hf.evaluation.metrics.detection import SCORES_COLUMN, TRUTH_COLUMNS, average_precision, box_iou

_FRAME_COLUMNS = {"video": datasets.Value("string"), "frame": datasets.Value("int64"), **TRUTH_COLUMNS}


class Tube(NamedTuple):
    """One person and action in a video: the frames, a box (4,) in each, and the mean score of the boxes."""

    video: str
    label: int
    boxes: dict[int, NDArray[np.float64]]
    score: float = 0.0


def link_boxes(
    boxes: Sequence[NDArray[np.float64]], scores: Sequence[NDArray[np.float64]], iou_weight: float = 1.0
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Links the boxes (n, 4) of successive frames, whose scores are (n, classes), into paths.

    For each class, a path maximizes the sum of its scores and of `iou_weight` times the IoU of neighbors, found by
    dynamic programming. Its boxes are removed, and the next path is found in each stretch of frames that have boxes
    left. Yields the first frame of a path, and which box it takes: (frames, classes).

    Source: Gkioxari and Malik, "Finding Action Tubes" (CVPR 2015), equations 2 and 3.
    """
    scores = [one.copy() for one in scores]
    overlaps = [iou_weight * box_iou(a[:, None], b[None]) for a, b in pairwise(boxes)]
    for used in range(max(map(len, boxes), default=0)):
        begin = 0
        while begin < len(boxes):
            end = begin
            while end < len(boxes) and len(boxes[end]) > used:
                end += 1
            if end > begin:
                best, came_from = scores[begin], []
                for frame in range(begin + 1, end):
                    reached = best[:, None] + overlaps[frame - 1][:, :, None]  # (before, after, classes)
                    came_from.append(reached.argmax(axis=0))
                    best = reached.max(axis=0) + scores[frame]
                path = [best.argmax(axis=0)]
                for back in reversed(came_from):
                    path.append(np.take_along_axis(back, path[-1][None], axis=0)[0])
                path.reverse()
                for frame, chosen in enumerate(path, begin):
                    np.put_along_axis(scores[frame], chosen[None], -np.inf, axis=0)
                yield begin, np.stack(path)
            begin = max(end, begin + 1)


def tube_iou(a: Mapping[int, NDArray[np.float64]], b: Mapping[int, NDArray[np.float64]]) -> float:
    """Returns the spatio-temporal IoU: the IoU of the frames times the mean IoU of the boxes in common frames."""
    common = sorted(a.keys() & b.keys())
    if not common:
        return 0.0
    spatial = box_iou(*(np.stack([tube[frame] for frame in common]) for tube in (a, b))).mean()
    return float(spatial * len(common) / len(a.keys() | b.keys()))


def match_tubes(found: Sequence[Tube], truth: Sequence[Tube], iou_threshold: float) -> NDArray[np.bool_]:
    """Decides, in the order of falling scores, which tubes of one class are correct: as boxes are in PASCAL VOC."""
    taken: set[int] = set()
    correct = []
    for tube in sorted(found, key=lambda tube: -tube.score):
        overlaps = {
            place: tube_iou(tube.boxes, other.boxes) for place, other in enumerate(truth) if other.video == tube.video
        }
        best = max(overlaps, key=lambda place: overlaps[place], default=-1)
        correct.append(best >= 0 and overlaps[best] >= iou_threshold and best not in taken)
        if correct[-1]:
            taken.add(best)
    return np.asarray(correct, dtype=bool)


class VideoMeanAP(VideoMetric):
    """Video-mAP: mean over the classes of the ground truth of the average precision of action tubes.

    A prediction is a frame's `{"video", "frame", "boxes", "labels", "scores"}`, where every box appears once for each
    class, in the same order of classes. A reference is the frame's `{"video", "frame", "boxes", "labels", "persons"}`.
    Boxes are x1 y1 x2 y2. Frames may be any evenly spaced subset of a video; a tube ends where they have a gap.
    `compute(..., iou_thresholds=(0.2, 0.5))` returns `{"video-mAP@0.2": ..., "video-mAP@0.5": ...}`.

    Boxes are linked by `link_boxes`. A tube is not cut in time, so on videos that go on after the action (UCF101-24),
    detected boxes outside of it count against the tube.

    Source: Gkioxari and Malik, "Finding Action Tubes" (CVPR 2015), with the spatio-temporal IoU of Weinzaepfel et al.
    (ICCV 2015).

    Example:
        >>> truth = [{"video": "a", "frame": t, "boxes": [[0, 0, 2, 2]], "labels": [0], "persons": [0]} for t in (0, 1)]
        >>> found = [{**frame, "scores": [0.9]} for frame in truth]
        >>> _ = [frame.pop("persons") for frame in found]
        >>> VideoMeanAP(keep_in_memory=True).compute(predictions=found, references=truth)
        {'video-mAP@0.2': 1.0, 'video-mAP@0.5': 1.0}
    """

    columns: ClassVar = {
        "predictions": {**_FRAME_COLUMNS, **SCORES_COLUMN},
        "references": {**_FRAME_COLUMNS, "persons": datasets.List(datasets.Value("int64"))},
    }

    def _compute(
        self, predictions: list[dict], references: list[dict], iou_thresholds: Sequence[float] = (0.2, 0.5)
    ) -> dict[str, Any]:
        found, truth = detected_tubes(predictions), annotated_tubes(references)
        results = {}
        for threshold in iou_thresholds:
            precisions = [
                average_precision(match_tubes(found[label], tubes, threshold), len(tubes))
                for label, tubes in truth.items()
            ]
            results[f"video-mAP@{threshold:g}"] = float(np.mean(precisions)) if precisions else float("nan")
        return results


def annotated_tubes(frames: Sequence[Mapping[str, Any]]) -> dict[int, list[Tube]]:
    """Collects the boxes of each person and action of the ground truth, by class."""
    boxes: dict[tuple[str, int, int], dict[int, NDArray]] = defaultdict(dict)
    for frame in frames:
        for box, label, person in zip(frame["boxes"], frame["labels"], frame["persons"]):
            boxes[frame["video"], int(label), person][frame["frame"]] = np.asarray(box, dtype=np.float64)
    tubes: dict[int, list[Tube]] = defaultdict(list)
    for (video, label, _), of_person in boxes.items():
        tubes[label].append(Tube(video, label, of_person))
    return tubes


def detected_tubes(frames: Sequence[Mapping[str, Any]]) -> dict[int, list[Tube]]:
    """Links the detections of each video, by class."""
    videos: dict[str, dict[int, tuple[NDArray, NDArray]]] = defaultdict(dict)
    tubes: dict[int, list[Tube]] = defaultdict(list)
    classes: list[int] = []
    for frame in frames:
        classes = classes or sorted(set(frame["labels"]))
        if frame["labels"] and list(frame["labels"]) != classes * (len(frame["labels"]) // len(classes)):
            raise ValueError(f"{frame['video']}, frame {frame['frame']}: every box needs a score for every class")
        boxes = np.asarray(frame["boxes"], dtype=np.float64).reshape(-1, 4)[:: len(classes) or 1]
        scores = np.asarray(frame["scores"], dtype=np.float64).reshape(len(boxes), len(classes))
        videos[frame["video"]][frame["frame"]] = boxes, scores
    gaps = [b - a for numbers in map(sorted, videos.values()) for a, b in pairwise(numbers)]
    for video, of_frames in videos.items():
        numbers = range(min(of_frames), max(of_frames) + 1, min(gaps, default=1))
        nothing = np.empty((0, 4)), np.empty((0, len(classes)))
        boxes, scores = zip(*(of_frames.get(number, nothing) for number in numbers))
        for begin, path in link_boxes(boxes, scores):
            for column, label in enumerate(classes):
                chosen = list(enumerate(path[:, column], begin))
                score = float(np.mean([scores[place][box, column] for place, box in chosen]))
                linked = {numbers[place]: boxes[place][box] for place, box in chosen}
                tubes[label].append(Tube(video, label, linked, score))
    return tubes
