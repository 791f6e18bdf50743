"""AVA's mAP at IoU 0.5 and its file formats."""

import csv
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np

from vididi_hf.evaluation.metrics.base import VideoMetric
from vididi_hf.evaluation.metrics.detection import SCORES_COLUMN, TRUTH_COLUMNS, average_precisions, flatten_frames
from vididi_hf.files import atomic_write

KeyFrame = tuple[str, int]
"""(video, second): a key frame of AVA."""

_NOTHING: dict[str, list] = {"boxes": [], "labels": [], "scores": []}
_KEY_FRAME_COLUMNS = {"video": datasets.Value("string"), "second": datasets.Value("int64"), **TRUTH_COLUMNS}


def ava_mean_ap(
    predictions: Mapping[KeyFrame, Mapping[str, Any]],
    references: Mapping[KeyFrame, Mapping[str, Any]],
    classes: Collection[int],
    excluded: Iterable[Sequence[Any]] = (),
    iou_threshold: float = 0.5,
    max_detections: int | None = None,
) -> tuple[float, dict[int, float]]:
    """Computes `AVAMeanAP` for frames by key frame: the mean, and the average precision of each class."""
    if not classes:
        raise ValueError("classes is empty: give the numbers of the evaluated classes")
    if max_detections is not None and max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, got {max_detections}")
    skipped = {(video, int(second)) for video, second in excluded}
    sides = ({key: side[key] for key in side if key not in skipped} for side in (predictions, references))
    detections, wanted = map(flatten_frames, align_key_frames(*sides))
    if max_detections is not None:
        detections = detections.select(np.isin(detections.labels, list(classes)))
        order = np.lexsort((-detections.scores, detections.frames))  # the better ones first; of equals, the earlier
        detections = detections.select(order)
        place = np.arange(len(order)) - np.searchsorted(detections.frames, detections.frames)
        detections = detections.select(place < max_detections)
    return average_precisions(detections, wanted, sorted(classes), iou_threshold)


def read_ava_csv(path: str | Path) -> dict[KeyFrame, dict[str, list]]:
    """Reads `video,second,x1,y1,x2,y2,action[,score]` by key frame; a row without an action gives no box."""
    frames: dict[KeyFrame, dict[str, list]] = {}
    with Path(path).open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file), 1):
            try:
                if not (second := float(row[1])).is_integer():
                    raise ValueError
                frame = frames.setdefault((row[0], int(second)), {"boxes": [], "labels": [], "scores": []})
                if len(row) > 6 and row[6]:
                    frame["labels"].append(int(row[6]))
                    frame["boxes"].append(list(map(float, row[2:6])))
                    frame["scores"] += map(float, row[7:8])
            except (ValueError, IndexError):
                wanted = "video,second,x1,y1,x2,y2,action,score"
                raise ValueError(f"{path}, line {number} is not a row of {wanted}: {','.join(row)}") from None
    return frames


def write_ava_csv(path: str | Path, frames: Mapping[KeyFrame, Mapping[str, Any]]) -> None:
    """Writes detections in AVA's format, with boxes as shares of width and height."""
    with atomic_write(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for (video, second), frame in frames.items():
            for box, label, score in zip(frame["boxes"], frame["labels"], frame["scores"]):
                coordinates = [f"{float(value):.4f}" for value in box]
                writer.writerow([video, f"{second:04d}", *coordinates, int(label), f"{float(score):.6g}"])


def read_ava_actions(path: str | Path) -> dict[int, str]:
    """Reads the evaluated classes, by number, from an action list (`.pbtxt`)."""
    items = re.findall(r'name:\s*"([^"]*)"\s*(?:label_)?id:\s*(\d+)', Path(path).read_text(encoding="utf-8"))
    if not items:
        raise ValueError(f"{path} lists no actions: it has no items with a name and an id")
    return {int(number): name for name, number in items}


def read_ava_excluded(path: str | Path) -> set[KeyFrame]:
    """Reads a list of excluded key frames, `video,second`."""
    return set(read_ava_csv(path))


class AVAMeanAP(VideoMetric):
    """AVA's mean average precision over the evaluated classes.

    A prediction is a key frame's `{"video", "second", "boxes", "labels", "scores"}`. The reference in the same place is
    the same key frame's `{"video", "second", "boxes", "labels"}`. `align_key_frames` builds both from AVA's files.
    `compute(..., classes=..., excluded=..., iou_threshold=0.5, max_detections=None)` returns
    `{"mAP@0.5": ..., "AP": {class: ...}}`. The official evaluator keeps the 50 best detections of the evaluated classes
    in each key frame: `max_detections=50`.

    Boxes of other classes and of excluded key frames do not count, on either side. A detection in a key frame without
    ground truth is wrong. Classes without ground truth have NaN and do not enter the mean.

    Source: the protocol of AVA (Gu et al., CVPR 2018) for its ActivityNet challenges.

    Example:
        >>> frame = {"video": "film", "second": 902, "boxes": [[0, 0, 1, 1]], "labels": [12]}
        >>> metric = AVAMeanAP(keep_in_memory=True)
        >>> metric.compute(predictions=[{**frame, "scores": [0.7]}], references=[frame], classes=[12])
        {'mAP@0.5': 1.0, 'AP': {12: 1.0}}
    """

    columns: ClassVar = {"predictions": {**_KEY_FRAME_COLUMNS, **SCORES_COLUMN}, "references": _KEY_FRAME_COLUMNS}

    def _compute(
        self,
        predictions: list[dict],
        references: list[dict],
        classes: Collection[int],
        excluded: Iterable[Sequence[Any]] = (),
        iou_threshold: float = 0.5,
        max_detections: int | None = None,
    ) -> dict[str, Any]:
        found, truth = ({(row["video"], row["second"]): row for row in rows} for rows in (predictions, references))
        if list(found) != list(truth) or len(found) < len(predictions):
            raise ValueError("predictions and references must name the same key frames in the same order, each once")
        mean, precisions = ava_mean_ap(found, truth, classes, excluded, iou_threshold, max_detections)
        return {f"mAP@{iou_threshold:g}": mean, "AP": precisions}


def align_key_frames(
    predictions: Mapping[KeyFrame, Mapping[str, Any]], references: Mapping[KeyFrame, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Lists detections and ground truth of the same key frames, those of either side, as `AVAMeanAP` takes them."""
    found, truth = [], []
    for key in {**references, **predictions}:
        where = {"video": key[0], "second": key[1]}
        found.append({**where, **predictions.get(key, _NOTHING)})
        wanted = references.get(key, _NOTHING)
        truth.append({**where, "boxes": wanted["boxes"], "labels": wanted["labels"]})
    return found, truth
