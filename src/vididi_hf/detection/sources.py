"""Boxes to test a detector on: ground truth, jittered ground truth, a file of detections, or a person detector."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from vididi_hf.data.decoding import BrokenVideoError
from vididi_hf.data.options import ALL_ROWS
from vididi_hf.data.seeding import seeded_generator
from vididi_hf.detection.boxes import box_area, jitter_boxes
from vididi_hf.detection.key_frames import KeyFrame, KeyFrameReader, load_key_frames, names_of
from vididi_hf.detection.options import BoxOptions
from vididi_hf.files import write_text

Detector = Callable[..., list[dict[str, Any]]]
"""A `pipeline("object-detection")`: from a PIL image and `threshold` to a list of `{"label", "score", "box"}`."""

_PERSON = "person"
# Detections with lower scores are not even written to the file.
_MIN_KEPT = 0.5


def load_test_rows(options: BoxOptions, dataset: str, root: str | None, split: str) -> datasets.Dataset:
    """Loads the key frames of the test; with detected boxes, also those without annotated people."""
    return load_key_frames(
        dataset,
        root=root,
        split=None if split == ALL_ROWS else split,
        every=options.test_every,
        include_empty=options.boxes in ("file", "detector"),
    )


def load_boxes(
    options: BoxOptions, rows: datasets.Dataset, output: Path, progress: bool = False
) -> tuple[list[Tensor], str]:
    """Returns the boxes (boxes, 4) of each key frame, and a description of their source.

    A person detector writes its file to the folder `output`.
    """
    if options.boxes == "jittered":
        return jittered_boxes(
            rows, options.jitter, options.jitter_seed
        ), f"ground truth, jittered by {options.jitter:g}"
    if options.boxes == "file":
        assert options.detections is not None
        return read_detections(options.detections, rows, options.min_score), f"file, score >= {options.min_score:g}"
    if options.boxes == "detector":
        from transformers import pipeline

        # Loaded for the first frame that is not in the file: if all are, the model need not even be downloaded.
        load = cache(partial(pipeline, "object-detection", model=options.detector))
        # The name contains the detector, so that another detector's boxes are not taken for its own.
        path = Path(options.detections or output / f"persons-{Path(options.detector).name}.csv")
        found = detect_persons(rows, lambda image, **how: load()(image, **how), path, options.min_score, progress)
        return found, f"{options.detector}, score >= {options.min_score:g}"
    return ground_truth_boxes(rows), "ground truth"


def ground_truth_boxes(rows: datasets.Dataset) -> list[Tensor]:
    """Returns the annotated boxes (boxes, 4) of each key frame."""
    return [torch.tensor(boxes, dtype=torch.float32).view(-1, 4) for boxes in rows["boxes"]]


def jittered_boxes(rows: datasets.Dataset, amount: float, seed: int = 0) -> list[Tensor]:
    """Returns the annotated boxes of each key frame after `jitter_boxes`, with separate draws for each row."""
    return [
        jitter_boxes(boxes, amount, seeded_generator("jittered boxes", seed, index))
        for index, boxes in enumerate(ground_truth_boxes(rows))
    ]


def read_detections(path: str | Path, rows: datasets.Dataset, min_score: float = 0.9) -> list[Tensor]:
    """Reads the boxes of people from a CSV file in AVA's format, `video,second,x1,y1,x2,y2,action,score`.

    The action may be empty; a box that appears for several actions counts once. For other data sets than AVA, video
    and second are the name of the key frame (`names_of`). A line without a box says that nobody was found. A line
    without a score counts as certain.

    Returns:
        The boxes (boxes, 4) of each key frame, between 0 and 1.
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
    return [one[box_area(one) > 0] for one in boxes]


def detect_persons(
    rows: datasets.Dataset, detector: Detector, path: str | Path, min_score: float = 0.9, progress: bool = False
) -> list[Tensor]:
    """Detects people in key frames, and writes them to a CSV file in AVA's format.

    Key frames that are already in the file are not detected again. So an interrupted run continues, and a second
    evaluation does not need the detector. Returns the boxes (boxes, 4) of each key frame.
    """
    if not _MIN_KEPT <= min_score <= 1:
        raise ValueError(f"min_score of detected boxes must be between {_MIN_KEPT} and 1, got {min_score}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    known = _drop_cut_off_line(path)
    reader = KeyFrameReader(rows, num_frames=1, stride=1, extra_frames=0)
    with path.open("a", newline="", encoding="utf-8") as file:
        names = names_of(rows)
        for index in tqdm(range(len(rows)), desc="detecting persons", unit="frame", disable=not progress):
            if names[index] in known:
                continue
            known.add(names[index])
            try:
                frame = reader.read_key_frame(index)
            except BrokenVideoError:
                continue
            # One write per key frame, so that a kill leaves no part of one behind.
            file.write(_lines(names[index], _persons(detector, frame)))
            file.flush()
    return read_detections(path, rows, min_score)


def _persons(detector: Detector, frame: Tensor) -> list[tuple[list[float], float]]:
    """Boxes, as fractions of width and height, and scores of the people in a frame (3, height, width)."""
    height, width = frame.shape[-2:]
    image = Image.fromarray(np.ascontiguousarray(frame.permute(1, 2, 0).numpy()))
    found = []
    for detection in detector(image, threshold=_MIN_KEPT):
        if detection["label"].lower() == _PERSON:
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


def _drop_cut_off_line(path: Path) -> set[KeyFrame]:
    """Removes a last line that a kill cut off; returns the key frames of the file."""
    if not path.exists():
        return set()
    *lines, rest = path.read_text(encoding="utf-8").split("\n")
    if rest:
        write_text(path, "".join(f"{line}\n" for line in lines))
    return set(_read_file(path))


def _read_file(path: Path) -> Mapping[KeyFrame, list[tuple[list[float], float]]]:
    """Boxes and scores by key frame."""
    frames: dict[KeyFrame, list[tuple[list[float], float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
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
                    f"{path}, line {number} is not video,second,x1,y1,x2,y2,action,score: {','.join(row)}"
                ) from None
    return frames
