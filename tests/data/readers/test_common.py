"""One walk over a data set's folder; lists and videos wherever people keep them; errors that say what was found."""

import warnings

import datasets
import pytest

from vididi_hf.data.folders import MissingSplitError
from vididi_hf.data.readers.common import AbsentVideosWarning, DatasetFolder, choose_splits, without_suffix


def test_lists_inside_come_first_then_those_beside(tmp_path, touch, monkeypatch):
    root = touch(tmp_path / "set" / "videos", "deep/er/List1.TXT", "deep/list1.txt")
    touch(tmp_path / "set", "list1.txt", "list2.txt", "annotations/x/list3.txt", "elsewhere/list4.txt", "../list5.txt")
    folder = DatasetFolder("some", root)
    found = [path.relative_to(tmp_path / "set").as_posix() for path in folder.find_lists(r"list\d\.txt")]
    inside = ["videos/deep/list1.txt", "videos/deep/er/List1.TXT"]
    assert found == [*inside, "list1.txt", "list2.txt", "annotations/x/list3.txt"]
    assert folder.find_list(r"list1\.txt", "list") == root / "deep" / "list1.txt"
    monkeypatch.chdir(tmp_path)  # relative roots give absolute paths
    touch(root, "a.avi")
    assert DatasetFolder("some", "set/videos").locate("a") == str(root / "a.avi")


def test_videos_are_found_by_folder_and_name_or_by_name(tmp_path, touch):
    root = touch(tmp_path, "run/a.avi", "walk/a.avi", "flat.b.WEBM", "walk/notes.txt", "walk/noextension")
    folder = DatasetFolder("some", root)
    located = {name: folder.locate(name) for name in ("run/a", "walk/a", "flat.b", "jump/flat.b", "walk/notes", "flat")}
    assert {name: path and path.removeprefix(f"{root}/") for name, path in located.items()} == {
        "run/a": "run/a.avi",
        "walk/a": "walk/a.avi",
        "flat.b": "flat.b.WEBM",
        "jump/flat.b": "flat.b.WEBM",
        "walk/notes": None,
        "flat": None,
    }


def test_rows_of_what_is_there_and_a_warning_that_names_the_rest(tmp_path, touch, summary):
    folder = DatasetFolder("some", touch(tmp_path, "a.mp4", "c.mp4"), least=0.3)
    listed = ["a", "b", "c", "b", "d", "e", "f"]
    with pytest.warns(AbsentVideosWarning, match=r"some: 4 of the 6 listed videos are not under .*: b, d, e, …") as got:
        rows = folder.rows(listed, ["x", "y", "z", "y", "x", "x", "x"], ["z", "y", "x"], number=list(range(7)))
    assert got[0].message.videos == ("b", "d", "e", "f")
    assert summary(rows, tmp_path) == [("a.mp4", "x"), ("c.mp4", "z")]
    assert rows["label"][:] == [2, 0]
    assert rows["number"][:] == [0, 2]
    assert isinstance(rows.features["video"], datasets.Video)


def test_no_rows_and_few_are_an_error(tmp_path, touch):
    """Other sets hold videos of the same names."""
    root = touch(tmp_path, "a.mp4", "b.mp4", "other.mp4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(DatasetFolder("some", root).rows(["a", "a"])) == 2
    with pytest.raises(FileNotFoundError, match=r"none of the 2 listed videos found .*; looked .* for c, d \(any of "):
        DatasetFolder("some", root).rows(["c", "d", "c"])
    few = r"only 2 of the 5 listed videos found .*; looked .* for c, d, e \(any of .* holds 3 files: a\.mp4, b\.mp4, "
    with pytest.raises(FileNotFoundError, match=few):
        DatasetFolder("some", root).rows(["a", "b", "c", "d", "e"])
    with pytest.warns(AbsentVideosWarning, match="2 of the 4 listed videos"):
        assert len(DatasetFolder("some", root).rows(["a", "b", "c", "d"])) == 2
    with pytest.warns(AbsentVideosWarning, match="3 of the 5 listed videos"):
        assert len(DatasetFolder("some", root, least=0.0).rows(["a", "b", "c", "d", "e"])) == 2
    with pytest.raises(ValueError, match="the label 'jump' is not one of the 2 classes 'run' to 'walk'"):
        DatasetFolder("some", root).rows(["a"], ["jump"], ["run", "walk"])


def test_splits_and_names():
    assert choose_splits("some", "val", ("train", "validation")) == ["validation"]
    assert choose_splits("some", None, ("train", "test")) == ["train", "test"]
    with pytest.raises(MissingSplitError, match="some has no split 'validation'; it has test, train"):
        choose_splits("some", "validation", ("train", "test"))
    with pytest.raises(ValueError, match="some: official_split must be 1, 2 or 3, got 4"):
        choose_splits("some", "train", ("train", "test"), 4)
    names = ["a.avi", "a/b.c.MP4", "v1.5_run", "a"]
    assert [without_suffix(name) for name in names] == ["a", "a/b.c", "v1.5_run", "a"]
