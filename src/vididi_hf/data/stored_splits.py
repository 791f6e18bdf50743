"""The rows of a split, in the order and under the names in which they are stored in shards."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import torch

from vididi_hf.data.seeding import seeded_generator

# Raised when the same videos and settings come to give other shards.
_VERSION = 1
FACTS = {"num_frames": "int32", "fps": "float64", "height": "int32", "width": "int32"}


class StoredSplit:
    """The rows of one split, in the order in which they are stored.

    Args:
        name: Its name.
        rows: A data set with a `video` column.
        root: The folder that stored names are relative to.
        settings: All else that the shards depend on, any JSON.
        videos_per_shard: Rows of a shard, before any is dropped.
        shuffle: Whether the order is a random one.
        seed: The seed of that order.

    Attributes:
        features: The columns of the shards: those of `rows` and the measured `FACTS`.
        shards: The rows of each shard.
        identity: A digest of all that the shards depend on, in which files are represented by their names and sizes.
    """

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
        """Returns a row as Arrow stores it: the video as path or bytes, a label as a number."""
        row: dict[str, Any] = self._rows[index].to_pylist()[0]
        return row

    def video_name(self, index: int, path: str | None) -> str:
        """Returns the name of a video: its path below the folder of all videos or, without one, its split and row."""
        if path is None:
            return f"{self.name}/{index:08d}"
        if not os.path.isabs(path):
            return path
        return Path(path).relative_to(self._root).as_posix() if self._root else Path(path).name

    def _identity(self, settings: dict[str, Any]) -> str:
        digest = hashlib.sha256(json.dumps([_VERSION, self.name, settings], sort_keys=True).encode())
        digest.update(json.dumps(self.features.to_dict(), sort_keys=True).encode())
        for start, videos in _video_arrays(self._rows):
            names = [self.video_name(start + i, path) for i, path in enumerate(videos.field("path").to_pylist())]
            digest.update(repr((names, pc.binary_length(videos.field("bytes")).to_pylist())).encode())
        for table in self._rows.remove_columns("video").iter(1000):
            digest.update(repr(table.to_pylist()).encode())
        return digest.hexdigest()


def common_folder(splits: Iterable[datasets.Dataset]) -> str:
    """Returns the deepest folder that holds all files of some data sets.

    Args:
        splits: Data sets with a `video` column.

    Returns:
        A path; empty where no row is a file, or they do not lie on one drive.
    """
    folders: set[str] = set()
    for rows in splits:
        arrow = rows.cast_column("video", datasets.Video(decode=False)).with_format("arrow")
        for _, videos in _video_arrays(arrow):
            paths = videos.field("path").to_pylist()
            folders |= {os.path.dirname(path) for path in paths if path is not None and os.path.isabs(path)}
    try:
        return os.path.commonpath(folders) if folders else ""
    except ValueError:
        return ""


def _video_arrays(rows: datasets.Dataset) -> Iterator[tuple[int, pa.StructArray]]:
    """Yields the column `video` in parts, each with the row that it starts at, without copying what files hold."""
    start = 0
    for table in rows.select_columns("video").iter(100):
        for videos in table["video"].chunks:
            yield start, videos
            start += len(videos)
