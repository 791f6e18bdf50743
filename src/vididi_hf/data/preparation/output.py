"""The folder that parts of a preparation write together: on a file system, or behind an fsspec URL."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import fsspec

from vididi_hf.data.preparation.shards import DATA_FOLDER, read_record
from vididi_hf.files import folder_lock, remove_unfinished, write_text


class OutputFolder:
    """A folder whose files appear complete or not at all; stores of objects (`s3://`, `hf://`) have no locks."""

    def __init__(self, folder: str) -> None:
        self.name = folder.rstrip("/")
        self.is_remote = "://" in folder
        if self.is_remote:
            self._fs, self._root = fsspec.core.url_to_fs(self.name)

    def shards(self) -> list[str]:
        """Lists the names of all shards."""
        if not self.is_remote:
            return sorted(path.name for path in Path(self.name, DATA_FOLDER).glob("*.parquet"))
        return sorted(path.rpartition("/")[2] for path in self._fs.glob(f"{self._root}/{DATA_FOLDER}/*.parquet"))

    def read_record(self, shard: str) -> dict[str, Any] | None:
        """Returns the record of a shard; None if it was not written by this package."""
        if not self.is_remote:
            return read_record(Path(self.name, DATA_FOLDER, shard))
        with self._fs.open(f"{self._root}/{DATA_FOLDER}/{shard}", "rb") as file:
            return read_record(file)

    def size(self, shard: str) -> int:
        """Returns the bytes of a shard."""
        if self.is_remote:
            return int(self._fs.size(f"{self._root}/{DATA_FOLDER}/{shard}"))
        return Path(self.name, DATA_FOLDER, shard).stat().st_size

    @contextmanager
    def writing(self, shard: str) -> Iterator[Path]:
        """Yields the local path to write a shard to."""
        if not self.is_remote:
            yield Path(self.name, DATA_FOLDER, shard)
            return
        with tempfile.TemporaryDirectory() as temporary:
            yield (path := Path(temporary, shard))
            self._fs.makedirs(f"{self._root}/{DATA_FOLDER}", exist_ok=True)
            self._fs.put_file(str(path), f"{self._root}/{DATA_FOLDER}/{shard}")

    def put_text(self, name: str, text: str) -> None:
        """Writes a text file of the folder."""
        if self.is_remote:
            self._fs.pipe_file(f"{self._root}/{name}", text.encode())
        else:
            write_text(Path(self.name, name), text)

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Keeps other processes from the same work; a BlockingIOError names the one that does it."""
        return nullcontext() if self.is_remote else folder_lock(self.name, f".{name}.lock")

    def remove_unfinished(self) -> None:
        """Removes what killed processes left."""
        if not self.is_remote:
            remove_unfinished(Path(self.name, DATA_FOLDER))
