"""What the tests of readers share: stand-in files (reading lists opens no video) and rows in readable form."""

from pathlib import Path

import datasets
import pytest


def _touch(root, *names):
    for folder in {(root / name).parent for name in names}:
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).touch()
    return root


def _write(path, *lines, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}{end}" for line in lines), encoding="utf-8", newline="")
    return path


def _summary(rows, root=None):
    videos = rows.cast_column("video", datasets.Video(decode=False))["video"]
    paths = [Path(video["path"]).relative_to(root).as_posix() for video in videos]
    if "label" not in rows.column_names:
        return paths
    names = rows.features["label"].names
    return list(zip(paths, [None if number is None else names[number] for number in rows["label"]]))


@pytest.fixture(scope="session")
def touch():
    """`touch(root, *names)` makes files that only have names."""
    return _touch


@pytest.fixture(scope="session")
def write():
    """`write(path, *lines)` writes a text file."""
    return _write


@pytest.fixture(scope="session")
def summary():
    """`summary(rows, root)` lists (path relative to the root, class name), or paths where there are no labels."""
    return _summary


@pytest.fixture(scope="session")
def shared():
    """The folder of the real data sets; skips where it is not."""
    folder = Path(__file__).resolve().parents[4] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data")
    return folder
