"""Atomic writes: a file or folder appears complete or not at all, even after a kill or on a full disk."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_UNFINISHED = ".part"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a hidden path in the same folder, and renames it to `path` once its content is on the disk.

    An existing file or folder is replaced, and stays until then. An exception removes what was written; the next write
    to the same path, or `remove_unfinished`, removes what a kill left. To write a folder, create it at the hidden path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}{_UNFINISHED}")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    try:
        yield unfinished
        for written in (unfinished, *unfinished.rglob("*")):
            _flush(written)
        if path.is_dir():
            remove_folder(path)  # unlike a file, a folder cannot be replaced in one step
        os.replace(unfinished, path)
        _flush(path.parent)
    except BaseException:
        with suppress(OSError):  # report the first error
            _remove(unfinished)
        raise


def write_text(path: str | Path, text: str) -> Path:
    """Writes a text file atomically and returns its path."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return Path(path)


def remove_folder(path: Path) -> None:
    """Removes a folder so that nobody sees half of it under its name."""
    doomed = path.with_name(f".{path.name}.old{_UNFINISHED}")
    _remove(doomed)
    os.replace(path, doomed)
    shutil.rmtree(doomed)


def remove_unfinished(folder: str | Path) -> None:
    """Removes what a killed write or removal left in a folder."""
    for leftover in Path(folder).glob(f".*{_UNFINISHED}"):
        _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Waits until a file or the list of a folder's files is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def printable(text: str) -> str:
    """Escapes control characters, invisible characters and bytes that are not UTF-8, for messages."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def storable(path: str | os.PathLike[str]) -> str:
    r"""Writes a path as UTF-8 text, which Arrow needs. Other bytes become `\xe9`, which `local_path` undoes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
