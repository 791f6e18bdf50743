"""Readers of the users' own videos: a folder, a CSV or Parquet list, a saved or published 🤗 data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from vididi_hf.data.files import VIDEO_SUFFIXES, find_files

SPLIT_NAMES = ("train", "validation", "test")
_SPLIT_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "test", "training": "train"}


def with_video_column(
    videos: Sequence[str | None],
    labels: Sequence[str | None] | None = None,
    names: list[str] | None = None,
    features: dict[str, Any] | None = None,
    **columns: list,
) -> datasets.Dataset:
    """Makes a 🤗 data set of video files.

    Args:
        videos: Paths of the files, or None where a row has none. They are opened when a row is read, not now.
        labels: The class name of each video, if known; None for a video of an unknown class.
        names: All class names in the order of their numbers; by default those that occur, sorted.
        features: The types of further columns, where their values do not tell.
        **columns: Further columns.

    Returns:
        A data set with the columns `video` (`datasets.Video`), `label` (`datasets.ClassLabel`, if labels are given) and
        the further ones.

    Raises:
        ValueError: If a label is not among `names`.

    Example:
        ```python
        >>> from vididi_hf.data.folders import with_video_column
        >>> rows = with_video_column(["a.mp4", "b.mp4"], labels=["walk", "run"])
        >>> rows.features["label"].names, rows["label"][:]
        (['run', 'walk'], [1, 0])

        ```
    """
    files = [None if video is None else {"bytes": None, "path": video} for video in videos]
    data: dict[str, list] = {"video": files}
    types: dict[str, Any] = {"video": datasets.Video()}
    if labels is not None:
        names = names or sorted({label for label in labels if label is not None})
        numbers: dict[str | None, int | None] = {None: None, **{name: number for number, name in enumerate(names)}}
        if unknown := set(labels) - set(numbers):
            raise ValueError(
                f"{min(map(str, unknown))!r} is none of the {len(names)} classes {names[0]!r} to {names[-1]!r}"
            )
        data["label"] = [numbers[label] for label in labels]
        types["label"] = datasets.ClassLabel(names=names)
    given = features or {}
    untyped = pa.table({name: values for name, values in columns.items() if name not in given})
    told = datasets.Features.from_arrow_schema(untyped.schema)
    types |= {name: given[name] if name in given else told[name] for name in columns}
    return as_dataset({**data, **columns}, types)


def as_dataset(columns: dict[str, list], types: dict[str, Any]) -> datasets.Dataset:
    """Makes a 🤗 data set of columns that are encoded already: videos are paths or bytes, labels are numbers.

    For hundreds of thousands of rows this takes a third of the time of `Dataset.from_dict`, which encodes each value.

    Args:
        columns: Values by name; a video is `{"bytes": …, "path": …}`.
        types: The feature of each column.
    """
    schema = datasets.Features(types).arrow_schema
    return datasets.Dataset(datasets.table.InMemoryTable(pa.Table.from_pydict(columns, schema=schema)))


def standard_split(name: str) -> str:
    """The usual name of a split that goes by several (val, dev, …); other names stay as they are."""
    lowered = name.lower()
    lowered = _SPLIT_ALIASES.get(lowered, lowered)
    return lowered if lowered in SPLIT_NAMES else name


class MissingSplitError(ValueError):
    """A data set that exists has no such split."""


def no_such_split(where: str | Path, split: str, found: Iterable[str]) -> MissingSplitError:
    """The error for a split that is not there; it names those that are."""
    return MissingSplitError(f"{where} has no split {split!r}; it has {', '.join(sorted(found))}")


def read_video_folder(folder: str | Path, split: str | None = "train") -> datasets.Dataset:
    """Reads a folder of videos, however deep: `[split/][label/…/]name.mp4`.

    Top folders that are named after splits (train, validation, test, val, …) are splits; everything else belongs to
    `"train"`. Where all videos then lie in sub-folders, the name of the first is the label; otherwise there are none.
    Hidden files and folders, whose names begin with a dot, are passed over.

    Args:
        folder: The folder.
        split: The split to read, by any of its names; None reads everything.

    Returns:
        A data set with the columns `video` and, where there are labels, `label`; in the order of the sorted paths.

    Raises:
        FileNotFoundError: If the folder does not exist or holds no video.
        ValueError: If it holds no such split.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    files = sorted(path for path in map(Path, find_files(folder)) if path.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise FileNotFoundError(f"{folder} holds no video: looked, at any depth, for {', '.join(VIDEO_SUFFIXES)}")
    located = []  # (split, path of folders below the split, file)
    for file in files:
        folders = file.parts[:-1]
        named = standard_split(folders[0]) if folders else ""
        if named in SPLIT_NAMES:
            located.append((named, folders[1:], folder / file))
        else:
            located.append(("train", folders, folder / file))
    chosen = [row for row in located if split is None or row[0] == standard_split(split)]
    if not chosen:
        raise no_such_split(folder, str(split), {row[0] for row in located})
    labeled = all(folders for _, folders, _ in located)
    return with_video_column(
        [str(file) for _, _, file in chosen],
        [folders[0] for _, folders, _ in chosen] if labeled else None,
        # The same numbers in every split, also where one lacks a class.
        sorted({folders[0] for _, folders, _ in located}) if labeled else None,
    )


def read_video_list(path: str | Path, split: str | None = "train") -> datasets.Dataset:
    """Reads a CSV or Parquet list with the column `video` and, optionally, `label`, `split` and others.

    Args:
        path: The list. Video paths in it are relative to its folder, or absolute. Labels are names, also where they
            look like numbers.
        split: The rows to read where the list has a column `split`, which may hold any names; None reads all. A list
            without that column is one split, `"train"`.

    Returns:
        A data set with the columns `video`, `label` (if present, as `datasets.ClassLabel`) and all further ones.

    Raises:
        FileNotFoundError: If there is no such list.
        ValueError: If it has no column `video` of paths, no rows, or no such split.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no list {path}")
    import pandas as pd

    if path.suffix.lower() == ".parquet":
        table = pd.read_parquet(path)
    else:
        table = pd.read_csv(path, keep_default_na=False, dtype=dict.fromkeys(("video", "label", "split"), str))
    if "video" not in table:
        raise ValueError(f"{path} has no column 'video', only {', '.join(table.columns)}")
    if table.empty:
        raise ValueError(f"{path} lists no videos")
    if not table["video"].map(lambda video: isinstance(video, str)).all():
        raise ValueError(f"{path} must hold paths in its column 'video', and holds something else")
    # One numbering for all splits, from all rows.
    names = sorted(table["label"].astype(str).unique()) if "label" in table else None
    splits = table["split"].astype(str).map(standard_split) if "split" in table else pd.Series("train", table.index)
    if split is not None:
        table = table[splits == standard_split(split)]
        if table.empty:
            raise no_such_split(path, split, set(splits))
    videos = [str(path.parent / video) for video in table["video"]]
    labels = [str(label) for label in table["label"]] if names is not None else None
    others = {name: table[name].tolist() for name in table.columns if name not in ("video", "label", "split")}
    return with_video_column(videos, labels, names, **others)


def read_saved_dataset(path: str | Path, split: str | None = "train") -> datasets.Dataset:
    """Reads what `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    Args:
        path: The folder.
        split: The split of a `DatasetDict`; a single data set counts as every split.

    Returns:
        The rows; labels that are text become a `datasets.ClassLabel`, numbered alike in every split.

    Raises:
        ValueError: If there is no such split, or no column `video`.
    """
    saved = datasets.load_from_disk(str(path))
    if isinstance(saved, datasets.DatasetDict):
        if split is not None and split not in saved:
            raise no_such_split(path, split, set(saved))
        rows = saved[split] if split is not None else datasets.concatenate_datasets(list(saved.values()))
        return _checked(rows, str(path), saved.values)
    return _checked(saved, str(path), lambda: [saved])


def read_hub_dataset(name: str, split: str | None = "train") -> datasets.Dataset:
    """Loads a data set of the Hub by its id, `owner/name`.

    Returns:
        The rows; labels that are text become a `datasets.ClassLabel`, numbered alike in every split.

    Raises:
        ValueError: If it has no column `video`, or no such split.
    """
    try:
        rows = datasets.load_dataset(name, split=split or "all")
        return _checked(rows, name, lambda: [datasets.load_dataset(name, split="all")])
    except ValueError as error:
        if "Unknown split" in str(error):
            raise MissingSplitError(f"{name}: {error}") from error
        raise


def _checked(
    rows: datasets.Dataset, name: str, all_splits: Callable[[], Iterable[datasets.Dataset]]
) -> datasets.Dataset:
    """Gives rows from elsewhere the columns that ours have; `all_splits` is called where labels are text."""
    if "video" not in rows.column_names:
        raise ValueError(f"{name} has no column 'video', only {', '.join(rows.column_names)}")
    if getattr(rows.features.get("label"), "dtype", "") in ("string", "large_string"):
        # Sorted names, numbered alike in every split, as those of folders and lists are.
        found = {label for split in all_splits() if "label" in split.column_names for label in split.unique("label")}
        names = sorted(label for label in found if label is not None)
        # By way of short strings, from which alone class labels can be made.
        rows = rows.cast_column("label", datasets.Value("string"))
        rows = rows.cast_column("label", datasets.ClassLabel(names=names))
    # Some data sets hold paths as text, or a struct of bytes and path: both become videos.
    return rows.cast_column("video", datasets.Video())
