"""Read a list of videos: a CSV, JSON or Parquet table."""

from pathlib import Path
from typing import Any

import datasets

from vididi_hf.data.folders import (
    choose_columns,
    clean_label,
    existing_path,
    no_such_split,
    standard_split,
    with_video_column,
)
from vididi_hf.data.tables import LABEL, SPLIT, VIDEO, read_table, typed


def read_video_list(path: str | Path, split: str | None = "train", **columns: str | None) -> datasets.Dataset:
    """Reads a table of videos, with paths relative to it and, if given, labels (text), splits and other columns."""
    path = Path(path)
    table, places = read_table(path)
    table = {new: table[old] for old, new in choose_columns(list(table), str(path), **columns).items()}
    if not places:
        raise ValueError(f"{path} lists no videos")
    if not all(isinstance(video, str) for video in table[VIDEO]):
        raise ValueError(f"the column 'video' of {path} must contain paths only")
    # Empty cells of these columns would be folders, or rows that belong to no split.
    for name in (VIDEO, SPLIT):
        if empty := [place for value, place in zip(table.get(name, []), places) if not str(value or "").strip()]:
            raise ValueError(f"{path}, {empty[0]}: the column {name!r} is empty")
    # Number the classes over all rows, so that every split has the same numbers.
    labels = [clean_label(label) for label in table.get(LABEL, [])]
    names = sorted({label for label in labels if label is not None})
    splits = [standard_split(str(name)) for name in table.get(SPLIT, ["train"] * len(places))]
    chosen = [row for row, name in enumerate(splits) if split is None or name == standard_split(split)]
    if not chosen:
        raise no_such_split(path, str(split), set(splits))
    videos = [existing_path(path.parent, table[VIDEO][row]) for row in chosen]
    others: dict[str, Any] = {name: values for name, values in table.items() if name not in (VIDEO, LABEL, SPLIT)}
    if path.suffix.lower() in (".csv", ".tsv"):
        others = {name: typed(values) for name, values in others.items()}
    others = {name: [values[row] for row in chosen] for name, values in others.items()}
    return with_video_column(videos, [labels[row] for row in chosen] if names else None, names, columns=others)
