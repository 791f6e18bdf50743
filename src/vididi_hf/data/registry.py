"""All built-in data sets, and `load_video_dataset`, which loads any data set by name or path."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from vididi_hf.data.folders import default_root, find_files, is_video, read_video_folder
from vididi_hf.data.motion import VERSION, generate_motion
from vididi_hf.data.options import ALL_ROWS
from vididi_hf.data.readers.ava import read_ava
from vididi_hf.data.readers.csv_list import read_video_list
from vididi_hf.data.readers.hmdb51 import read_hmdb51
from vididi_hf.data.readers.jhmdb import read_jhmdb
from vididi_hf.data.readers.kinetics import read_kinetics
from vididi_hf.data.readers.something_something import read_something_something
from vididi_hf.data.readers.ucf101 import read_ucf101
from vididi_hf.data.readers.ucf101_24 import read_ucf101_24
from vididi_hf.data.saved import DatasetObject, read_dataset_object, read_hub_dataset, read_saved_dataset
from vididi_hf.data.tables import TABLE_SUFFIXES, VIDEO


def read_motion(
    root: str | Path | None = None,
    split: str | None = "train",
    num_train: int = 1200,
    num_test: int = 400,
    seed: int = 0,
    name: str = "motion",
) -> datasets.Dataset:
    """Reads a generated set, `motion` or `motion-noise`, and generates what does not exist yet."""
    folder = Path(root) if root is not None else default_root(f"{name}-v{VERSION}-{seed}-{num_train}-{num_test}")
    return read_video_list(generate_motion(folder, num_train, num_test, seed, name=name), split)


# To add a data set, write a reader `(root, split, **options)` and add one line here. Each official split or version has
# its own name, so that training and test rows of different ones never mix.
DATASETS: dict[str, Callable[..., datasets.Dataset]] = {
    "motion": read_motion,
    "motion-noise": partial(read_motion, name="motion-noise"),
    "ucf101": read_ucf101,
    **{f"ucf101-{number}": partial(read_ucf101, official_split=number) for number in (2, 3)},
    "hmdb51": read_hmdb51,
    **{f"hmdb51-{number}": partial(read_hmdb51, official_split=number) for number in (2, 3)},
    **{f"kinetics{classes}": partial(read_kinetics, classes=classes) for classes in (400, 600, 700)},
    "something-something-v2": read_something_something,
    "jhmdb": read_jhmdb,
    **{f"jhmdb-{number}": partial(read_jhmdb, official_split=number) for number in (2, 3)},
    "ucf101-24": read_ucf101_24,
    "ava": read_ava,
    "ava-2.1": partial(read_ava, version="2.1"),
}


def rows_of(data: str | Path | DatasetObject, split: str) -> datasets.Dataset:
    """Returns a split of any data set; a `Dataset` with the column `video` is one already."""
    is_ready = isinstance(data, datasets.Dataset) and VIDEO in data.column_names
    return data if is_ready else load_video_dataset(data, split=split)


def load_video_dataset(
    name: str | Path | DatasetObject,
    *,
    root: str | Path | None = None,
    split: str | None = "train",
    config: str | None = None,
    video_column: str | None = None,
    label_column: str | None = None,
    **options: Any,
) -> datasets.Dataset:
    """Loads videos as a 🤗 data set.

    Args:
        name: One of
            - the name of a built-in set in `DATASETS`: the generated `"motion"`, or `"ucf101"`, `"kinetics400"` … in
              the layouts that `docs/datasets.md` shows (for a folder of that name, pass `"./motion"`);
            - a folder of videos (`[split/][label/]name.mp4`), of Parquet shards, of WebDataset archives (`.tar`), or
              that `save_to_disk` wrote;
            - a list (`.csv`, `.tsv`, `.json`, `.jsonl`, `.parquet`) with the columns `video,label,split`, with paths
              relative to the list;
            - WebDataset archives, `"path/to/*.tar"`;
            - the id of a data set on the Hub, `"owner/name"`;
            - an object of 🤗 Datasets: a `Dataset`, a `DatasetDict`, or a stream of either.
        root: Folder of a built-in set; by default `$VIDIDI_HOME/<name>` or `~/.cache/vididi_hf/<name>`.
        split: `"train"`, `"validation"`, `"test"`, or None or `"all"` for all rows.
        config: Configuration of a data set on the Hub.
        video_column: Column of the videos, if it is not called `video`.
        label_column: Column of the labels, if it is not called `label`.
        **options: Options of a built-in set, such as `num_train` and `seed` of `motion`.

    Returns:
        A data set with the column `video` (`datasets.Video`: torchcodec decoders) and, if labels are known, `label`
        (`datasets.ClassLabel`).

    Raises:
        FileNotFoundError: If the data set does not exist, or the Hub cannot be reached.
        TypeError: If a built-in set has no such option.
        ValueError: If there is no such split, or a data set that is not built in gets options.

    Warns:
        AbsentVideosWarning: If videos of a published list do not exist. Its attribute `videos` names all of them.

    Example:
        >>> from vididi_hf import load_video_dataset
        >>> rows = load_video_dataset("motion", split="test", num_train=8, num_test=8)
        >>> rows[0]["video"].get_frames_at([0, 1]).data.shape
        torch.Size([2, 3, 64, 64])
    """
    if split == ALL_ROWS:
        split = None
    columns: dict[str, Any] = {"video_column": video_column, "label_column": label_column}
    if isinstance(name, DatasetObject):
        return read_dataset_object(name, split, **columns)
    if name in DATASETS and config is None and not any(columns.values()):
        return DATASETS[str(name)](root=root, split=split, **options)
    if root is not None or options:
        given, built_in = ", ".join(options) or "root", ", ".join(DATASETS)
        raise ValueError(f"{given}: only the built-in sets ({built_in}) take options, and {name} is not one of them")
    if name in DATASETS:
        raise ValueError(f"{name} is a built-in set, which has neither configurations nor other columns")
    path = Path(name).expanduser()
    if path.is_dir():
        shards = any(path.glob("data/*.parquet")) or any(path.glob("*-of-*.parquet"))
        archives = any(path.glob("**/*.tar")) and not any(map(is_video, find_files(path)))
        if config is not None or shards or archives:  # 🤗 Datasets reads such a folder as it reads the Hub
            return read_hub_dataset(str(path.resolve()), split, config, **columns)
        saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
        return (read_saved_dataset if saved else read_video_folder)(path, split, **columns)
    if path.suffix.lower() in TABLE_SUFFIXES:
        return read_video_list(path, split, **columns)
    if path.suffix == ".tar":
        return read_hub_dataset("webdataset", split, data_files=str(path), **columns)
    places = f"it is neither built in ({', '.join(DATASETS)}), nor a folder, nor a list ({', '.join(TABLE_SUFFIXES)})"
    unknown = f"no data set {str(name)!r}: {places}"
    if path.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(name)):
        raise FileNotFoundError(f"{unknown}, nor the id of a data set on the Hub (owner/name)")
    try:
        return read_hub_dataset(str(name), split, config, **columns)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"{unknown}, and from the Hub it cannot be loaded: {error}") from error
