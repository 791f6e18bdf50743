"""Videos in sharded Parquet, wherever it lies: their number from the footers alone, their bytes by row group."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow.parquet as pq
import torch
from datasets.data_files import DataFilesDict, get_data_patterns
from datasets.exceptions import DatasetNotFoundError
from torch import Tensor

from vididi_hf.data.folders import no_such_split
from vididi_hf.data.registry import ALL_ROWS, DATASETS

_FOOTERS_AT_ONCE = 16
_PREPARE_FIRST = "streaming reads sharded Parquet; scripts/prepare_dataset.py makes it of any data set"


def find_shards(name: str, split: str | None = "train") -> list[str]:
    """Finds the Parquet files of a split.

    Args:
        name: A folder, an fsspec URL of one (`s3://…`, `hf://datasets/…`, `memory://…`), a Parquet file or a pattern of
            several (`data/train-*.parquet`, also as a URL), or the id of a data set on the Hub.
        split: The split; None or `"all"` takes the files of all. A file or a pattern is taken as it is.

    Returns:
        Paths or URLs, sorted: their order numbers the videos.

    Raises:
        FileNotFoundError: If there is no such data set.
        ValueError: If it has no such split, or is no Parquet.
    """
    if name in DATASETS:
        raise ValueError(f"{name} is a built-in set, and {_PREPARE_FIRST}")
    if name.endswith(".parquet"):
        files = datasets.load_dataset_builder("parquet", data_files={"train": name}).config.data_files
        if not files["train"]:
            raise FileNotFoundError(f"no file is called {name}")
        return sorted(files["train"])
    if "://" in name:
        files = DataFilesDict.from_patterns(get_data_patterns(name), base_path=name)
    else:
        if Path(name).expanduser().is_dir():
            name = str(Path(name).expanduser().resolve())  # or a folder "csv" would be taken for a format
        try:
            files = datasets.load_dataset_builder(name).config.data_files
        except (DatasetNotFoundError, ConnectionError) as error:
            raise FileNotFoundError(
                f"no data set {name!r}: it is no folder, and from the Hub it cannot be loaded: {error}"
            ) from error
    shards = {
        str(key): sorted(str(file) for file in found if str(file).endswith(".parquet"))
        for key, found in (files or {}).items()
    }
    shards = {key: found for key, found in shards.items() if found}
    if not shards:
        raise ValueError(f"{name} holds no Parquet files, and {_PREPARE_FIRST}")
    if split in (None, ALL_ROWS):
        return sorted(file for found in shards.values() for file in found)
    if split not in shards:
        raise no_such_split(name, str(split), shards)
    return shards[str(split)]


class ParquetVideos:
    """The videos of Parquet files with embedded bytes. Opening it reads the footers only.

    Args:
        shards: Paths or fsspec URLs of the files. A video's number is its place in their rows, counted through.

    Attributes:
        group_sizes: int64 (row groups,), the videos in each row group of all files.
        group_starts: int64 (row groups,), the number of the first video of each.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a file has no column `video` with embedded bytes, or there are no videos at all.

    Example:
        ```python
        >>> import datasets, tempfile
        >>> from vididi_hf.data.parquet_videos import ParquetVideos
        >>> features = datasets.Features({"video": datasets.Video()})
        >>> rows = datasets.Dataset.from_dict({"video": [{"bytes": b"1", "path": "a.mp4"}] * 5}, features=features)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = rows.to_parquet(f"{folder}/train.parquet", batch_size=2)
        ...     videos = ParquetVideos([f"{folder}/train.parquet"])
        ...     len(videos), videos.group_sizes.tolist(), videos.read_group(2)[0]["path"]
        (5, [2, 2, 1], 'a.mp4')

        ```
    """

    def __init__(self, shards: Sequence[str]):
        self.shards = list(shards)
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            self._footers = list(pool.map(_read_footer, self.shards))
        self._groups = [
            (file, group) for file, footer in enumerate(self._footers) for group in range(footer.num_row_groups)
        ]
        sizes = [self._footers[file].row_group(group).num_rows for file, group in self._groups]
        self.group_sizes = torch.tensor(sizes, dtype=torch.int64)
        self.group_starts = self.group_sizes.cumsum(0) - self.group_sizes
        if len(self) == 0:
            raise ValueError(f"{', '.join(self.shards[:3]) or 'an empty list of shards'} holds no videos")

    def __len__(self) -> int:
        return int(self.group_sizes.sum())

    def groups_of(self, rows: Tensor) -> Tensor:
        """Returns the row group that each video, given by number, lies in."""
        return torch.searchsorted(self.group_starts + self.group_sizes, rows, right=True)

    def read_group(self, group: int) -> list[dict[str, Any] | None]:
        """Fetches the videos of one row group, and no other byte of its file.

        Safe to be called in several threads.

        Returns:
            For each row the dictionary of `path` and `bytes` that `datasets.Video` stores, or None where there are no
            bytes. A video without a name is called by its shard and row.
        """
        file, group_in_file = self._groups[group]
        url = self.shards[file]
        with _open(url) as source:
            reader = pq.ParquetFile(source, metadata=self._footers[file], pre_buffer=True)
            rows = reader.read_row_group(group_in_file, columns=["video"], use_threads=False)["video"].to_pylist()
        videos = []
        for row, video in enumerate(rows):
            unnamed = f"{url.rpartition('/')[2]}, row {row} of group {group_in_file}"
            stored = video is not None and video["bytes"] is not None
            videos.append({"bytes": video["bytes"], "path": video["path"] or unnamed} if stored else None)
        return videos


def _open(url: str) -> Any:
    filesystem, path = fsspec.core.url_to_fs(url)
    # Row groups are read whole and once: what is fetched ahead of or kept after a read would be wasted.
    return filesystem.open(path, "rb", cache_type="none")


def _read_footer(url: str) -> pq.FileMetaData:
    with _open(url) as file:
        footer = pq.read_metadata(file)
    columns = {footer.schema.column(i).path for i in range(footer.num_columns)}
    if not {"video.bytes", "video.path"} <= columns:
        raise ValueError(
            f"{url} has no column 'video' that holds the bytes of videos, only {', '.join(sorted(columns))}; "
            f"{_PREPARE_FIRST}"
        )
    return footer
