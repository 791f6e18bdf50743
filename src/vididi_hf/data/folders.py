"""Read folders of videos and saved or published 🤗 data sets, and build the `video` and `label` columns."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from vididi_hf.data.options import SPLIT_NAMES

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts")
_SPLIT_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "test", "training": "train"}


class MissingSplitError(ValueError):
    """The data set exists but has no such split."""


def no_such_split(where: str | Path, split: str, found: Iterable[str]) -> MissingSplitError:
    return MissingSplitError(f"{where} has no split {split!r}; it has {', '.join(sorted(found))}")


def standard_split(name: str) -> str:
    """Returns the usual name of a split that has aliases (val, dev, …), and other names unchanged."""
    usual = _SPLIT_ALIASES.get(name.lower(), name.lower())
    return usual if usual in SPLIT_NAMES else name


def default_root(name: str) -> Path:
    """Returns the default folder of a built-in set, `$VIDIDI_HOME/<name>` or `~/.cache/vididi_hf/<name>`."""
    return Path(os.environ.get("VIDIDI_HOME") or "~/.cache/vididi_hf").expanduser() / name


def find_files(folder: str | Path) -> list[str]:
    """Lists all files below a folder as sorted relative paths with forward slashes. Hidden names are skipped."""
    return sorted(_walk(os.fspath(folder), ""))


def _walk(folder: str, prefix: str) -> Iterator[str]:
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except PermissionError:
        return  # such as lost+found
    for entry in entries:
        if entry.is_dir():
            if not (entry.is_symlink() and _contains(entry.path, folder)):
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
        elif entry.is_file():
            yield prefix + entry.name


def _contains(outer: str, inner: str) -> bool:
    outer, inner = os.path.realpath(outer), os.path.realpath(inner)
    return os.path.commonpath([outer, inner]) == outer


def with_video_column(
    videos: Sequence[str | None],
    labels: Sequence[str | None] | None = None,
    names: list[str] | None = None,
    features: dict[str, Any] | None = None,
    **columns: list,
) -> datasets.Dataset:
    """Builds a 🤗 data set of video files, with the columns `video`, `label` (if labels are given) and others.

    `names` are all class names in the order of their numbers, by default sorted. `features` are types of other columns.
    """
    data: dict[str, list] = {"video": [video and {"bytes": None, "path": video} for video in videos]}
    types: dict[str, Any] = {"video": datasets.Video()}
    if labels is not None:
        names = names or sorted({label for label in labels if label is not None})
        numbers: dict[str | None, int | None] = {None: None, **dict(zip(names, range(len(names))))}
        if unknown := set(labels) - set(numbers):
            classes = f"the {len(names)} classes {names[0]!r} to {names[-1]!r}"
            raise ValueError(f"the label {min(map(str, unknown))!r} is not one of {classes}")
        data["label"] = [numbers[label] for label in labels]
        types["label"] = datasets.ClassLabel(names=names)
    given = features or {}
    untyped = pa.table({name: values for name, values in columns.items() if name not in given})
    inferred = datasets.Features.from_arrow_schema(untyped.schema)
    types |= {name: {**inferred, **given}[name] for name in columns}
    return as_dataset({**data, **columns}, types)


def as_dataset(columns: dict[str, list], types: dict[str, Any]) -> datasets.Dataset:
    """Builds a 🤗 data set of encoded columns; `Dataset.from_dict` is slower, because it encodes each value."""
    schema = datasets.Features(types).arrow_schema
    return datasets.Dataset(datasets.table.InMemoryTable(pa.Table.from_pydict(columns, schema=schema)))


def read_video_folder(folder: str | Path, split: str | None = "train") -> datasets.Dataset:
    """Reads a folder of videos, `[split/][label/…/]name.mp4`, sorted. None reads all splits.

    Videos outside folders that are named after splits belong to `"train"`. Only if all videos have labels, rows do.
    """
    folder = Path(folder)
    files = sorted(path for path in map(Path, find_files(folder)) if path.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise FileNotFoundError(f"{folder} contains no videos ({', '.join(VIDEO_SUFFIXES)}), at any depth")
    located = []  # (split, folders below the split, file)
    for file in files:
        folders = file.parts[:-1]
        named = standard_split(folders[0]) if folders else ""
        split_and_label = (named, folders[1:]) if named in SPLIT_NAMES else ("train", folders)
        located.append((*split_and_label, str(folder / file)))
    chosen = [row for row in located if split is None or row[0] == standard_split(split)]
    if not chosen:
        raise no_such_split(folder, str(split), {row[0] for row in located})
    videos = [file for _, _, file in chosen]
    if not all(folders for _, folders, _ in located):
        return with_video_column(videos)
    names = sorted({folders[0] for _, folders, _ in located})  # the same numbers in every split
    return with_video_column(videos, [folders[0] for _, folders, _ in chosen], names)


def read_saved_dataset(path: str | Path, split: str | None = "train") -> datasets.Dataset:
    """Reads what `save_to_disk` wrote. A single data set counts as every split."""
    saved = datasets.load_from_disk(str(path))
    if not isinstance(saved, datasets.DatasetDict):
        return _with_classes(saved, str(path), lambda: [saved])
    if split is not None and split not in saved:
        raise no_such_split(path, split, set(saved))
    rows = saved[split] if split is not None else datasets.concatenate_datasets(list(saved.values()))
    return _with_classes(rows, str(path), saved.values)


def read_hub_dataset(name: str, split: str | None = "train") -> datasets.Dataset:
    """Loads a data set of the Hub, or of a folder that looks like one."""
    try:
        rows = datasets.load_dataset(name, split=split or "all")
        return _with_classes(rows, name, lambda: [datasets.load_dataset(name, split="all")])
    except ValueError as error:
        if "Unknown split" in str(error):
            raise MissingSplitError(f"{name}: {error}") from error
        raise


def _with_classes(
    rows: datasets.Dataset, name: str, all_splits: Callable[[], Iterable[datasets.Dataset]]
) -> datasets.Dataset:
    """Casts the video column, and text labels to classes that have the same numbers in every split."""
    if "video" not in rows.column_names:
        raise ValueError(f"{name} has no column 'video', only {', '.join(rows.column_names)}")
    if getattr(rows.features.get("label"), "dtype", "") in ("string", "large_string"):
        found = {label for split in all_splits() if "label" in split.column_names for label in split.unique("label")}
        names = sorted(label for label in found if label is not None)
        rows = rows.cast_column("label", datasets.Value("string"))  # only these can be cast to class labels
        rows = rows.cast_column("label", datasets.ClassLabel(names=names))
    return rows.cast_column("video", datasets.Video())  # from paths, or structs of bytes and path
