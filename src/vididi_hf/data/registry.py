"""One door to every data set: `load_video_dataset(name or path, split=…)`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

from vididi_hf.data.files import default_root
from vididi_hf.data.folders import read_hub_dataset, read_saved_dataset, read_video_folder, read_video_list
from vididi_hf.data.motion import VERSION, generate_motion

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


ALL_ROWS = "all"

# A new data set is one reader `(root, split, **options)` and one line here.
DATASETS: dict[str, Reader] = {"motion": read_motion}


def load_video_dataset(
    name: str | Path, *, root: str | Path | None = None, split: str | None = "train", **options: Any
) -> datasets.Dataset:
    """Loads videos as a 🤗 data set.

    Args:
        name: One of
            - the name of a built-in set (`"motion"`; a folder of that name is `"./motion"`);
            - a folder of videos (`[split/][label/]name.mp4`);
            - a `.csv` or `.parquet` list with the columns `video,label,split`, paths relative to the list;
            - a folder written by `save_to_disk`;
            - the id of a data set on the Hub, `"owner/name"`.
        root: Where a built-in set lies, or shall lie.
        split: `"train"`, `"validation"`, `"test"`, or None (on command lines: `"all"`) for all rows.
        **options: Options of a built-in set, such as `num_train` and `seed` of `motion`.

    Returns:
        A data set with the column `video` (`datasets.Video`: torchcodec decoders) and, where labels are known, `label`
        (`datasets.ClassLabel`).

    Raises:
        FileNotFoundError: If `name` is neither a built-in set nor a folder or list that exists, and the Hub has no such
            data set or cannot be reached.
        TypeError: If a built-in set has no such option.
        ValueError: If there is no such split, or options are given for what is no built-in set.

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
