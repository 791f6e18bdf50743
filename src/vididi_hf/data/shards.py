"""Parquet shards of videos: written whole or not at all, and readable by everything that reads 🤗 data sets.

A shard holds the encoded files in its column `video` (`datasets.Video`), in row groups small enough to be fetched one
by one. Its footer holds a record of how it was made, so that the one rename that publishes a shard publishes both.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

DATA_FOLDER = "data"
RECORD_KEY = b"vididi_hf"
MAX_CELL_BYTES = 2**31 - 1  # of one value in a Parquet column of this schema
# A row group is closed early at this size, so that one of long videos can be fetched, too.
_MAX_GROUP_BYTES = 64 * 2**20
_UNFINISHED = ".part"


def shard_path(folder: str | Path, split: str, index: int, count: int) -> Path:
    """Returns where shard `index` of `count` lies: `folder/data/train-00000-of-00004.parquet`."""
    return Path(folder) / DATA_FOLDER / f"{split}-{index:05d}-of-{count:05d}.parquet"


def write_shard(
    path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]], record: dict[str, Any], videos_per_group: int
) -> None:
    """Writes a shard under a hidden name, flushes it to the disk, and only then gives it its own name.

    Args:
        path: Where the shard shall be.
        schema: The Arrow schema, whose metadata tell the types of 🤗 Datasets.
        rows: Its rows; they are taken one by one, and no more than a row group is held in memory.
        record: What the footer shall hold, any JSON. It is read after the last row, which may have added to it.
        videos_per_group: Rows of a row group.

    Raises:
        OSError: If it cannot be written; a full disk is called that. Nothing half-written stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}{_UNFINISHED}")
    try:
        with unfinished.open("wb") as file:
            # Video is compressed already, and no two are equal: to compress it or to look for equals takes only time.
            with pq.ParquetWriter(file, schema, compression="none", use_dictionary=False) as writer:
                for group in _groups(rows, videos_per_group):
                    writer.write_table(pa.Table.from_pylist(group, schema=schema))
                writer.add_key_value_metadata({RECORD_KEY: json.dumps(record)})
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        _flush_folder(path.parent)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                f"the disk is full: {path} could not be written, and no part of it was left. The shards beside it are "
                "whole; make room and run the same command again, which goes on after them"
            ) from error
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


def read_record(path: Path) -> dict[str, Any] | None:
    """Returns the record of a finished shard; None where there is no shard, or one that was not written here."""
    if not path.exists():
        return None
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (pa.ArrowInvalid, OSError):
        return None
    return json.loads(metadata[RECORD_KEY]) if RECORD_KEY in metadata else None


def remove_unfinished(folder: str | Path) -> None:
    """Removes what a kill has left half-written."""
    for leftover in (Path(folder) / DATA_FOLDER).glob(f".*{_UNFINISHED}"):
        leftover.unlink()


def write_file(path: Path, content: str) -> None:
    """Writes a small file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}{_UNFINISHED}")
    unfinished.write_text(content)
    os.replace(unfinished, path)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
