"""One door to every data set: `load_video_dataset(name or path, split=…)`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from vididi_hf.data.files import default_root
from vididi_hf.data.folders import read_hub_dataset, read_saved_dataset, read_video_folder, read_video_list
from vididi_hf.data.motion import VERSION, generate_motion
from vididi_hf.data.options import ALL_ROWS
from vididi_hf.data.readers.ava import read_ava
from vididi_hf.data.readers.common import AbsentVideosWarning
from vididi_hf.data.readers.hmdb51 import read_hmdb51
from vididi_hf.data.readers.jhmdb import read_jhmdb
from vididi_hf.data.readers.kinetics import read_kinetics
from vididi_hf.data.readers.something_something import read_something_something
from vididi_hf.data.readers.ucf101 import read_ucf101
from vididi_hf.data.readers.ucf101_24 import read_ucf101_24

Reader = Callable[..., datasets.Dataset]


def read_motion(
    root: str | Path | None = None,
    split: str | None = "train",
    *,
    num_train: int = 1200,
    num_test: int = 400,
    seed: int = 0,
) -> datasets.Dataset:
    """Reads the generated set `motion`, making what is not there yet.

    Args:
        root: Its folder; by default one in the user's cache.
        split: `"train"`, `"test"` or None for both.
        num_train: The number of training videos.
        num_test: The number of test videos.
        seed: The seed of the set.
    """
    folder = Path(root) if root is not None else default_root(f"motion-v{VERSION}-{seed}-{num_train}-{num_test}")
    return read_video_list(generate_motion(folder, num_train, num_test, seed), split)


# A new data set is one reader `(root, split, **options)` and one line here. A further official split or version of a
# set has a name of its own: then training and test rows of different ones never mix, and no script needs a flag.
DATASETS: dict[str, Reader] = {
    "motion": read_motion,
    "ucf101": read_ucf101,
    "ucf101-2": partial(read_ucf101, official_split=2),
    "ucf101-3": partial(read_ucf101, official_split=3),
    "hmdb51": read_hmdb51,
    "hmdb51-2": partial(read_hmdb51, official_split=2),
    "hmdb51-3": partial(read_hmdb51, official_split=3),
    "kinetics400": partial(read_kinetics, classes=400),
    "kinetics600": partial(read_kinetics, classes=600),
    "kinetics700": partial(read_kinetics, classes=700),
    "something-something-v2": read_something_something,
    "jhmdb": read_jhmdb,
    "jhmdb-2": partial(read_jhmdb, official_split=2),
    "jhmdb-3": partial(read_jhmdb, official_split=3),
    "ucf101-24": read_ucf101_24,
    "ava": read_ava,
    "ava-2.1": partial(read_ava, version="2.1"),
}


def load_video_dataset(
    name: str | Path, *, root: str | Path | None = None, split: str | None = "train", **options: Any
) -> datasets.Dataset:
    """Loads videos as a 🤗 data set.

    Args:
        name: One of
            - the name of a built-in set, one of `DATASETS`: the generated `"motion"`, or `"ucf101"`, `"kinetics400"` …
              in the layouts that `docs/datasets.md` shows (a folder of that name is `"./motion"`);
            - a folder of videos (`[split/][label/]name.mp4`);
            - a `.csv` or `.parquet` list with the columns `video,label,split`, paths relative to the list;
            - a folder written by `save_to_disk`, or one of Parquet shards as the Hub and `prepare_dataset` have them;
            - the id of a data set on the Hub, `"owner/name"`.
        root: Where a built-in set lies, or shall lie; by default `$VIDIDI_HOME/<name>` or `~/.cache/vididi_hf/<name>`.
        split: `"train"`, `"validation"`, `"test"`, or None (on command lines: `"all"`) for all rows.
        **options: Options of a built-in set, such as `num_train` and `seed` of `motion`.

    Returns:
        A data set with the column `video` (`datasets.Video`: torchcodec decoders) and, where labels are known, `label`
        (`datasets.ClassLabel`).

    Raises:
        FileNotFoundError: If `name` is neither a built-in set nor a folder or list that exists, and the Hub has no such
            data set or cannot be reached. If a built-in set is not at `root`.
        TypeError: If a built-in set has no such option.
        ValueError: If there is no such split, or options are given for what is no built-in set.

    Warns:
        AbsentVideosWarning: If videos that a published list names are not there; see `absent_videos`.

    Example:
        ```python
        >>> from vididi_hf import load_video_dataset
        >>> rows = load_video_dataset("motion", split="test", num_train=8, num_test=8)
        >>> rows[0]["video"].get_frames_at([0, 1]).data.shape
        torch.Size([2, 3, 64, 64])

        ```
    """
    if split == ALL_ROWS:
        split = None
    if name in DATASETS:
        return DATASETS[str(name)](root=root, split=split, **options)
    if root is not None or options:
        given = ", ".join(options) or "root"
        raise ValueError(
            f"{given}: only the built-in sets ({', '.join(DATASETS)}) take options, and {name} is none of them"
        )
    path = Path(name).expanduser()
    if path.is_dir():
        if any(path.glob("data/*.parquet")) or any(path.glob("*-of-*.parquet")):
            return read_hub_dataset(str(path.resolve()), split)  # 🤗 Datasets reads such a folder as it reads the Hub
        saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
        return (read_saved_dataset if saved else read_video_folder)(path, split)
    if path.suffix.lower() in (".csv", ".parquet"):
        return read_video_list(path, split)
    unknown = (
        f"no data set {str(name)!r}: it is neither built in ({', '.join(DATASETS)}), nor a folder, nor a list "
        "(.csv, .parquet)"
    )
    if path.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(name)):
        raise FileNotFoundError(f"{unknown}, nor the id of a data set on the Hub (owner/name)")
    try:
        return read_hub_dataset(str(name), split)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"{unknown}, and from the Hub it cannot be loaded: {error}") from error


def absent_videos(
    name: str | Path, *, root: str | Path | None = None, split: str | None = "train", **options: Any
) -> list[str]:
    """Names all videos that the lists of a data set hold and the disk does not.

    Args:
        name: As for `load_video_dataset`, whose errors this raises too.
        root: Where the set lies.
        split: The split.
        **options: Options of the set.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_video_dataset(name, root=root, split=split, **options)
    found = [warning.message for warning in caught]
    return [video for warning in found if isinstance(warning, AbsentVideosWarning) for video in warning.videos]
