"""Something-Something V2 (Goyal et al. 2017): 220,847 videos of 174 actions of hands with objects."""

import json
import re
from pathlib import Path

import datasets

from vididi_hf.data.options import SPLIT_NAMES
from vididi_hf.data.readers.common import DatasetFolder, choose_splits

NAME = "something-something-v2"


def read_something_something(root: str | Path | None = None, split: str | None = "train") -> datasets.Dataset:
    """Reads Something-Something V2 by its JSON lists and, for the labels of the test split, `test-answers.csv`."""
    splits = choose_splits(NAME, split, SPLIT_NAMES)
    folder = DatasetFolder(NAME, root)
    index = _find(folder, "labels") or folder.find_list(r"labels\.json", "list of classes labels.json")
    numbers = json.loads(index.read_text(encoding="utf-8-sig"))
    names = sorted(numbers, key=lambda name: int(numbers[name]))
    found = {part: path for part in splits if (path := _find(folder, part))}
    if not found or (split is not None and len(found) < len(splits)):
        raise folder.missing(f"list {' or '.join(f'{part}.json' for part in splits)}")
    answers = _read_answers(folder) if "test" in found else {}
    entries = [entry for path in found.values() for entry in json.loads(path.read_text(encoding="utf-8-sig"))]
    listed = [str(entry["id"]) for entry in entries]
    templates = [entry.get("template") or answers.get(video) for video, entry in zip(listed, entries)]
    labels = [re.sub(r"[\[\]]", "", template) if template else None for template in templates]
    captions = [entry.get("label", "") for entry in entries]
    return folder.rows(listed, labels if any(labels) else None, names, caption=captions)


def _find(folder: DatasetFolder, part: str) -> Path | None:
    """The list of a split: first by the long name, which no other data set uses."""
    paths = folder.find_lists(rf"{NAME}-{part}\.json") or folder.find_lists(rf"{part}\.json")
    return paths[0] if paths else None


def _read_answers(folder: DatasetFolder) -> dict[str, str]:
    paths = folder.find_lists(rf"({NAME}-)?test-answers\.csv")[:1]
    lines = [line.partition(";") for path in paths for line in path.read_text(encoding="utf-8-sig").splitlines()]
    return {video: label for video, _, label in lines}
