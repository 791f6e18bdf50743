"""HMDB51 (Kuehne et al. 2011): 6,766 clips of 51 actions; each of three official splits uses 5,100 of them."""

import re
from collections.abc import Iterable
from pathlib import Path

import datasets

from vididi_hf.data.readers.common import DatasetFolder, choose_splits, without_suffix

FLAGS = {"1": "train", "2": "test"}  # the number after a clip in a list; HMDB51 also has 0: not used in this split


def read_hmdb51(
    root: str | Path | None = None, split: str | None = "train", *, official_split: int = 1
) -> datasets.Dataset:
    """Reads HMDB51 by either kind of its lists (layouts and columns: docs/datasets.md)."""
    splits = choose_splits("hmdb51", split, ("train", "test"), official_split)
    folder = DatasetFolder("hmdb51", root)
    found = read_flags(folder, official_split) or _read_plain_lists(folder, official_split)
    names = check_actions(folder, found, 51, f"lists <action>_test_split{official_split}.txt")
    chosen = [clip for part in splits for clip, listed_in in found.items() if listed_in == part]
    labels = [clip.partition("/")[0] for clip in chosen]
    return folder.rows(chosen, labels, names, source=sources_of(chosen))


def read_flags(folder: DatasetFolder, official_split: int) -> dict[str, str]:
    """Reads the lists of HMDB51 or JHMDB, one per action: `"train"` or `"test"` by video (`action/clip`)."""
    found: dict[str, str] = {}
    ending = f"_test_split{official_split}.txt"
    # No action is called hmdb51, but the plain lists of both splits are.
    paths = {path.name: path for path in reversed(folder.find_lists(rf"(?!hmdb51_).+{re.escape(ending)}"))}
    for name, path in sorted(paths.items()):
        for clip, flag in _split_lines(path):
            if flag in FLAGS:
                found[f"{name[: -len(ending)]}/{without_suffix(clip)}"] = FLAGS[flag]
    return found


def check_actions(folder: DatasetFolder, found: dict[str, str], number: int, description: str) -> list[str]:
    """Returns the sorted actions of clips. All must exist, because their order numbers them."""
    if not found:
        raise folder.missing(description)
    names = sorted({clip.partition("/")[0] for clip in found})
    if len(names) != number:
        have = f"have {len(names)} actions, not {number}: they are incomplete or belong to another data set"
        raise ValueError(f"{folder.name}: the {description} in or next to {folder.root} {have}")
    return names


def sources_of(videos: Iterable[str]) -> list[str]:
    """The recordings that clips were cut from: the first part of `action/<recording>_<action>_…`."""
    return [clip.rpartition(f"_{action}_")[0] for action, _, clip in (video.partition("/") for video in videos)]


def _read_plain_lists(folder: DatasetFolder, official_split: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for part, aliases in [("train", "train"), ("test", "(val|test)")]:
        for path in folder.find_lists(rf"hmdb51_(vid_)?{aliases}_split_?{official_split}(_videos)?\.txt")[:1]:
            found |= {without_suffix(video): part for video, _ in _split_lines(path)}
    return found


def _split_lines(path: Path) -> list[list[str]]:
    """Splits lines of a name, which may contain blanks, and a number."""
    lines = [line.rsplit(maxsplit=1) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if wrong := [line[0] for line in lines if len(line) != 2]:
        raise ValueError(f"{path}: each line must be a clip and a number, got {wrong[0]!r}")
    return lines
