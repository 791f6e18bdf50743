"""Parquet shards: written whole or not at all, and readable by everything that reads 🤗 data sets.

A shard of videos holds the encoded files in its column `video` (`datasets.Video`), in row groups small enough to be
fetched one by one. The footer of a shard holds a record of how it was made, so that the one rename that publishes a
shard publishes both.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vididi_hf.files import atomic_write

DATA_FOLDER = "data"
RECORD_KEY = b"vididi_hf"
MAX_CELL_BYTES = 2**31 - 1  # of one value in a Parquet column of this schema
# A row group is closed early at this size, so that one of long videos can be fetched, too.
_MAX_GROUP_BYTES = 64 * 2**20


def shard_path(folder: str | Path, split: str, index: int, count: int) -> Path:
    """Returns where shard `index` of `count` lies: `folder/data/train-00000-of-00004.parquet`."""
    return Path(folder) / DATA_FOLDER / f"{split}-{index:05d}-of-{count:05d}.parquet"


def write_shard(
    path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]], record: dict[str, Any], videos_per_group: int
) -> None:
    """Writes a shard of videos; see `write_tables`.

    Args:
        path: Where the shard shall be.
        schema: The Arrow schema, whose metadata tell the types of 🤗 Datasets.
        rows: Its rows; they are taken one by one, and no more than a row group is held in memory.
        record: What the footer shall hold, any JSON. It is read after the last row, which may have added to it.
        videos_per_group: Rows of a row group.

    Raises:
        OSError: If it cannot be written; a full disk is called that. Nothing half-written stays.
    """
    groups = _groups(rows, videos_per_group)
    write_tables(path, schema, (pa.Table.from_pylist(group, schema=schema) for group in groups), record)


def write_tables(path: Path, schema: pa.Schema, tables: Iterable[pa.Table], record: dict[str, Any]) -> None:
    """Writes a shard under a hidden name, flushes it to the disk, and only then gives it its own name.

    Args:
        path: Where the shard shall be.
        schema: The Arrow schema, whose metadata tell the types of 🤗 Datasets.
        tables: Its rows; each table becomes a row group.
        record: What the footer shall hold, any JSON. It is read after the last table, which may have added to it.

    Raises:
        OSError: If it cannot be written; a full disk is called that. Nothing half-written stays.
    """
    try:
        # Videos are compressed already, embeddings hardly can be, and no two are equal: trying takes only time.
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
