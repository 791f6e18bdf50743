"""Which videos a run uses, by name and size, so that a resumed run notices if they have changed."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow.compute as pc

_FILES_AT_ONCE = 16  # network file systems answer slowly
_SHOWN = 3
_MAX_BYTES = 2**30  # more than ten million names


@dataclass(frozen=True)
class VideoList:
    """Names and sizes in bytes of the videos of a run, or of its shards, in order. -1 stands for an unknown size."""

    sizes: list[tuple[str, int]]

    @classmethod
    def of(cls, rows: datasets.Dataset) -> VideoList:
        """Lists the column `video`. Paths are relative to their common folder: a data set may move."""
        found: list[tuple[str | None, int | None]] = []
        column = rows.select_columns(["video"]).cast_column("video", datasets.Video(decode=False))
        for table in column.with_format("arrow").iter(1000):
            paths, contents = (pc.struct_field(table["video"], name) for name in ("path", "bytes"))
            found += zip(paths.to_pylist(), pc.binary_length(contents).to_pylist())
        on_disk: dict[str, int] = dict.fromkeys((path for path, size in found if size is None and path is not None), -1)
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            on_disk = dict(zip(on_disk, pool.map(file_size, on_disk)))
        folders = {os.path.dirname(path) for path in on_disk if os.path.isabs(path)}
        root = os.path.commonpath(folders) if folders else None
        videos: list[tuple[str, int]] = []
        for path, size in found:
            name = path or ""
            on_its_own = os.path.relpath(name, root) if name in on_disk and root else name
            videos.append((on_its_own, on_disk.get(name, -1) if size is None else size))
        return cls(videos)

    def write(self, path: Path) -> None:
        """Writes the list as compressed JSON."""
        path.write_bytes(gzip.compress(json.dumps(self.sizes, ensure_ascii=False).encode(), mtime=0))

    @classmethod
    def read(cls, path: Path) -> VideoList:
        """Reads what `write` wrote, or raises a ValueError."""
        try:
            with gzip.GzipFile(path) as file:
                text = file.read(_MAX_BYTES)
            return cls([(str(name), int(size)) for name, size in json.loads(text)])
        except (OSError, EOFError, ValueError, TypeError, zlib.error) as error:
            raise ValueError(f"{path} is not a list of videos: {error}") from error

    def difference(self, before: VideoList) -> str:
        """Says what is not as before, such as "2 are gone (a.mp4, b.mp4)"; empty if nothing has changed."""
        if self.sizes == before.sizes:
            return ""
        was, now = dict(before.sizes), dict(self.sizes)
        parts = {
            "gone": [name for name in was if name not in now],
            "new": [name for name in now if name not in was],
            "of another size": [name for name in now if name in was and was[name] != now[name]],
        }
        return ", ".join(_listed(what, names) for what, names in parts.items() if names) or "their order has changed"


def _listed(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} {'is' if len(names) == 1 else 'are'} {what} ({shown})"


def file_size(path: str) -> int:
    """Returns the size of a file in bytes, or -1."""
    try:
        return os.path.getsize(path)
    except OSError:  # a missing file fails when it is decoded, and a URL has no size here
        return -1
