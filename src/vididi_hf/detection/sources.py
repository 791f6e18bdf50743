"""Boxes to test a detector on: ground truth, jittered ground truth, a file of detections, or a person detector."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image
from tqdm.auto import tqdm

from vididi_hf.data.decoding import BrokenVideoError
from vididi_hf.data.options import ALL_ROWS
from vididi_hf.data.readers.detection import checked_box
from vididi_hf.data.saved import DatasetObject
from vididi_hf.data.seeding import seeded_generator
from vididi_hf.data.tables import csv_lines
from vididi_hf.detection.boxes import jitter_boxes
from vididi_hf.detection.key_frames import KeyFrame, KeyFrameReader, load_key_frames, names_of
from vididi_hf.detection.options import MIN_KEPT, BoxOptions
from vididi_hf.files import printable, write_text

_TOLERANCE = 0.25  # detectors also guess the hidden part of a person who is cut off by the edge

Detector = Callable[..., list[dict[str, Any]]]
"""A `pipeline("object-detection")`: from a PIL image and `threshold` to a list of `{"label", "score", "box"}`."""


def load_test_rows(options: BoxOptions, dataset: str | DatasetObject, split: str, **place: Any) -> datasets.Dataset:
    """Loads the key frames of the test; with detected boxes, also those without annotated people."""
    how: dict[str, Any] = {"every": options.test_every, "include_empty": options.boxes in ("file", "detector")}
    return load_key_frames(dataset, split=None if split == ALL_ROWS else split, **how, **place)


def load_boxes(
    options: BoxOptions, rows: datasets.Dataset, output: Path, progress: bool = False
) -> tuple[list[Tensor], str]:
    """Returns the boxes (boxes, 4) of each key frame, and their source. A person detector writes to `output`."""
    truth = ground_truth_boxes(rows)
    if options.boxes == "jittered":
        generators = (seeded_generator("jittered boxes", options.jitter_seed, index) for index in range(len(truth)))
        jittered = [jitter_boxes(boxes, options.jitter, generator) for boxes, generator in zip(truth, generators)]
        return jittered, f"ground truth, jittered by {options.jitter:g}"
    if options.boxes == "file":
        boxes = read_detections(options.detections or "", rows, options.min_score)
        return boxes, f"file, score >= {options.min_score:g}"
    if options.boxes == "detector":
        from transformers import pipeline

        # Loaded for the first frame that is not in the file: if all are, the model need not even be downloaded.
        load = cache(partial(pipeline, "object-detection", model=options.detector))
        # The name contains the detector, so that another detector's boxes are not taken for its own.
        path = Path(options.detections or output / f"persons-{re.sub(r'[^a-zA-Z0-9.-]+', '_', options.detector)}.csv")
        found = detect_persons(rows, lambda image, **how: load()(image, **how), path, options.min_score, progress)
        return found, f"{options.detector}, score >= {options.min_score:g}"
    return truth, "ground truth"


def ground_truth_boxes(rows: datasets.Dataset) -> list[Tensor]:
    """Returns the annotated boxes (boxes, 4) of each key frame."""
    return [torch.tensor(boxes, dtype=torch.float32).view(-1, 4) for boxes in rows["boxes"]]


def read_detections(path: str | Path, rows: datasets.Dataset, min_score: float = 0.9) -> list[Tensor]:
    """Reads the boxes (boxes, 4) of people in each key frame from a CSV file in AVA's format.

    Its columns are `video,second,x1,y1,x2,y2,action,score`. The action may be empty; a box that appears for several
    actions counts once. For other data sets than AVA, video and second are the name of the key frame (`names_of`). A
    line without a box says that nobody was found. A line without a score counts as certain.
    """
    found, names = _read_file(Path(path)), names_of(rows)
    if found.keys().isdisjoint(names):
        raise ValueError(
            f"{path} has none of the {len(names)} key frames: it begins with {next(iter(found), 'nothing')}, "
            f"and the first key frame is {names[0]}"
        )
    boxes = []
    for name in names:
        sure = dict.fromkeys(person[:4] for person in found.get(name, []) if person[4] >= min_score)
        boxes.append(torch.tensor(list(sure), dtype=torch.float32).view(-1, 4))
    return boxes


def detect_persons(
    rows: datasets.Dataset, detector: Detector, path: str | Path, min_score: float = 0.9, progress: bool = False
) -> list[Tensor]:
    """Returns the boxes (boxes, 4) of people in each key frame, and writes AVA's CSV file or continues one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    known: set[KeyFrame] = set()
    if path.exists():
        *lines, rest = path.read_text(encoding="utf-8").split("\n")
        if rest:  # a kill cut it off
            write_text(path, "".join(f"{line}\n" for line in lines))
        known = set(_read_file(path))
    reader = KeyFrameReader(rows)
    with path.open("a", newline="", encoding="utf-8") as file:
        for index, name in enumerate(tqdm(names_of(rows), "detecting persons", unit="frame", disable=not progress)):
            if name in known:
                continue
            known.add(name)
            try:
                ((frame,), _) = reader.read(index)
            except BrokenVideoError:
                continue
            height, width = frame.shape[-2:]
            sizes = {"xmin": width, "ymin": height, "xmax": width, "ymax": height}
            people = []
            for found in detector(to_pil_image(frame), threshold=MIN_KEPT):
                if found["label"].lower() == "person":
                    corners = [f"{min(max(found['box'][side] / size, 0), 1):.4f}" for side, size in sizes.items()]
                    if corners[0] != corners[2] and corners[1] != corners[3]:
                        people.append([*corners, "", f"{found['score']:.4f}"])
            text = io.StringIO()
            rows_of_frame = ([name[0], f"{name[1]:04d}", *person] for person in people or [[""] * 6])
            csv.writer(text, lineterminator="\n").writerows(rows_of_frame)
            file.write(text.getvalue())  # one write per key frame, so that a kill leaves no part of one behind
            file.flush()
    return read_detections(path, rows, min_score)


def _read_file(path: Path) -> dict[KeyFrame, list[tuple[float, ...]]]:
    """x1, y1, x2, y2 and score of all people, by key frame."""
    frames: dict[KeyFrame, list[tuple[float, ...]]] = {}
    for place, fields in csv_lines(path):
        row = [field.strip() for field in fields]
        try:
            video, second, *box = row[:6]
            people = frames.setdefault((video, int(float(second))), [])
            score = float("".join(row[7:8]) or 1)
        except ValueError:
            expected = "video,second,x1,y1,x2,y2,action,score"
            raise ValueError(f"{path}, {place} is not {expected}: {printable(','.join(row))}") from None
        try:
            if any(box):
                people.append((*checked_box([float(edge) for edge in box], _TOLERANCE), score))
        except ValueError as error:
            raise ValueError(f"{path}, {place}: {error}") from None
    return frames
