"""AVA's mAP at IoU 0.5, with its file formats: key frames, 60 evaluated classes, excluded key frames."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import evaluate

from vididi_hf.evaluation.metrics.detection import average_precisions, check_iou_threshold, mean_over_classes
from vididi_hf.evaluation.metrics.frame_map import flatten_frames

KeyFrame = tuple[str, int]
"""(video, second): a key frame of AVA."""


def ava_mean_ap(
    predictions: Mapping[KeyFrame, Mapping[str, Any]],
    references: Mapping[KeyFrame, Mapping[str, Any]],
    classes: Collection[int],
    excluded: Collection[KeyFrame] = (),
    iou_threshold: float = 0.5,
) -> tuple[float, dict[int, float]]:
    """Computes the mean average precision over the evaluated classes.

    Boxes of other classes and of excluded key frames do not count, on either side. A detection in a key frame without
    ground truth is a wrong one. Classes without ground truth do not enter the mean.

    Args:
        predictions: For each key frame `boxes` (boxes, 4), `labels` (boxes,) and `scores` (boxes,).
        references: For each key frame `boxes` and `labels`.
        classes: The classes that are evaluated; the action list of AVA v2.2 holds 60.
        excluded: Key frames that annotators did not agree about.
        iou_threshold: The least intersection over union of a right detection.

    Returns:
        The mean, and the average precision of each class, NaN for those without ground truth.

    Raises:
        ValueError: If no class is given, a box is none, a number is not finite or the threshold is impossible.

    Source: the protocol of AVA (Gu et al., CVPR 2018) for its ActivityNet challenges.

    Example:
        ```python
        >>> from vididi_hf.evaluation.metrics.ava_map import ava_mean_ap
        >>> truth = {("film", 902): {"boxes": [[0, 0, 1, 1]], "labels": [12]}}
        >>> found = {("film", 902): {"boxes": [[0, 0, 1, 0.8]], "labels": [12], "scores": [0.7]}}
        >>> ava_mean_ap(found, truth, classes=[12, 17])
        (1.0, {12: 1.0, 17: nan})

        ```
    """
    check_iou_threshold(iou_threshold)
    if not classes:
        raise ValueError("classes is empty: give the numbers of the evaluated classes")
    left_out = set(excluded)
    key_frames = [key for key in {**references, **predictions} if key not in left_out]
    nothing: dict[str, list] = {"boxes": [], "labels": [], "scores": []}
    detections = flatten_frames([predictions.get(key, nothing) for key in key_frames] or [nothing])
    truth = flatten_frames([_without_scores(references.get(key, nothing)) for key in key_frames] or [nothing])
    precisions = average_precisions(detections, truth, sorted(classes), iou_threshold)
    return mean_over_classes(precisions), precisions


def read_ava_csv(path: str | Path) -> dict[KeyFrame, dict[str, list]]:
    """Reads boxes in AVA's format: `video,second,x1,y1,x2,y2,action` and then a score, a person's number, or nothing.

    Args:
        path: The list. In a list of detections, the eighth column is the score.

    Returns:
        For each key frame `boxes`, `labels` and `scores`, the last as far as the rows have an eighth column. Rows
        without an action, which say that nobody acts, have their key frame but no box.

    Raises:
        ValueError: If a row cannot be read; the message names it.
    """
    frames: dict[KeyFrame, dict[str, list]] = {}
    with Path(path).open(newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            try:
                frame = frames.setdefault((row[0], _second(row[1])), {"boxes": [], "labels": [], "scores": []})
                if len(row) > 6 and row[6]:
                    frame["labels"].append(int(row[6]))
                    frame["boxes"].append([float(value) for value in row[2:6]])
                    frame["scores"] += [float(value) for value in row[7:8]]
            except (ValueError, IndexError):
                raise ValueError(
                    f"{path}, line {number} is no row of video,second,x1,y1,x2,y2,action,score: {','.join(row)}"
                ) from None
    return frames


def write_ava_csv(path: str | Path, frames: Mapping[KeyFrame, Mapping[str, Any]]) -> None:
    """Writes detections in AVA's format, `video,second,x1,y1,x2,y2,action,score`.

    Args:
        path: The list.
        frames: For each key frame `boxes` (boxes, 4) as shares of width and height, `labels` and `scores`.
    """
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        for (video, second), frame in frames.items():
            for box, label, score in zip(frame["boxes"], frame["labels"], frame["scores"]):
                coordinates = [f"{float(value):.4f}" for value in box]
                writer.writerow([video, f"{second:04d}", *coordinates, int(label), f"{float(score):.6g}"])


def read_ava_actions(path: str | Path) -> dict[int, str]:
    """Reads an action list (`.pbtxt`): the evaluated classes by number.

    Raises:
        ValueError: If it lists no action.
    """
    items = re.findall(r'name:\s*"([^"]*)"\s*(?:label_)?id:\s*(\d+)', Path(path).read_text())
    if not items:
        raise ValueError(f"{path} lists no actions: looked for items of a name and an id")
    return {int(number): name for name, number in items}


def read_ava_excluded(path: str | Path) -> set[KeyFrame]:
    """Reads a list of excluded key frames, `video,second`."""
    with Path(path).open(newline="") as file:
        return {(row[0], _second(row[1])) for row in csv.reader(file)}


class AVAMeanAP(evaluate.Metric):
    """`ava_mean_ap` as a metric of 🤗 Evaluate.

    A prediction is a key frame's `{"video", "second", "boxes", "labels", "scores"}`; a reference, in the same place, is
    the same key frame's `{"video", "second", "boxes", "labels"}`: `align_key_frames` makes both out of AVA's files.
    `compute(…, classes=…, excluded=…)` returns `{"mAP@0.5": …, "AP": {class: …}}`.

    Example:
        ```python
        >>> from vididi_hf.evaluation.metrics import AVAMeanAP
        >>> frame = {"video": "film", "second": 902, "boxes": [[0, 0, 1, 1]], "labels": [12]}
        >>> metric = AVAMeanAP(keep_in_memory=True)
        >>> metric.compute(predictions=[{**frame, "scores": [0.7]}], references=[frame], classes=[12])
        {'mAP@0.5': 1.0, 'AP': {12: 1.0}}

        ```
    """

    def _info(self) -> evaluate.MetricInfo:
        frame = {
            "video": datasets.Value("string"),
            "second": datasets.Value("int64"),
            "boxes": datasets.List(datasets.List(datasets.Value("float64"), length=4)),
            "labels": datasets.List(datasets.Value("int64")),
        }
        return evaluate.MetricInfo(
            description="Mean average precision at IoU 0.5 over the evaluated classes of AVA.",
            citation="",
            inputs_description="predictions: video, second, boxes, labels, scores of a key frame. references: the same "
            "key frame without scores.",
            features=datasets.Features(
                {"predictions": {**frame, "scores": datasets.List(datasets.Value("float64"))}, "references": frame}
            ),
        )

    def _compute(
        self,
        predictions: list[dict],
        references: list[dict],
        classes: Collection[int],
        excluded: Iterable[Sequence[Any]] = (),
        iou_threshold: float = 0.5,
    ) -> dict[str, Any]:
        found, truth = ({(row["video"], row["second"]): row for row in rows} for rows in (predictions, references))
        if not len(found) == len(truth) == len(predictions) or list(found) != list(truth):
            raise ValueError("predictions and references must name the same key frames in the same order, each once")
        skipped = [(video, int(second)) for video, second in excluded]
        mean, precisions = ava_mean_ap(found, truth, classes, skipped, iou_threshold)
        return {f"mAP@{iou_threshold:g}": mean, "AP": precisions}


def align_key_frames(
    predictions: Mapping[KeyFrame, Mapping[str, Any]], references: Mapping[KeyFrame, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Lists detections and ground truth for the same key frames, those of either side, as `AVAMeanAP` takes them."""
    nothing: dict[str, list] = {"boxes": [], "labels": [], "scores": []}
    found, truth = [], []
    for video, second in {**references, **predictions}:
        where = {"video": video, "second": second}
        found.append({**where, **predictions.get((video, second), nothing)})
        truth.append({**where, **_without_scores(references.get((video, second), nothing))})
    return found, truth


def _without_scores(frame: Mapping[str, Any]) -> dict[str, Any]:
    return {"boxes": frame["boxes"], "labels": frame["labels"]}


def _second(text: str) -> int:
    second = float(text)
    if second != int(second):
        raise ValueError(f"key frames lie at whole seconds, got {text}")
    return int(second)
