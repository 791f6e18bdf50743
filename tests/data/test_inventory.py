"""Lists of videos: names without their common folder, sizes of files and of stored bytes, and what has changed."""

import gzip
from pathlib import Path

import datasets
import pytest

from vididi_hf.data.inventory import VideoList

COMPRESSED = gzip.compress(b"[1, 2]", mtime=0)  # no list of videos


def test_files_stored_bytes_and_empty_rows_have_names_and_sizes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/x.mp4", "y.mp4"):
        (tmp_path / name).write_bytes(b"12345"[: len(name)])
    videos = [
        {"path": str(tmp_path / "a" / "x.mp4"), "bytes": None},
        {"path": str(tmp_path / "y.mp4"), "bytes": None},
        {"path": str(tmp_path / "missing.mp4"), "bytes": None},
        {"path": "stored.mp4", "bytes": b"123"},
        None,
    ]
    rows = datasets.Dataset.from_dict({"video": videos}).cast_column("video", datasets.Video(decode=False))
    found = VideoList.of(rows)
    assert found.sizes == [("a/x.mp4", 5), ("y.mp4", 5), ("missing.mp4", -1), ("stored.mp4", 3), ("", -1)]
    found.write(tmp_path / "list")
    assert VideoList.read(tmp_path / "list") == found


BEFORE = [("a", 1), ("b", 2), ("c", 3)]


@pytest.mark.parametrize(
    ("now", "difference"),
    [
        (BEFORE, ""),
        ([("a", 1), ("c", 3)], "1 is gone (b)"),
        ([*BEFORE, *((str(i), 1) for i in range(5))], "5 are new (0, 1, 2, ...)"),
        ([("a", 1), ("b", 7), ("c", 8)], "2 are of another size (b, c)"),
        ([("b", 2), ("a", 1), ("c", 3)], "their order has changed"),
    ],
)
def test_a_difference_is_named(now: list[tuple[str, int]], difference: str) -> None:
    assert VideoList(now).difference(VideoList(BEFORE)) == difference


@pytest.mark.parametrize(
    "content", [b"text", gzip.compress(b"[1, 2]", mtime=0), gzip.compress(b"[]", mtime=0)[:-9], b""]
)
def test_a_damaged_list_is_an_error_of_one_kind(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(ValueError, match="list is not a list of videos"):
        VideoList.read(tmp_path / "list")
