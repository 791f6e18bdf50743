"""Find the videos of a folder, and build the `video` and `label` columns."""

import os
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.data_files import SPLIT_KEYWORDS

from vididi_hf.containers_vididi import file_problem
from vididi_hf.data.options import SPLIT_NAMES
from vididi_hf.data.tables import FILE_NAME, LABEL, SPLIT, VIDEO, read_table, typed
from vididi_hf.files import printable, storable

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts", ".mts", ".m2ts"),
    *(".ogv", ".vob", ".m2v", ".mpe", ".asf", ".divx", ".f4v", ".3g2", ".m2t", ".mxf", ".qt", ".rm", ".rmvb", ".dv"),
)
# Reported, not read: pictures that move, streams without a container, raw camera files, unfinished downloads.
_OTHER_VIDEO_SUFFIXES = (
    *(".gif", ".webp", ".ivf", ".h264", ".264", ".h265", ".265", ".hevc", ".y4m", ".mjpeg", ".swf", ".amv", ".nut"),
    *(".braw", ".r3d", ".insv", ".lrv", ".mod", ".tod", ".part", ".crdownload"),
)
_SPLIT_ALIASES = {alias: str(split) for split, aliases in SPLIT_KEYWORDS.items() for alias in aliases}
_METADATA = re.compile(r"(.*/)?metadata\.(csv|jsonl|parquet)")


class SkippedFilesWarning(UserWarning):
    """Some files of a folder are not read. `files` holds the reason of each."""

    def __init__(self, folder: str | Path, files: Mapping[str, str]) -> None:
        named = "; ".join(f"{printable(name)} ({reason})" for name, reason in list(files.items())[:3])
        more = "; …" if len(files) > 3 else ""
        super().__init__(f"{printable(str(folder))}: {len(files):,} files are skipped: {named}{more}")
        self.files = dict(files)


class MissingSplitError(ValueError):
    """The data set exists but has no such split."""


def no_such_split(where: str | Path, split: str, found: Iterable[str]) -> MissingSplitError:
    return MissingSplitError(f"{where} has no split {split!r}; it has {', '.join(sorted(found))}")


def standard_split(name: str) -> str:
    """Returns the usual name of a split that 🤗 Datasets knows by others (val, dev, …), and other names unchanged."""
    return _SPLIT_ALIASES.get(name.strip().lower(), name.strip())


def clean_label(label: Any) -> str | None:
    """Returns a label as text, without surrounding spaces and in one Unicode form; None if it is empty or NaN."""
    text = "" if label is None or label != label else unicodedata.normalize("NFC", str(label)).strip()
    return text or None


def existing_path(folder: Path, name: str) -> str:
    """Returns the path of a listed file, which may differ in its Unicode form and in surrounding spaces."""
    name = os.fsdecode(name.encode("utf-8", "surrogateescape"))  # whatever the locale is
    stripped = name.strip()
    forms = [] if stripped.isascii() else [unicodedata.normalize(form, stripped) for form in ("NFC", "NFD")]
    candidates = list(dict.fromkeys([name, stripped, *forms]))
    found = (folder / other for other in candidates if len(candidates) == 1 or os.path.lexists(folder / other))
    return storable(next(found, folder / stripped))


def choose_columns(
    names: Sequence[str], where: str, video_column: str | None = None, label_column: str | None = None
) -> dict[str, str]:
    """Maps columns to new names. Videos may be in `file_name` or, as in WebDataset, `mp4`, and labels in `cls`."""
    usual = (VIDEO, FILE_NAME, *(name for name in names if f".{name.lower()}" in VIDEO_SUFFIXES))
    video = video_column or next((name for name in usual if name in names), VIDEO)
    label = label_column or next((name for name in (LABEL, "cls") if name in names), None)
    for name in (video, label):
        if name is not None and name not in names:
            raise ValueError(f"{where} has no column {name!r}, only {printable(', '.join(names))}")
    renamed = {video: VIDEO, **({label: LABEL} if label else {})}
    return {name: renamed.get(name, name) for name in names if name in renamed or name not in renamed.values()}


def default_root(name: str) -> Path:
    """Returns the default folder of a built-in set, `$VIDIDI_HOME/<name>` or `~/.cache/vididi_hf/<name>`."""
    return Path(os.environ.get("VIDIDI_HOME") or "~/.cache/vididi_hf").expanduser() / name


def find_files(folder: str | Path, skipped: dict[str, str] | None = None) -> list[str]:
    """Lists all files below a folder as sorted relative paths. `skipped` collects what cannot be read and why."""
    folder, skipped = os.fspath(folder), {} if skipped is None else skipped
    above = {_identity(parent) for parent in (Path(folder).absolute(), *Path(folder).absolute().resolve().parents)}
    return sorted(_walk(folder, "", above, skipped))


