"""JHMDB (Jhuang et al. 2013): 928 clips of 21 actions with masks of the acting person; three official splits."""

from pathlib import Path

import datasets
import numpy as np

from vididi_hf.data.folders import standard_split
from vididi_hf.data.readers.common import DatasetFolder, choose_splits, without_suffix
from vididi_hf.data.readers.detection import BoxColumns, box_features, checked_box, fractions, load_mat
from vididi_hf.data.readers.hmdb51 import check_actions, read_flags, sources_of
from vididi_hf.data.tables import read_table

_NO_BOXES: BoxColumns = {"num_frames": None, "frames": [], "boxes": []}


def read_jhmdb(
    root: str | Path | None = None, split: str | None = "train", *, official_split: int = 1
) -> datasets.Dataset:
    """Reads JHMDB as published, or from the tables clips.csv and boxes.csv (layouts and columns: docs/datasets.md)."""
    splits = choose_splits("jhmdb", split, ("train", "test"), official_split)
    folder = DatasetFolder("jhmdb", root)
    flags = read_flags(folder, official_split)
    found = flags or _read_clips(folder, official_split)
    names = check_actions(folder, found, 21, f"lists <action>_test_split{official_split}.txt or clips.csv")
    chosen = [clip for part in splits for clip, listed_in in found.items() if listed_in == part]
    labels = [clip.partition("/")[0] for clip in chosen]
    boxes = (_read_masks if flags else _read_box_table)(folder, set(chosen))
    columns = {}
    if boxes:
        rows = [boxes.get(clip, _NO_BOXES) for clip in chosen]
        columns = {name: [row[name] for row in rows] for name in _NO_BOXES}
        columns["box_labels"] = [[[names.index(label)]] * len(row["frames"]) for label, row in zip(labels, rows)]
        columns["persons"] = [[0] * len(row["frames"]) for row in rows]
    return folder.rows(chosen, labels, names, box_features(names), source=sources_of(chosen), **columns)


def _read_clips(folder: DatasetFolder, official_split: int) -> dict[str, str]:
    paths = folder.find_lists(r"clips\.csv")
    if paths and official_split != 1:
        raise ValueError(f"{paths[0]} has only the official split 1 of jhmdb, not {official_split}")
    return {_clip(row): standard_split(row["split"]) for path in paths[:1] for row, _ in _read_csv(path)}


def _read_box_table(folder: DatasetFolder, clips: set[str]) -> dict[str, BoxColumns]:
    found: dict[str, BoxColumns] = {}
    lengths = {_clip(row): int(row["frames"]) for row, _ in _read_csv(folder.find_list(r"clips\.csv", "clips.csv"))}
    for path in folder.find_lists(r"boxes\.csv")[:1]:
        for row, place in _read_csv(path):
            if (clip := _clip(row)) in clips:
                columns = found.setdefault(clip, {"num_frames": lengths[clip], "frames": [], "boxes": []})
                columns["frames"].append(int(row["frame"]))
                try:
                    box = checked_box([float(row[corner]) for corner in ("x1", "y1", "x2", "y2")])
                except ValueError as error:
                    raise ValueError(f"{path}, {place}: {error}") from None
                columns["boxes"].append(list(box))
    return found


def _read_masks(folder: DatasetFolder, clips: set[str]) -> dict[str, BoxColumns]:
    """Bounding boxes of the masks: `part_mask`, (height, width, frames), nonzero where the person is."""
    found: dict[str, BoxColumns] = {}
    for path in folder.find_lists(r"puppet_mask\.mat"):
        clip = "/".join(path.parts[-3:-1])
        if clip in clips and clip not in found:
            mask = load_mat(path)["part_mask"] != 0
            height, width, num_frames = mask.shape
            corners = {}
            for frame in range(num_frames):
                (x,), (y,) = mask[:, :, frame].any(axis=0).nonzero(), mask[:, :, frame].any(axis=1).nonzero()
                if len(x):
                    corners[frame] = [x[0], y[0], x[-1] + 1, y[-1] + 1]  # the right and bottom edges of the last pixels
            boxes = fractions(np.array(list(corners.values())).reshape(-1, 4), width, height)
            found[clip] = {"num_frames": num_frames, "frames": list(corners), "boxes": boxes}
    return found


def _read_csv(path: Path) -> list[tuple[dict[str, str], str]]:
    table, places = read_table(path)
    return [(dict(zip(table, row)), place) for row, place in zip(zip(*table.values()), places)]


def _clip(row: dict[str, str]) -> str:
    """`action/clip` of a row of the tables."""
    return f"{row['label']}/{without_suffix(row['video']).rpartition('/')[2]}"
