"""Readers of the users' own videos: a folder, a CSV or Parquet list, a saved or published 🤗 data set."""

from __future__ import annotations

from pathlib import Path

import datasets

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts")
SPLIT_NAMES = ("train", "validation", "test")
_SPLIT_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "test", "training": "train"}


def with_video_column(
    videos: list[str], labels: list[str] | None = None, names: list[str] | None = None, **columns: list
) -> datasets.Dataset:
    """Makes a 🤗 data set of video files.

    Args:
        videos: Paths of the files. They are opened when a row is read, not now.
        labels: The class name of each video, if known.
        names: All class names in the order of their numbers; by default those that occur, sorted.
        **columns: Further columns.

    Returns:
        A data set with the columns `video` (`datasets.Video`), `label` (`datasets.ClassLabel`, if labels are given) and the
        further ones.
    """
    data: dict[str, list] = {"video": videos, **columns}
    if labels is not None:
        names = names or sorted(set(labels))
        numbers = {name: number for number, name in enumerate(names)}
        data["label"] = [numbers[label] for label in labels]
    rows = datasets.Dataset.from_dict(data).cast_column("video", datasets.Video())
    return rows.cast_column("label", datasets.ClassLabel(names=names)) if labels is not None else rows


def _split_of(name: str) -> str | None:
    lowered = name.lower()
    lowered = _SPLIT_ALIASES.get(lowered, lowered)
    return lowered if lowered in SPLIT_NAMES else None


def _no_such_split(where: Path, split: str, found: set[str]) -> ValueError:
    return ValueError(f"{where} has no split {split!r}; it has {', '.join(sorted(found)) or 'no videos at all'}")


def read_video_folder(folder: str | Path, split: str | None = "train") -> datasets.Dataset:
    """Reads a folder of videos, however deep: `[split/][label/…/]name.mp4`.

    Where the top folders are named after splits (train, validation, test, val, …), they are splits; otherwise everything
    belongs to `"train"`. Where the videos then lie in sub-folders, the name of the first is the label; videos beside each
    other without sub-folders have no label.

    Args:
        folder: The folder.
        split: The split to read; None reads everything.

    Returns:
        A data set with the columns `video` and, where there are labels, `label`; in the order of the sorted paths.

    Raises:
        FileNotFoundError: If the folder does not exist or holds no video.
        ValueError: If it holds no such split.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    if not files:
        raise FileNotFoundError(f"{folder} holds no video: looked, at any depth, for {', '.join(VIDEO_SUFFIXES)}")
    located = []  # (split, path of folders below the split, file)
    for file in files:
        parts = file.relative_to(folder).parts[:-1]
        named = _split_of(parts[0]) if parts else None
        located.append((named or "train", parts[1:] if named else parts, file))
    chosen = [row for row in located if split is None or row[0] == split]
    if not chosen:
        raise _no_such_split(folder, str(split), {row[0] for row in located})
    labelled = all(folders for _, folders, _ in located)
    return with_video_column(
        [str(file) for _, _, file in chosen],
        [folders[0] for _, folders, _ in chosen] if labelled else None,
        # The same numbers in every split, also where one lacks a class.
        sorted({folders[0] for _, folders, _ in located}) if labelled else None,
    )


def read_video_list(path: str | Path, split: str | None = "train") -> datasets.Dataset:
    """Reads a CSV or Parquet list with the column `video` and, optionally, `label`, `split` and others.

    Args:
        path: The list. Video paths in it are relative to its folder, or absolute.
        split: The rows to read where the list has a column `split`; None reads all. A list without that column is one
            split, `"train"`.

    Returns:
        A data set with the columns `video`, `label` (if present, as `datasets.ClassLabel`) and all further ones.

    Raises:
        FileNotFoundError: If there is no such list.
        ValueError: If it has no column `video`, or no such split.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no list {path}")
    import pandas as pd

    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, keep_default_na=False)
    if "video" not in table:
        raise ValueError(f"{path} has no column 'video', only {', '.join(table.columns)}")
    # One numbering for all splits, from all rows.
    names = sorted(table["label"].astype(str).unique()) if "label" in table else None
    splits = table["split"].map(lambda name: _split_of(str(name)) or str(name)) if "split" in table else None
    if split is not None:
        chosen = splits == split if splits is not None else [split == "train"] * len(table)
        found = set(splits) if splits is not None else {"train"}
        table = table[chosen]
        if table.empty:
            raise _no_such_split(path, split, found)
    videos = [str(path.parent / video) for video in table["video"]]
    labels = [str(label) for label in table["label"]] if names is not None else None
    others = {name: table[name].tolist() for name in table.columns if name not in ("video", "label", "split")}
    return with_video_column(videos, labels, names, **others)


def read_saved_dataset(path: str | Path, split: str | None = "train") -> datasets.Dataset:
    """Reads what `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    Args:
        path: The folder.
        split: The split of a `DatasetDict`; a single data set counts as every split.

    Raises:
        ValueError: If there is no such split, or no column `video`.
    """
    saved = datasets.load_from_disk(str(path))
    if isinstance(saved, datasets.DatasetDict):
        if split is not None and split not in saved:
            raise _no_such_split(Path(path), split, set(saved))
        saved = datasets.concatenate_datasets(list(saved.values())) if split is None else saved[split]
    return _checked(saved, str(path))


def read_hub_dataset(name: str, split: str | None = "train") -> datasets.Dataset:
    """Loads a data set of the Hub by its id, `owner/name`.

    Raises:
        ValueError: If it has no column `video`.
    """
    return _checked(datasets.load_dataset(name, split=split or "all"), name)


def _checked(rows: datasets.Dataset, name: str) -> datasets.Dataset:
    if "video" not in rows.column_names:
        raise ValueError(f"{name} has no column 'video', only {', '.join(rows.column_names)}")
    # Some data sets hold paths as text, or a struct of bytes and path: both become videos.
    return rows.cast_column("video", datasets.Video())
