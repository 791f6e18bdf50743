"""AVA (Gu et al. 2018), versions 2.1 and 2.2: who does what in key frames, one a second, of 299 movies."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import datasets
import numpy as np
import pandas as pd

from vididi_hf.data.readers.common import DatasetFolder, choose_splits
from vididi_hf.data.readers.detection import box_features

NUM_ACTIONS = 80
_NOT_EVALUATED = (2, 16, 18, 19, 21, 23, 25, 31, 32, 33, 35, 39, 40, 42, 44, 50, 53, 55, 71, 75)
EVALUATED_ACTIONS = tuple(number for number in range(1, NUM_ACTIONS + 1) if number not in _NOT_EVALUATED)
"""AVA's numbers, from 1, of the 60 actions that its benchmark averages over; the others are too rare in validation."""

KEY_SECONDS = range(902, 1799)
"""The seconds of a movie that are key frames: minutes 15 to 30 without their first and last moments."""

CUT_FOLDER = "videos_15min"
CUT_AT = 900.0
_COLUMNS = ["video_id", "second", "x1", "y1", "x2", "y2", "action", "person"]
_FILE_NAMES = {"train": "train", "validation": "val"}


def read_ava(
    root: str | Path | None = None,
    split: str | None = "train",
    *,
    version: str = "2.2",
    starts_at: float | None = None,
    include_empty: bool = False,
) -> datasets.Dataset:
    """Reads AVA by its official files, `ava_{train,val}_v<version>.csv` and what belongs to them.

    Those are `ava_action_list_v<version>*.pbtxt` (names; several lists may name different actions) and
    `ava_{train,val}_excluded_timestamps_v<version>.csv` (key frames that count nowhere, and are left out).

    Args:
        root: The folder of the movies, `<video id>.mkv` or other, or one above that holds the lists too.
        split: `"train"`, `"validation"` or None for both. Labels of the test split were never published.
        version: `"2.1"` or `"2.2"`.
        starts_at: The second of the movie at which the files begin. By default 900 for files in a folder
            `videos_15min`, into which the usual scripts cut minutes 15 to 30, and 0 for others.
        include_empty: Return key frames in which nobody is annotated too: to see somebody there is a mistake.

    Returns:
        One row for each key frame, sorted: `video` (the movie), `video_id`, `second` (as annotated: 902 to 1798),
        `timestamp` (where in the file that is, in seconds) and, of the box columns of
        `vididi_hf.data.readers.detection`, `boxes`, `box_labels` and `persons`. The number of a class is AVA's less 1.

    Raises:
        FileNotFoundError: If a list, or every movie of it, is missing.
        ValueError: If there is no such split or version.

    Warns:
        AbsentVideosWarning: If movies are missing: their number, and in `videos` the ids of all.
        UserWarning: If the list of excluded key frames is missing, so that none is left out.
    """
    if version not in ("2.1", "2.2"):
        raise ValueError(f"ava: version must be '2.1' or '2.2', got {version!r}")
    splits = choose_splits("ava", split, tuple(_FILE_NAMES))
    folder = DatasetFolder("ava", root, least=0.0)  # movies are large, and some use a few
    names = _action_names(folder, version)
    table = pd.concat([_read_list(folder, _FILE_NAMES[part], version) for part in splits])
    excluded: set[tuple[str, int]] = set().union(*(_excluded(folder, _FILE_NAMES[part], version) for part in splits))
    # A line tells one action of one box: lines make boxes, and boxes make key frames.
    actions, first_lines = _grouped(table, [*_COLUMNS[:6], "person"], (table["action"] - 1).tolist())
    boxes = table.iloc[first_lines]
    key_frames: dict[tuple[str, int], list[tuple[list[float], list[int], int]]] = {}
    if include_empty:
        key_frames = {(video, second): [] for video in table["video_id"].unique() for second in KEY_SECONDS}
    corners = boxes[["x1", "y1", "x2", "y2"]].to_numpy().tolist()
    for *key, corner, labels, person in zip(boxes["video_id"], boxes["second"], corners, actions, boxes["person"]):
        key_frames.setdefault((key[0], int(key[1])), []).append((corner, labels, int(person)))
    keys = sorted(key for key in key_frames if key not in excluded)
    videos = [video for video, _ in keys]
    starts = {video: _start(folder.locate(video)) if starts_at is None else starts_at for video in set(videos)}
    return folder.rows(
        videos,
        features=box_features(names),
        video_id=videos,
        second=[second for _, second in keys],
        timestamp=[second - starts[video] for video, second in keys],
        boxes=[[corner for corner, _, _ in key_frames[key]] for key in keys],
        box_labels=[[labels for _, labels, _ in key_frames[key]] for key in keys],
        persons=[[person for _, _, person in key_frames[key]] for key in keys],
    )


def _action_names(folder: DatasetFolder, version: str) -> list[str]:
    """The 80 names; those of actions that no list of the version names are `action <number>`."""
    paths = folder.find_lists(rf"ava_action_list_v{re.escape(version)}.*\.pbtxt(\.txt)?")
    if not paths:
        raise folder.missing(f"list of actions ava_action_list_v{version}.pbtxt")
    named = {}
    for path in paths:
        for name, number in re.findall(r'name:\s*"([^"]*)"\s*(?:label_)?id:\s*(\d+)', path.read_text()):
            named[int(number)] = name
    return [named.get(number, f"action {number}") for number in range(1, NUM_ACTIONS + 1)]


def _read_list(folder: DatasetFolder, part: str, version: str) -> pd.DataFrame:
    """The lines of a split."""
    name = f"ava_{part}_v{version}.csv"
    path = folder.find_list(re.escape(name), f"list {name}")
    types = {"video_id": str, "second": int, "action": int, "person": int}
    try:
        return pd.read_csv(path, header=None, names=_COLUMNS, dtype=types)
    except ValueError as error:
        raise ValueError(f"{path}: each line must hold {','.join(_COLUMNS)}: {error}") from error


def _excluded(folder: DatasetFolder, part: str, version: str) -> set[tuple[str, int]]:
    """The excluded key frames of a split."""
    name = f"ava_{part}_excluded_timestamps_v{version}.csv"
    for path in folder.find_lists(re.escape(name))[:1]:
        table = pd.read_csv(path, header=None, names=["video_id", "second"], dtype={"video_id": str})
        return set(zip(table["video_id"], table["second"].tolist()))
    warnings.warn(f"ava: found no {name} in or beside {folder.root}: no key frame is left out", stacklevel=3)
    return set()


def _grouped(table: pd.DataFrame, by: list[str], values: list) -> tuple[list[list], np.ndarray]:
    """Collects the values of equal keys, in order of first appearance; and the position where each key comes first."""
    groups = table.groupby(by, sort=False).ngroup().to_numpy()
    collected: list[list] = [[] for _ in range(groups.max() + 1)]
    for group, value in zip(groups.tolist(), values):
        collected[group].append(value)
    return collected, np.unique(groups, return_index=True)[1]


def _start(path: str | None) -> float:
    return CUT_AT if path is not None and CUT_FOLDER in Path(path).parts else 0.0
