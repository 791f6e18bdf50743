"""Where boxes come from at test time: ground truth, jittered ground truth, a file of detections, a detector."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from vididi_hf.data.decoding import BrokenVideoError
from vididi_hf.data.seeding import seeded_generator
from vididi_hf.detection.boxes import box_areas, jitter_boxes
from vididi_hf.detection.key_frames import KeyFrame, KeyFrameReader, names_of
from vididi_hf.files import write_text

BOX_SOURCES = ("ground_truth", "jittered", "file", "detector")

Detector = Callable[..., list[dict[str, Any]]]
"""What `pipeline("object-detection")` is: of a PIL image and `threshold`, a list of `{"label", "score", "box"}`."""

PERSON = "person"
# Detections below this are not even written down: half the least score that anybody asks for.
_LEAST_KEPT = 0.5


def ground_truth_boxes(rows: datasets.Dataset) -> list[Tensor]:
    """Returns the annotated boxes (boxes, 4) of each key frame."""
    return [torch.tensor(boxes, dtype=torch.float32).view(-1, 4) for boxes in rows["boxes"]]


def jittered_boxes(rows: datasets.Dataset, amount: float, seed: int = 0) -> list[Tensor]:
    """Returns the annotated boxes of each key frame, moved and stretched at random by `jitter_boxes`.

    Args:
        rows: Key frames.
        amount: How much.
        seed: The seed; each row has draws of its own.
    """
    return [
        jitter_boxes(boxes, amount, seeded_generator("jittered boxes", seed, index))
        for index, boxes in enumerate(ground_truth_boxes(rows))
    ]


def read_detections(path: str | Path, rows: datasets.Dataset, min_score: float = 0.9) -> list[Tensor]:
    """Reads the boxes of persons from a file in AVA's format.

    Lines are `video,second,x1,y1,x2,y2,action,score`, as detectors of persons are published for AVA; the action may be
    empty, and a box that comes several times, for several actions, counts once. For other data sets video and second
    are what `vididi_hf.detection.key_frames.names_of` says. A line without a box says that nobody was found.

    Args:
        path: The file.
        rows: Key frames.
        min_score: The least score of a box. Lines without a score count as certain.

    Returns:
        The boxes (boxes, 4) of each key frame, within 0 … 1; none where the file has none.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line cannot be read, or the file has none of the key frames.
    """
    found = _read_file(Path(path))
    names = names_of(rows)
    if not any(name in found for name in names):
        raise ValueError(
            f"{path} has none of the {len(names)} key frames: it begins with {next(iter(found), 'nothing')}, "
            f"and the first key frame is {names[0]}"
        )
    boxes = []
    for name in names:
        sure = dict.fromkeys(tuple(box) for box, score in found.get(name, []) if score >= min_score)
        boxes.append(torch.tensor(list(sure), dtype=torch.float32).view(-1, 4).clamp(0, 1))
    return [one[box_areas(one) > 0] for one in boxes]


def detect_persons(
    rows: datasets.Dataset, detector: Detector, cache: str | Path, min_score: float = 0.9, progress: bool = False
) -> list[Tensor]:
    """Finds persons in key frames by an object detector, and writes them down in AVA's format.

    What the file has already is not detected again: an interrupted run goes on where it was, and a second evaluation
    needs no detector.

    Args:
        rows: Key frames.
        detector: A pipeline for `"object-detection"` of transformers, or what is called like one.
        cache: The file, for `read_detections`.
        min_score: The least score of a box, at least 0.5.
        progress: Whether to show a progress bar.

    Returns:
        As `read_detections`. Where a video cannot be decoded, nobody is found.

    Raises:
        ValueError: If `min_score` is below 0.5 or above 1.
    """
    if not _LEAST_KEPT <= min_score <= 1:
        raise ValueError(f"min_score must lie between {_LEAST_KEPT} and 1, got {min_score}")
    cache = Path(cache)
    cache.parent.mkdir(parents=True, exist_ok=True)
    known = _keep_whole_lines(cache)
    reader = KeyFrameReader(rows, num_frames=1, stride=1, extra_frames=0)
    with cache.open("a", newline="") as file:
        names = names_of(rows)
        for index in tqdm(range(len(rows)), desc="detecting persons", unit="frame", disable=not progress):
            if names[index] in known:
                continue
            known.add(names[index])
            try:
                frame = reader.read_key_frame(index)
            except BrokenVideoError:
                continue
            # One write for a key frame, so that a kill leaves no half of one behind.
            file.write(_lines(names[index], _persons(detector, frame)))
            file.flush()
    return read_detections(cache, rows, min_score)


def _persons(detector: Detector, frame: Tensor) -> list[tuple[list[float], float]]:
    """Boxes, as fractions of width and height, and scores of the persons in a frame (3, height, width)."""
    height, width = frame.shape[-2:]
    image = Image.fromarray(np.ascontiguousarray(frame.permute(1, 2, 0).numpy()))
    found = []
    for detection in detector(image, threshold=_LEAST_KEPT):
        if detection["label"].lower() == PERSON:
            corners = detection["box"]
            box = [corners[side] / size for side, size in zip(("xmin", "ymin", "xmax", "ymax"), (width, height) * 2)]
            found.append((box, detection["score"]))
    return found


def _lines(name: KeyFrame, persons: Sequence[tuple[list[float], float]]) -> str:
    start = f"{name[0]},{name[1]:04d}"
    if not persons:
        return f"{start},,,,,,\n"
    boxes = ((",".join(f"{value:.4f}" for value in box), score) for box, score in persons)
    return "".join(f"{start},{corners},,{score:.4f}\n" for corners, score in boxes)


def _keep_whole_lines(path: Path) -> set[KeyFrame]:
    """Drops a last line that a kill cut off; returns the key frames that the file has."""
    if not path.exists():
        return set()
    *whole, rest = path.read_text().split("\n")
    if rest:
        write_text(path, "".join(f"{line}\n" for line in whole))
    return set(_read_file(path))


def _read_file(path: Path) -> Mapping[KeyFrame, list[tuple[list[float], float]]]:
    """Boxes and scores by key frame."""
    frames: dict[KeyFrame, list[tuple[list[float], float]]] = {}
    with path.open(newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            try:
                boxes = frames.setdefault((row[0], int(float(row[1]))), [])
                if len(row) > 2 and row[2]:
                    box = [float(value) for value in row[2:6]]
                    if len(box) != 4:
                        raise ValueError
                    boxes.append((box, float(row[7]) if len(row) > 7 and row[7] else 1.0))
            except (ValueError, IndexError):
                raise ValueError(
                    f"{path}, line {number} is no row of video,second,x1,y1,x2,y2,action,score: {','.join(row)}"
                ) from None
    return frames
