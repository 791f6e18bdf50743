"""AVA (Gu et al. 2018), versions 2.1 and 2.2: the actions of people in key frames, one per second, of 299 movies."""

import re
import warnings
from pathlib import Path
from typing import Any

import datasets
import pandas as pd

from vididi_hf.data.readers.common import DatasetFolder, choose_splits
from vididi_hf.data.readers.detection import box_features, checked_box
from vididi_hf.data.tables import csv_lines

NUM_ACTIONS = 80
_NOT_EVALUATED = (2, 16, 18, 19, 21, 23, 25, 31, 32, 33, 35, 39, 40, 42, 44, 50, 53, 55, 71, 75)
# AVA's numbers, from 1, of the 60 actions of its benchmark. The others are too rare in the validation split.
EVALUATED_ACTIONS = tuple(number for number in range(1, NUM_ACTIONS + 1) if number not in _NOT_EVALUATED)
KEY_SECONDS = range(902, 1799)  # the seconds of a movie that are key frames
CUT_FOLDER = "videos_15min"  # the usual scripts cut minutes 15 to 30 into this folder
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
    """Reads AVA: a row per key frame, also without people if `include_empty`. Files begin at second `starts_at`."""
    if version not in ("2.1", "2.2"):
        raise ValueError(f"ava: version must be '2.1' or '2.2', got {version!r}")
    splits = choose_splits("ava", split, tuple(_FILE_NAMES))
    folder = DatasetFolder("ava", root, least=0.0)  # movies are large, and some use a few
    names = _action_names(folder, version)
    table = pd.concat([_read_list(folder, _FILE_NAMES[part], version) for part in splits])
    excluded: set[tuple[str, int]] = set().union(*(_excluded(folder, _FILE_NAMES[part], version) for part in splits))
    # A line is one action of one box. Group lines into boxes, and boxes into key frames.
    boxes: dict[tuple[str, int, tuple[float, ...], int], list[int]] = {}
    for video, second, *corners, action, person in table.itertuples(index=False, name=None):
        boxes.setdefault((video, second, tuple(corners), person), []).append(action - 1)
    key_frames: dict[tuple[str, int], list[tuple[list[float], list[int], int]]] = {}
    if include_empty:
        key_frames = {(video, second): [] for video in table["video_id"].unique() for second in KEY_SECONDS}
    for (video, second, box, person), labels in boxes.items():
        key_frames.setdefault((video, second), []).append((list(box), labels, person))
    keys = sorted(key for key in key_frames if key not in excluded)
    videos = [video for video, _ in keys]
    starts = {video: CUT_AT if CUT_FOLDER in Path(folder.locate(video) or "").parts else 0.0 for video in set(videos)}
    columns: dict[str, Any] = {
        "video_id": videos,
        "second": [second for _, second in keys],
        "timestamp": [second - (starts[video] if starts_at is None else starts_at) for video, second in keys],
        "boxes": [[corner for corner, _, _ in key_frames[key]] for key in keys],
        "box_labels": [[labels for _, labels, _ in key_frames[key]] for key in keys],
        "persons": [[person for _, _, person in key_frames[key]] for key in keys],
    }
    return folder.rows(videos, None, None, box_features(names), **columns)


def _action_names(folder: DatasetFolder, version: str) -> list[str]:
    """The 80 names. Several lists may name different actions; unnamed ones are `action <number>`."""
    paths = folder.find_lists(rf"ava_action_list_v{re.escape(version)}.*\.pbtxt(\.txt)?")
    if not paths:
        raise folder.missing(f"list of actions ava_action_list_v{version}.pbtxt")
    text = "\n".join(path.read_text(encoding="utf-8-sig") for path in paths)
    found = re.findall(r'name:\s*"([^"]*)"\s*(?:label_)?id:\s*(\d+)', text)
    named = {int(number): name for name, number in found}
    return [named.get(number, f"action {number}") for number in range(1, NUM_ACTIONS + 1)]


def _read_list(folder: DatasetFolder, part: str, version: str) -> pd.DataFrame:
    name = f"ava_{part}_v{version}.csv"
    path = folder.find_list(re.escape(name), f"list {name}")
    rows = []
    for place, line in csv_lines(path):
        try:
            video, second, *corners, action, person = line
            numbers = checked_box(tuple(map(float, corners)))
            rows.append((video.strip(), int(second), *numbers, int(action), int(person)))
        except ValueError as error:
            raise ValueError(f"{path}, {place}: each line must be {','.join(_COLUMNS)}: {error}") from None
    return pd.DataFrame(rows, columns=_COLUMNS)


def _excluded(folder: DatasetFolder, part: str, version: str) -> set[tuple[str, int]]:
    name = f"ava_{part}_excluded_timestamps_v{version}.csv"
    for path in folder.find_lists(re.escape(name))[:1]:
        return {(video.strip(), int(second)) for _, (video, second, *_) in csv_lines(path)}
    warnings.warn(f"ava: found no {name} in or next to {folder.root}: no key frame is excluded", stacklevel=3)
    return set()
