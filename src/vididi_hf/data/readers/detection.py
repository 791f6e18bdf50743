"""Columns for action boxes (JHMDB, UCF101-24, AVA), and key frames of videos with boxes.

Every box is one entry in the parallel columns `boxes` (x1, y1, x2, y2, as fractions of the width and height), `persons`
(the number of the person within the video) and `box_labels` (the numbers of the classes that the person shows). If a
row is a video (JHMDB, UCF101-24), `frames` says in which frame, from 0, of `num_frames`.

A **key frame** is a row without `frames`. Instead, `frame` (from 0, by `key_frames`) or `timestamp` (seconds, AVA) says
where it is in its video.
"""

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
    """Turns rows that are videos with boxes (JHMDB, UCF101-24) into one row per frame: a key frame, in order.

    Takes frames 0, `every`, 2·`every` … of each video. `include_empty` also takes frames without boxes.
    """
    if missing := [column for column in BOX_COLUMNS if column not in rows.column_names]:
        raise ValueError(f"the data set has no column {', '.join(missing)}: its rows are not videos with boxes")
    if every < 1:
        raise ValueError(f"every must be positive, got {every}")
    types = {"frame": datasets.Value("int32"), **rows.features}
    types.pop("frames")
    made: dict[str, list] = {name: [] for name in types}
    for row in rows.cast_column("video", datasets.Video(decode=False)):
        by_frame: dict[int, list[int]] = {}
        for index, frame in enumerate(row.pop("frames")):
            by_frame.setdefault(frame, []).append(index)
        wanted = range(row["num_frames"] or 0) if include_empty else sorted(by_frame)
        for frame in (frame for frame in wanted if frame % every == 0):
            chosen = by_frame.get(frame, [])
            made["frame"].append(frame)
            for name, value in row.items():
                made[name].append([value[index] for index in chosen] if name in BOX_COLUMNS else value)
    if not made["video"]:
        raise ValueError("the data set holds no key frame")
    return as_dataset(made, types)


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
