"""Files and folders that are whole or not there: a kill or a full disk leaves nothing half-written in their place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_UNFINISHED = ".part"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Gives a hidden path to write to, and what is written there its own name once it is on the disk.

    What had that name is replaced, and stays as it is until then. An exception removes what was written so far; what a
    kill leaves, the next write to the same path replaces, and `remove_unfinished` removes.

    Args:
        path: Where the file, or the folder, shall be. The folder around it is made.

    Yields:
        The path to write to, in the same folder. For a folder it is the writer who makes it.

    Raises:
        OSError: If it cannot be written.

    Example:
        ```python
        >>> import tempfile
        >>> from pathlib import Path
        >>> from vididi_hf.files import atomic_write
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_write(Path(folder, "numbers.txt")) as unfinished:
        ...         _ = unfinished.write_text("1 2 3")
        ...         before = Path(folder, "numbers.txt").exists()
        ...     before, Path(folder, "numbers.txt").read_text()
        (False, '1 2 3')

        ```
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}{_UNFINISHED}")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    try:
        yield unfinished
        _flush(unfinished)
        if path.is_dir():
            remove_folder(path)  # unlike a file, a folder cannot be replaced in one step
        os.replace(unfinished, path)
        _flush_folder(path.parent)
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell
            _remove(unfinished)
        raise


def write_text(path: str | Path, text: str) -> Path:
    """Writes a text file whole or not at all, making its folder where there is none.

    Returns:
        The path.
    """
    with atomic_write(path) as unfinished:
        unfinished.write_text(text)
    return Path(path)


def remove_folder(path: Path) -> None:
    """Removes a folder in such a way that nobody sees half of it under its name."""
    doomed = path.with_name(f".{path.name}.old{_UNFINISHED}")
    _remove(doomed)
    os.replace(path, doomed)
    shutil.rmtree(doomed)


def remove_unfinished(folder: str | Path) -> None:
    """Removes from a folder what a kill has left half-written, or half-removed."""
    for leftover in Path(folder).glob(f".*{_UNFINISHED}"):
        _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Waits until a file, or a folder with all that is below it, is on the disk."""
    for below in (path, *path.rglob("*")):
        if below.is_dir():
            _flush_folder(below)
        else:
            with below.open("rb") as file:
                os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