def _walk(folder: str, prefix: str, above: set[tuple[int, int]], skipped: dict[str, str]) -> Iterator[str]:
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:  # such as lost+found
        skipped[prefix] = (error.strerror or "it cannot be listed").lower()
        return
    for entry in entries:
        name = prefix + entry.name
        if entry.is_file(follow_symlinks=False) or not (problem := file_problem(entry.path)):
            yield name
        elif not os.path.isdir(entry.path):
            skipped[name] = problem
        elif (identity := _identity(entry.path)) not in above:
            yield from _walk(entry.path, f"{name}/", above | {identity}, skipped)


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def with_video_column(
    videos: Sequence[str | None],
    labels: Sequence[str | None] | None = None,
    names: list[str] | None = None,
    features: dict[str, Any] | None = None,
    columns: dict[str, list] | None = None,
) -> datasets.Dataset:
    """Builds a data set of video files. `names` are all classes in order; `features` are types of other `columns`."""
    columns = columns or {}
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


def read_video_folder(folder: str | Path, split: str | None = "train", **columns: str | None) -> datasets.Dataset:
    """Reads `[split/][label/…/]name.mp4`, sorted. None means all splits. Warns with `SkippedFilesWarning`."""
    folder = Path(folder)
    skipped: dict[str, str] = {}
    found = find_files(folder, skipped)
    files = sorted(map(Path, filter(is_video, found)))
    skipped = {name: why for name, why in skipped.items() if name.endswith("/") or is_video(name)}
    skipped |= {name: "its format is not read" for name in found if name.lower().endswith(_OTHER_VIDEO_SUFFIXES)}
    if not files:
        why = "; ".join(f"{printable(name)}: {reason}" for name, reason in list(skipped.items())[:3])
        known = ", ".join(VIDEO_SUFFIXES)
        raise FileNotFoundError(f"{folder} contains no videos ({known}), at any depth{why and f'; skipped: {why}'}")
    if skipped:
        warnings.warn(SkippedFilesWarning(folder, skipped), stacklevel=2)
    table = _read_metadata(folder, found, **columns)
    located = [
        (
            standard_split(str(table.get(SPLIT, {}).get(_key(file), part))),
            table.get(LABEL, {}).get(_key(file), label),
            file,
        )
        for part, label, file in _splits_and_labels(files)
    ]
    chosen = [row for row in located if split is None or row[0] == standard_split(split)]
    if not chosen:
        raise no_such_split(folder, str(split), {row[0] for row in located})
    videos = [storable(folder / file) for _, _, file in chosen]
    added = {name: values for name, values in table.items() if name not in (LABEL, SPLIT)}
    others: dict[str, Any] = {name: [values.get(_key(file)) for _, _, file in chosen] for name, values in added.items()}
    names = sorted({label for _, label, _ in located if label is not None})  # the same numbers in every split
    if not names or (LABEL not in table and any(label is None for _, label, _ in located)):
        return with_video_column(videos, columns=others)
    return with_video_column(videos, [label for _, label, _ in chosen], names, columns=others)


def _splits_and_labels(files: Sequence[Path]) -> Iterator[tuple[str, str | None, Path]]:
    """The split and label of each file by its folders. `test_videos` counts if all outer folders are such."""
    words = re.compile(rf"(?:^|.*[-._ \d])({'|'.join(_SPLIT_ALIASES)})(?:[-._ \d].*|$)", re.IGNORECASE)
    outer = {file.parts[0]: words.fullmatch(file.parts[0]) for file in files if len(file.parts) > 1}
    for file in files:
        folders = [clean_label(storable(name)) for name in file.parts[:-1]]
        named = [standard_split(str(name)) for name in folders]
        if folders and all(outer.values()):
            named[0] = standard_split(str(outer[file.parts[0]][1]))  # type: ignore[index]
        place = next((place for place, name in enumerate(named) if name in SPLIT_NAMES), -1)
        label = next(iter([*folders[place + 1 :], *folders[: max(place, 0)]]), None)
        yield named[place] if place >= 0 else "train", label, file


def _read_metadata(
    folder: Path, found: Sequence[str], video_column: str | None = None, label_column: str | None = None
) -> dict[str, dict[str, Any]]:
    """The columns of all metadata files, each by the key of a file."""
    columns: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    known = {_key(Path(name)) for name in found}
    for name in filter(_METADATA.fullmatch, found):
        table, places = read_table(folder / name)
        if FILE_NAME not in table:
            continue  # a table for others
        files = [str(file) for file in table[FILE_NAME]]
        keys = [_key(Path(name).parent / file.strip()) for file in files]
        for old, new in choose_columns(list(table), name, FILE_NAME, label_column).items():
            values: list[Any] = list(map(clean_label, table[old])) if new == LABEL else table[old]
            values = typed(values) if name.endswith(".csv") and new not in (LABEL, SPLIT) else values
            if new != VIDEO:
                columns.setdefault(new, {}).update(zip(keys, values))
        lost = [(file, place) for file, key, place in zip(files, keys, places) if key not in known]
        absent |= {file: f"{name}, {place}: there is no such file" for file, place in lost}
    if absent:
        warnings.warn(SkippedFilesWarning(folder, absent), stacklevel=3)
    if not columns and (video_column or label_column):
        raise ValueError(f"{folder} is a folder of videos without a metadata.csv that could have a column")
    return columns


def _key(file: Path) -> str:
    return unicodedata.normalize("NFC", storable(file.as_posix()))


def is_video(name: str) -> bool:
    return name.lower().endswith(VIDEO_SUFFIXES)
