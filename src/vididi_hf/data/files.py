"""Where data sets lie on a disk: their default folder, and all files below a folder from one walk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts")


def default_root(name: str) -> Path:
    """Where a built-in set lies unless told otherwise: `$VIDIDI_HOME/<name>` or else `~/.cache/vididi_hf/<name>`."""
    home = os.environ.get("VIDIDI_HOME") or "~/.cache/vididi_hf"
    return Path(home).expanduser() / name


def find_files(folder: str | Path) -> list[str]:
    """Lists all files below a folder by walking it once: no file is opened, or asked about one by one.

    Links are followed. Passed over are what is hidden (names that begin with a dot), links to a folder that contains
    them, broken links, and folders that may not be read.

    Args:
        folder: The folder.

    Returns:
        Sorted paths relative to it, with forward slashes.

    Example:
        ```python
        >>> import tempfile
        >>> from pathlib import Path
        >>> from vididi_hf.data.files import find_files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "run").mkdir()
        ...     Path(folder, "run", "a.mp4").touch()
        ...     find_files(folder)
        ['run/a.mp4']

        ```
    """
    return sorted(_walk(os.fspath(folder), ""))


def _walk(folder: str, prefix: str) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except PermissionError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not (entry.is_symlink() and _contains(entry.path, folder)):
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
        elif entry.is_file():
            yield prefix + entry.name


def _contains(outer: str, inner: str) -> bool:
    outer, inner = os.path.realpath(outer), os.path.realpath(inner)
    return os.path.commonpath([outer, inner]) == outer
