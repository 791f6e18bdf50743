"""Parquet shards: which rows they hold, and writing and reading them. The footer records how a shard was made."""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from vididi_hf.containers_vididi import local_path
from vididi_hf.data.inventory import file_size
from vididi_hf.data.seeding import seeded_generator
from vididi_hf.files import atomic_write
from vididi_hf.reading import check_file

DATA_FOLDER = "data"
RECORD_KEY = b"vididi_hf"
MAX_CELL_BYTES = 2**31 - 1  # of one value in a Parquet column of this schema
FACTS = {"num_frames": "int32", "fps": "float64", "height": "int32", "width": "int32"}
# A row group is closed early at this size, so that groups of long videos can be fetched too.
_MAX_GROUP_BYTES = 64 * 2**20
_VERSION = 2  # raise this when the same videos and settings give other shards


class StoredSplit:
    """The rows of one split as shards store them. `identity` is a digest of all that they depend on."""

    def __init__(
        self,
        name: str,
        rows: datasets.Dataset,
        root: str,
        settings: dict[str, Any],
        videos_per_shard: int,
        shuffle: bool = True,
        seed: int = 0,
    ):
        self.name = name
        facts = {fact: datasets.Value(kind) for fact, kind in FACTS.items()}
        self.features = datasets.Features({**rows.features, "video": datasets.Video(), **facts})
        self._root = root
        self._rows = rows.cast_column("video", datasets.Video(decode=False)).with_format("arrow")
        generator = seeded_generator(f"shards-{name}", seed)
        order = torch.randperm(len(rows), generator=generator) if shuffle else torch.arange(len(rows))
        self.shards: list[list[int]] = [shard.tolist() for shard in order.split(videos_per_shard)]
        self.identity = self._identity(settings)

    def row(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self._rows[index].to_pylist()[0]
        return row

    def video_name(self, index: int, path: str | None) -> str:
        if path is None:
            return f"{self.name}/{index:08d}"
        if not os.path.isabs(path):
            return path
        if self._root == os.path.sep:  # no common folder: names that do not show where the files were, and differ
            return f"{hashlib.sha256(os.path.dirname(path).encode()).hexdigest()[:8]}/{Path(path).name}"
        return Path(path).relative_to(self._root).as_posix() if self._root else Path(path).name

    def _identity(self, settings: dict[str, Any]) -> str:
        digest = hashlib.sha256(json.dumps([_VERSION, self.name, settings], sort_keys=True).encode())
        digest.update(json.dumps(self.features.to_dict(), sort_keys=True).encode())
        for start, videos in _video_arrays(self._rows):
            paths, sizes = videos.field("path").to_pylist(), pc.binary_length(videos.field("bytes")).to_pylist()
            names = [self.video_name(start + i, path) for i, path in enumerate(paths)]
            sizes = [file_size(local_path(path)) if size is None and path else size for path, size in zip(paths, sizes)]
            digest.update(repr((names, sizes)).encode())
        for table in self._rows.remove_columns("video").iter(1000):
            digest.update(repr(table.to_pylist()).encode())
        return digest.hexdigest()


def common_folder(splits: Iterable[datasets.Dataset]) -> str:
    """Returns the deepest folder that holds all files of some data sets; empty if there is none."""
    folders: set[str] = set()
    for rows in splits:
        arrow = rows.cast_column("video", datasets.Video(decode=False)).with_format("arrow")
        for _, videos in _video_arrays(arrow):
            paths = videos.field("path").to_pylist()
            folders |= {os.path.dirname(path) for path in paths if path is not None and os.path.isabs(path)}
    return os.path.commonpath(folders) if folders else ""


def _video_arrays(rows: datasets.Dataset) -> Iterator[tuple[int, pa.StructArray]]:
    """Yields the column `video` in parts, each with its first row, without copying embedded files."""
    start = 0
    for table in rows.select_columns("video").iter(100):
        for videos in table["video"].chunks:
            yield start, videos
            start += len(videos)


def shard_path(folder: str | Path, split: str, index: int, count: int) -> Path:
    """Returns the path of a shard, such as `folder/data/train-00000-of-00004.parquet`."""
    return Path(folder) / DATA_FOLDER / f"{split}-{index:05d}-of-{count:05d}.parquet"


def write_shard(
    path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]], record: dict[str, Any], videos_per_group: int
) -> None:
    """Writes a shard of videos, row by row; see `write_tables`. At most one row group is in memory."""
    groups = _groups(rows, videos_per_group)
    write_tables(path, schema, (pa.Table.from_pylist(group, schema=schema) for group in groups), record)


def write_tables(path: Path, schema: pa.Schema, tables: Iterable[pa.Table], record: dict[str, Any]) -> None:
    """Writes a shard atomically, one row group per table. `tables` may still add to `record` (any JSON)."""
    try:
        # Videos are compressed already, embeddings hardly compress, and no two are equal.
        with (
            atomic_write(path) as unfinished,
            unfinished.open("wb") as file,
            pq.ParquetWriter(file, schema, compression="none", use_dictionary=False) as writer,
        ):
            for table in tables:
                writer.write_table(table)
            writer.add_key_value_metadata({RECORD_KEY: json.dumps(record)})
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "Finished shards stay; to continue, free some space and run the same command again"
            raise OSError(f"the disk is full: cannot write {path}. {advice}") from error
        raise


def _groups(rows: Iterable[dict[str, Any]], videos_per_group: int) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    group_bytes = 0
    for row in rows:
        size = len(row["video"]["bytes"])
        if group and (len(group) == videos_per_group or group_bytes + size > _MAX_GROUP_BYTES):
            yield group
            group, group_bytes = [], 0
        group.append(row)
        group_bytes += size
    if group:
        yield group


def read_record(shard: Path | BinaryIO) -> dict[str, Any] | None:
    """Returns the record of a shard; None if it does not exist or was not written by this package."""
    try:
        metadata = pq.read_metadata(check_file(shard) if isinstance(shard, Path) else shard).metadata or {}
        record = json.loads(metadata[RECORD_KEY]) if RECORD_KEY in metadata else None
    except (ValueError, OSError):  # Arrow's errors are among these
        return None
    return record if isinstance(record, dict) else None
