"""Data sets of 🤗 Datasets: on the Hub, in a folder, or in memory."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import datasets

from vididi_hf.data.folders import MissingSplitError, choose_columns, clean_label, no_such_split, standard_split
from vididi_hf.data.tables import LABEL, VIDEO

DatasetObject: TypeAlias = (
    datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | datasets.IterableDatasetDict
)


def read_saved_dataset(path: str | Path, split: str | None = "train", **columns: str | None) -> datasets.Dataset:
    """Reads what `save_to_disk` wrote. A single data set is the split that its `split` names, or `train`."""
    return read_dataset_object(datasets.load_from_disk(str(path)), split, str(path), **columns)


def read_dataset_object(
    data: DatasetObject, split: str | None = "train", name: str = "the data set", **columns: str | None
) -> datasets.Dataset:
    """Returns a split of an object of 🤗 Datasets. Streams are stored first: exact resuming needs it."""
    if isinstance(data, datasets.Dataset | datasets.IterableDataset):
        data = {str(data.split or "train").partition("[")[0]: data}  # a slice has the name train[:10%]
    splits = {standard_split(str(part)): rows for part, rows in data.items()}
    if split is not None and standard_split(split) not in splits:
        raise no_such_split(name, split, splits)
    kept = {part: _stored(rows) for part, rows in splits.items()}
    rows = kept[standard_split(split)] if split is not None else datasets.concatenate_datasets(list(kept.values()))
    return _with_classes(rows, name, kept.values, **columns)


def object_name(data: DatasetObject) -> str:
    """Returns a name for recipes and reports, which cannot be taken for one that can be loaded."""
    rows = next(iter(data.values())) if isinstance(data, dict) else data
    return f"in memory: {rows.info.dataset_name or type(data).__name__}"


def read_hub_dataset(
    name: str, split: str | None = "train", config: str | None = None, data_files: str | None = None, **columns: Any
) -> datasets.Dataset:
    """Loads a data set of the Hub, of a folder that looks like one, or of the files of a format (`webdataset`)."""
    how: dict[str, Any] = {"name": config, "data_files": data_files}
    how = {key: value for key, value in how.items() if value is not None}
    try:
        rows = datasets.load_dataset(name, split=split or "all", **how)
        return _with_classes(rows, name, lambda: [datasets.load_dataset(name, split="all", **how)], **columns)
    except ValueError as error:
        if "Unknown split" in str(error):
            if (usual := standard_split(str(split))) != split:
                return read_hub_dataset(name, usual, config, data_files, **columns)
            raise MissingSplitError(f"{name}: {error}") from error
        raise


def _stored(rows: datasets.Dataset | datasets.IterableDataset) -> datasets.Dataset:
    if isinstance(rows, datasets.Dataset):
        return rows
    rows = rows if rows.features else rows._resolve_features()
    for name, kind in (rows.features or {}).items():
        if isinstance(kind, datasets.Video):
            rows = rows.cast_column(name, datasets.Video(decode=False))
    return datasets.Dataset.from_generator(_rows_of, features=rows.features, gen_kwargs={"rows": rows})


def _rows_of(rows: datasets.IterableDataset) -> Iterator[dict[str, Any]]:
    yield from rows


def _with_classes(
    rows: datasets.Dataset, name: str, all_splits: Callable[[], Iterable[datasets.Dataset]], **columns: str | None
) -> datasets.Dataset:
    """Names and casts the columns, and turns text labels to classes that have the same numbers in every split."""
    chosen = choose_columns(rows.column_names, name, **columns)
    rows = rows.select_columns(list(chosen)).rename_columns(chosen)
    kind = getattr(rows.features.get(LABEL), "dtype", "")
    if kind in ("string", "large_string"):
        column = next(old for old, new in chosen.items() if new == LABEL)
        parts = [part for part in all_splits() if column in part.column_names]
        found = {clean_label(label) for part in parts for label in part.unique(column)}
        names = sorted(label for label in found if label is not None)
        numbers: dict[str | None, int | None] = {None: None, **{label: number for number, label in enumerate(names)}}
        labels: Any = [numbers[clean_label(label)] for label in rows[LABEL][:]]
        rows = rows.remove_columns(LABEL)
        if names:
            rows = rows.add_column(LABEL, labels, feature=datasets.ClassLabel(names=names))
    elif kind == "null":
        rows = rows.remove_columns(LABEL)
    return rows.cast_column(VIDEO, datasets.Video())  # from paths, or structs of bytes and path
