"""JHMDB (Jhuang et al. 2013): 928 clips of 21 actions with masks of the one who acts; three official splits."""

from __future__ import annotations

import csv
from pathlib import Path

import datasets
import numpy as np

from vididi_hf.data.readers.common import DatasetFolder, check_official_split, choose_splits, without_suffix
from vididi_hf.data.readers.detection import BoxColumns, box_features, fractions, load_mat
from vididi_hf.data.readers.hmdb51 import check_actions, read_flags, sources_of

_NO_BOXES: BoxColumns = {"num_frames": None, "frames": [], "boxes": []}


def read_jhmdb(
    root: str | Path | None = None, split: str | None = "train", *, official_split: int = 1
) -> datasets.Dataset:
    """Reads JHMDB as published, or from two tables.

    *As published:* videos (`ReCompress_Videos/<action>/*.avi`), `splits/<action>_test_split<N>.txt` (1: train, 2: test)
    and, if they are there, masks (`puppet_mask/<action>/<clip>/puppet_mask.mat`); the box of a frame is the smallest
    around its mask. *From tables:* `clips.csv` (`video,label,split,frames,…`, the first official split) and, if it is
    there, `boxes.csv` (`video,frame,x1,y1,x2,y2`, fractions).

    Args:
        root: The folder.
        split: `"train"`, `"test"` or None for both.
        official_split: Which of the three official splits.

    Returns:
        One row for each clip: `video`, `label` (names sorted), `source` (the film or upload it was cut from) and, where
        there are boxes, `num_frames` and the box columns of `vididi_hf.data.readers.detection`.

    Raises:
        FileNotFoundError: If the lists, or more than half of their videos, are missing.
        ImportError: If there are masks and SciPy is missing.
        ValueError: If there is no such split.
    """
    check_official_split("jhmdb", official_split)
    splits = choose_splits("jhmdb", split, ("train", "test"))
    folder = DatasetFolder("jhmdb", root)
    found = read_flags(folder, official_split)
    from_tables = not found
    if from_tables:
        found = _read_clips(folder, official_split)
    names = check_actions(folder, found, 21, f"lists <action>_test_split{official_split}.txt or clips.csv")
    chosen = [clip for part in splits for clip, listed_in in found.items() if listed_in == part]
    labels = [clip.partition("/")[0] for clip in chosen]
    boxes = (_read_box_table if from_tables else _read_masks)(folder, set(chosen))
    columns = {}
    if boxes:
        rows = [boxes.get(clip, _NO_BOXES) for clip in chosen]
        columns = {name: [row[name] for row in rows] for name in _NO_BOXES}
        columns["box_labels"] = [[[names.index(label)]] * len(row["frames"]) for label, row in zip(labels, rows)]
        columns["persons"] = [[0] * len(row["frames"]) for row in rows]
    return folder.rows(chosen, labels, names, box_features(names), source=sources_of(chosen), **columns)


def _read_clips(folder: DatasetFolder, official_split: int) -> dict[str, str]:
    """`"train"` or `"test"` by clip, from `clips.csv`."""
    paths = folder.find_lists(r"clips\.csv")
    if paths and official_split != 1:
        raise ValueError(f"{paths[0]} holds the official split 1 of jhmdb only, not {official_split}")
    return {_clip(row): row["split"] for path in paths[:1] for row in _read_csv(path)}


def _read_box_table(folder: DatasetFolder, clips: set[str]) -> dict[str, BoxColumns]:
    """Boxes of the clips, from `boxes.csv`, and the numbers of frames, from `clips.csv`."""
    found: dict[str, BoxColumns] = {}
    lengths = {_clip(row): int(row["frames"]) for row in _read_csv(folder.find_list(r"clips\.csv", "clips.csv"))}
    for path in folder.find_lists(r"boxes\.csv")[:1]:
        for row in _read_csv(path):
            if (clip := _clip(row)) in clips:
                columns = found.setdefault(clip, {"num_frames": lengths[clip], "frames": [], "boxes": []})
                columns["frames"].append(int(row["frame"]))
                columns["boxes"].append([float(row[corner]) for corner in ("x1", "y1", "x2", "y2")])
    return found


def _read_masks(folder: DatasetFolder, clips: set[str]) -> dict[str, BoxColumns]:
    """Boxes of the clips around the masks: `part_mask`, (height, width, frames), zero where the person is not."""
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
                    corners[frame] = [x[0], y[0], x[-1] + 1, y[-1] + 1]  # edges, so the last pixel counts
            boxes = fractions(np.array(list(corners.values())).reshape(-1, 4), width, height)
            found[clip] = {"num_frames": num_frames, "frames": list(corners), "boxes": boxes}
    return found


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _clip(row: dict[str, str]) -> str:
    """`action/clip` of a row of the tables."""
    return f"{row['label']}/{without_suffix(row['video']).rpartition('/')[2]}"
