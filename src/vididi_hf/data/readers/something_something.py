"""Something-Something V2 (Goyal et al. 2017): 220,847 videos of 174 actions of hands with objects."""

from __future__ import annotations

import json
from pathlib import Path

import datasets

from vididi_hf.data.readers.common import DatasetFolder, choose_splits

NAME = "something-something-v2"


def read_something_something(root: str | Path | None = None, split: str | None = "train") -> datasets.Dataset:
    """Reads Something-Something V2 by `[labels/][something-something-v2-]{train,validation,test,labels}.json`.

    Videos are `<id>.webm`. The labels of the test split come from `test-answers.csv` (`id;label`), if it exists.

    Returns the columns `video`, `label` (the template, numbered as in `labels.json`; none without answers) and
    `caption`, which names the objects (empty for the test split).
    """
    offered = ("train", "validation", "test")
    splits = choose_splits(NAME, split, offered)
    folder = DatasetFolder(NAME, root)
    index = _find(folder, "labels") or folder.find_list(r"labels\.json", "list of classes labels.json")
    numbers = json.loads(index.read_text(encoding="utf-8"))
    names = sorted(numbers, key=lambda name: int(numbers[name]))
    listed: list[str] = []
    labels: list[str | None] = []
    captions: list[str] = []
    found = {part: path for part in splits if (path := _find(folder, part))}
    if not found or (split is not None and len(found) < len(splits)):
        raise folder.missing(f"list {' or '.join(f'{part}.json' for part in splits)}")
    for part, path in found.items():
        answers = _read_answers(folder) if part == "test" else {}
        for entry in json.loads(path.read_text(encoding="utf-8")):
            listed.append(str(entry["id"]))
            template = entry.get("template") or answers.get(str(entry["id"]))
            labels.append(template.replace("[", "").replace("]", "") if template else None)
            captions.append(entry.get("label", ""))
    return folder.rows(listed, labels if any(labels) else None, names, caption=captions)


def _find(folder: DatasetFolder, part: str) -> Path | None:
    """The list of a split: first by the long name, which no other data set uses."""
    paths = folder.find_lists(rf"{NAME}-{part}\.json") or folder.find_lists(rf"{part}\.json")
    return paths[0] if paths else None


def _read_answers(folder: DatasetFolder) -> dict[str, str]:
    answers = {}
    for path in folder.find_lists(rf"({NAME}-)?test-answers\.csv")[:1]:
        for line in path.read_text(encoding="utf-8").splitlines():
            video, _, label = line.partition(";")
            answers[video] = label
    return answers
