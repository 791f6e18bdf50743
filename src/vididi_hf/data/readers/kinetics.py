"""Kinetics-400, -600 and -700 (Kay et al. 2017; Carreira et al. 2018, 2019): clips of 10 seconds of YouTube videos."""

from pathlib import Path

import datasets
import pandas as pd

from vididi_hf.data.readers.common import DatasetFolder, choose_splits
from vididi_hf.data.tables import read_table

_FILE_NAMES = {"train": "train", "validation": "(val|validate|validation)", "test": "test"}
_CLIP_COLUMNS = ["youtube_id", "time_start", "time_end"]


def read_kinetics(
    root: str | Path | None = None, split: str | None = "train", *, classes: int = 400
) -> datasets.Dataset:
    """Reads Kinetics by its CSV lists, but not by lists named after a version other than `classes`."""
    name = f"kinetics{classes}"
    splits = choose_splits(name, split, tuple(_FILE_NAMES))
    folder = DatasetFolder(name, root, least=0.0)  # published videos disappear
    tables = {}
    for part, file_name in _FILE_NAMES.items():
        # train.csv, kinetics_train.csv, kinetics-600_train.csv, k700_2020_train.csv …
        for path in folder.find_lists(rf"((k|kinetics)?[-_]?({classes}([-_]2020)?)?[-_])?{file_name}\.csv")[:1]:
            tables[part] = _read_list(path)
    present = [part for part in splits if part in tables]
    if not present or (split is not None and present != splits):
        raise folder.missing(f"list {' or '.join(f'{part}.csv' for part in splits)}")
    names = sorted({label for table in tables.values() for label in table["label"] if label})
    if len(names) > classes:
        raise ValueError(f"{name}: the lists in {folder.root} have {len(names)} classes, more than this version")
    listed: list[str] = []
    table = pd.concat([tables[part] for part in present])
    for video, start, end in table[_CLIP_COLUMNS].itertuples(index=False):
        clip = f"{video}_{int(float(start)):06d}_{int(float(end)):06d}"
        listed.append(video if video in folder.videos and clip not in folder.videos else clip)
    labels = [label or None for label in table["label"]]
    return folder.rows(listed, labels if any(labels) else None, names)


def _read_list(path: Path) -> pd.DataFrame:
    table = pd.DataFrame(read_table(path)[0])  # text, because YouTube ids may look like numbers
    if missing := [column for column in _CLIP_COLUMNS if column not in table]:
        raise ValueError(f"{path} has no column {', '.join(missing)}, only {', '.join(table.columns)}")
    return table if "label" in table else table.assign(label="")
