"""The columns in which JHMDB, UCF101-24 and AVA tell who does what where, and key frames made of them.

Every box is one entry in parallel columns:

- `boxes`: (x1, y1, x2, y2), each a fraction of the width or height, 0 at the left and top edges of the picture;
- `box_labels`: the numbers of the classes that the person in the box shows, one or (AVA) several;
- `persons`: which person it is, numbered within a video;
- `frames`: which frame of the video, from 0: only where a row is a video (JHMDB, UCF101-24).

`num_frames` is the length of such a video as annotated.

A **key frame** is a row without `frames` that says instead where it lies in its video: in `frame`, from 0 (JHMDB,
UCF101-24, by `key_frames`), or in `timestamp`, in seconds (AVA).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np

from vididi_hf.data.folders import as_dataset

BOX_COLUMNS = ("frames", "boxes", "box_labels", "persons")

BoxColumns = dict[str, Any]
"""What one row holds in `num_frames` and the box columns, by name."""


def box_features(names: list[str]) -> dict[str, Any]:
    """The types of `num_frames` and the box columns.

    Args:
        names: The classes in the order of their numbers.
    """
    return {
        "num_frames": datasets.Value("int32"),
        "frames": datasets.List(datasets.Value("int32")),
        "boxes": datasets.List(datasets.List(datasets.Value("float32"), length=4)),
        "box_labels": datasets.List(datasets.List(datasets.ClassLabel(names=names))),
        "persons": datasets.List(datasets.Value("int32")),
    }


def key_frames(rows: datasets.Dataset, every: int = 1, include_empty: bool = False) -> datasets.Dataset:
    """Turns rows that are videos with boxes into rows that are key frames.

    Args:
        rows: JHMDB or UCF101-24.
        every: Take frames 0, `every`, 2·`every` … of each video.
        include_empty: Take frames without boxes too, as far as `num_frames` goes: to see somebody there is a mistake.

    Returns:
        One row for each frame, in order: the columns of `rows` with `frame` (from 0) instead of `frames`, and in
        `boxes`, `box_labels` and `persons` only what belongs to that frame.

    Raises:
        ValueError: If `rows` has no boxes by frames, `every` is not positive, or no frame is left.

    Example:
        ```python
        >>> import datasets
        >>> from vididi_hf.data.folders import with_video_column
        >>> from vididi_hf.data.readers.detection import box_features, key_frames
        >>> rows = with_video_column(
        ...     ["a.mp4"],
        ...     features=box_features(["run", "walk"]),
        ...     frames=[[4, 5]],
        ...     boxes=[[[0, 0, 0.5, 0.5], [0, 0, 0.5, 1]]],
        ...     box_labels=[[[1], [1]]],
        ...     persons=[[0, 0]],
        ... )
        >>> key_frames(rows).remove_columns("video")[1]
        {'frame': 5, 'boxes': [[0.0, 0.0, 0.5, 1.0]], 'box_labels': [[1]], 'persons': [0]}

        ```
    """
    if missing := [column for column in BOX_COLUMNS if column not in rows.column_names]:
        raise ValueError(f"the data set has no column {', '.join(missing)}: its rows are not videos with boxes")
    if every < 1:
        raise ValueError(f"every must be positive, got {every}")
    types = {"frame": datasets.Value("int32"), **rows.features}
    types.pop("frames")
    made: dict[str, list] = {name: [] for name in types}
    for row in rows.cast_column("video", datasets.Video(decode=False)):
        frames = row.pop("frames")
        by_frame: dict[int, list[int]] = {}
        for index, frame in enumerate(frames):
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
    """Boxes (n, 4) in pixels as fractions of the picture, cut at its edges."""
    return (np.asarray(boxes, dtype=np.float64) / [width, height, width, height]).clip(0, 1).tolist()


def load_mat(path: Path) -> dict[str, Any]:
    """Reads a MATLAB file.

    Raises:
        ImportError: If SciPy is not installed; says how to install it.
        ValueError: If it is no MATLAB file that SciPy reads.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError(
            f"{path.name} is a MATLAB file, which SciPy reads: pip install 'vididi-hf[detection]'"
        ) from error
    try:
        return loadmat(path)
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a MATLAB file: {error}") from error
