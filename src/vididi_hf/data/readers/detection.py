"""Columns for action boxes (docs/datasets.md), and key frames: rows of one `frame` or `timestamp` of a video."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from vididi_hf.data.folders import as_dataset

BOX_COLUMNS = ("frames", "boxes", "box_labels", "persons")

BoxColumns = dict[str, Any]  # `num_frames` and the box columns of one row


def box_features(names: list[str]) -> dict[str, Any]:
    return {
        "num_frames": datasets.Value("int32"),
        "frames": datasets.List(datasets.Value("int32")),
        "boxes": datasets.List(datasets.List(datasets.Value("float32"), length=4)),
        "box_labels": datasets.List(datasets.List(datasets.ClassLabel(names=names))),
        "persons": datasets.List(datasets.Value("int32")),
    }


def key_frames(rows: datasets.Dataset, every: int = 1, include_empty: bool = False) -> datasets.Dataset:
    """Makes rows of the frames 0, `every`, 2·`every` … of videos that have boxes, or, if `include_empty`, of all."""
    if missing := [column for column in BOX_COLUMNS if column not in rows.column_names]:
        raise ValueError(f"the data set has no column {', '.join(missing)}: its rows are not videos with boxes")
    if every < 1:
        raise ValueError(f"every must be positive, got {every}")
    types = {"frame": datasets.Value("int32"), **rows.features}
    types.pop("frames")
    made: dict[str, list] = {name: [] for name in types}
    for row in rows.cast_column("video", datasets.Video(decode=False)):
        by_frame: dict[int, list[int]] = {}
        for index, frame in enumerate(row.pop("frames") or []):
            by_frame.setdefault(frame, []).append(index)
        wanted = sorted({*range((row.get("num_frames") or 0) if include_empty else 0), *by_frame})
        for frame in (frame for frame in wanted if frame % every == 0):
            chosen = by_frame.get(frame, [])
            made["frame"].append(frame)
            for name, value in row.items():
                made[name].append([value[index] for index in chosen] if name in BOX_COLUMNS else value)
    if not made["video"]:
        raise ValueError("the data set holds no key frame")
    return as_dataset(made, types)


def checked_box(box: Sequence[float], tolerance: float = 0.01) -> tuple[float, ...]:
    """Cuts a box at the edges of the frame; a ValueError if it exceeds them by more than the tolerance."""
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise ValueError(f"the box {list(box)} must be four numbers x1, y1, x2, y2")
    if min(box) < -tolerance or max(box) > 1 + tolerance:
        raise ValueError(f"the box {list(box)} is not in the frame: x1, y1, x2, y2 are fractions of its size, 0 to 1")
    cut = tuple(min(max(float(edge), 0.0), 1.0) for edge in box)
    if not (cut[0] < cut[2] and cut[1] < cut[3]):
        raise ValueError(f"the box {list(box)} is reversed or empty: it needs x1 < x2 and y1 < y2")
    return cut


def check_boxes(rows: datasets.Dataset, name: str) -> datasets.Dataset:
    """Returns the rows with boxes cut at the edges; a ValueError names the first wrong row."""
    columns = ["boxes", *(column for column in BOX_COLUMNS if column != "boxes" and column in rows.column_names)]
    cut, changed = [], False
    for start, table in enumerate(rows.select_columns(columns).with_format("arrow").iter(1000)):
        for row, found in enumerate(zip(*(table[column].to_pylist() for column in columns)), start * 1000 + 1):
            boxes, *others = ([] if values is None else values for values in found)
            try:
                for column, values in zip(columns[1:], others):
                    if len(boxes) != len(values):
                        what = f"lists of {column}" if column == "box_labels" else column
                        raise ValueError(f"it has {len(boxes)} boxes and {len(values)} {what}")
                cut.append([checked_box(box) for box in boxes])
            except ValueError as error:
                raise ValueError(f"{name}, row {row}: {error}") from None
            changed |= found[0] is None or any(tuple(old) != new for old, new in zip(boxes, cut[-1]))
    if not changed:
        return rows
    boxes_type = datasets.List(datasets.List(datasets.Value("float32"), length=4))
    return rows.remove_columns("boxes").add_column("boxes", cut, feature=boxes_type)


def fractions(boxes: np.ndarray, width: int, height: int) -> list[list[float]]:
    """Converts boxes (n, 4) from pixels to fractions of the picture, cut at its edges."""
    return (np.asarray(boxes, dtype=np.float64) / [width, height, width, height]).clip(0, 1).tolist()


def load_mat(path: Path) -> dict[str, Any]:
    """Reads a MATLAB file with SciPy, which is an optional dependency."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError(f"the MATLAB file {path.name} needs SciPy: pip install 'vididi-hf[detection]'") from error
    try:
        return loadmat(path)
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a MATLAB file: {error}") from error
