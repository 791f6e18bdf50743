"""CSV and Parquet lists of videos."""

import csv
import os
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest

from vididi_hf.containers_vididi import local_path
from vididi_hf.data.readers.csv_list import read_video_list


def labels_of(rows):
    return [rows.features["label"].int2str(number) for number in rows["label"]]


def write_csv(path, *rows):
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_list_with_label_and_split(tmp_path, summary):
    path = write_csv(
        tmp_path / "clips.csv",
        ["video", "label", "split", "fps"],
        ["a.mp4", "walk", "train", 25],
        ["sub/b.mp4", "run", "Test", 30],
        ["sub/c.mp4", "walk", "val", 30],
    )
    rows = read_video_list(path)
    assert rows.column_names == ["video", "label", "fps"]
    assert summary(rows, tmp_path) == [("a.mp4", "walk")]
    assert rows["fps"][:] == [25]
    assert summary(read_video_list(path, "test"), tmp_path) == [("sub/b.mp4", "run")]
    assert summary(read_video_list(path, "val"), tmp_path) == [("sub/c.mp4", "walk")]
    everything = read_video_list(str(path), None)
    assert labels_of(everything) == ["walk", "run", "walk"]
    for split in ("train", "test", "validation", None):
        assert read_video_list(path, split).features["label"].names == ["run", "walk"]
    with pytest.raises(ValueError, match="has no split 'tset'; it has test, train, validation"):
        read_video_list(path, "tset")


def test_a_list_of_videos_only_and_splits_of_any_name(tmp_path, summary):
    path = write_csv(tmp_path / "clips.csv", ["video"], ["a.mp4"], ["b.mp4"])
    for split in ("train", None):
        rows = read_video_list(path, split)
        assert rows.column_names == ["video"]
        assert summary(rows, tmp_path) == ["a.mp4", "b.mp4"]
    with pytest.raises(ValueError, match="has no split 'test'; it has train"):
        read_video_list(path, "test")
    path = write_csv(tmp_path / "clips.csv", ["video", "split"], ["a.mp4", "fold1"], ["b.mp4", "2"], ["c.mp4", "2"])
    assert summary(read_video_list(path, "2"), tmp_path) == ["b.mp4", "c.mp4"]
    with pytest.raises(ValueError, match="has no split 'train'; it has 2, fold1"):
        read_video_list(path)


def test_names_and_paths_are_read_as_they_are(tmp_path):
    """Numbers, missing values, a spreadsheet's byte order mark, absolute paths and paths above the list."""
    rows = [["001", "01"], ["002", "1"], ["nan", "nan"], ["1e3", "None"], [tmp_path / "b.mp4", "1"], ["../c.mp4", "1"]]
    path = write_csv(tmp_path / "lists" / "clips.csv", ["\ufeffvideo", "label"], *rows)
    found = read_video_list(path)
    videos = [Path(video["path"]) for video in found.cast_column("video", datasets.Video(decode=False))["video"]]
    names = ["lists/001", "lists/002", "lists/nan", "lists/1e3", "b.mp4", "c.mp4"]
    assert [video.resolve() for video in videos] == [(tmp_path / name).resolve() for name in names]
    assert labels_of(found) == ["01", "1", "nan", "None", "1", "1"]
    pd.DataFrame({"video": ["a.mp4", "b.mp4"], "label": np.array([7, 3])}).to_parquet(tmp_path / "clips.PARQUET")
    assert labels_of(read_video_list(tmp_path / "clips.PARQUET")) == ["7", "3"]
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ValueError, match=r"empty\.csv cannot be read as a CSV list: it is empty"):
        read_video_list(tmp_path / "empty.csv")


def test_columns_may_have_any_name(tmp_path):
    header = ["video", "label", "labels", "names", "videos", "features", "columns"]
    found = read_video_list(write_csv(tmp_path / "clips.csv", header, ["a.mp4", "x", "1", "2", "3", "4", "5"]))
    assert list(found.remove_columns("video")[0].items()) == [("label", 0), *zip(header[2:], range(1, 6))]


def test_a_parquet_list_reads_as_the_csv_list_does(tmp_path, summary):
    table = pd.DataFrame(
        {"video": ["a.mp4", "b.mp4"], "label": ["walk", "run"], "split": ["train", "val"], "start": [0.5, 2.0]}
    )
    table.to_parquet(tmp_path / "clips.parquet")
    table.to_csv(tmp_path / "clips.csv", index=False)
    for split in ("train", "validation", None):
        parquet, text = (read_video_list(tmp_path / name, split) for name in ("clips.parquet", "clips.csv"))
        assert parquet.features == text.features
        assert summary(parquet, tmp_path) == summary(text, tmp_path)
        assert parquet.remove_columns("video")[:] == text.remove_columns("video")[:]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a.mp4"], "label": ["run"]}, "has no column 'video', only path, label"),
        ({"video": [], "label": []}, "lists no videos"),
        ({"video": [{"path": "a.mp4", "bytes": b""}]}, "the column 'video' of .* must contain paths only"),
    ],
)
def test_lists_that_are_none(tmp_path, columns, message):
    pd.DataFrame(columns).to_parquet(tmp_path / "clips.parquet")
    with pytest.raises(ValueError, match=message):
        read_video_list(tmp_path / "clips.parquet", None)


@pytest.mark.parametrize("name", ["test", " Test ", "testing", "eval", "EVALUATION"])
def test_no_test_row_is_trained_on(tmp_path, summary, name):
    rows = [["a.mp4", "walk ", "train "], ["b.mp4", " walk", "Training"], ["c.mp4", "run", name]]
    path = write_csv(tmp_path / "clips.csv", [" video", "label ", " Split"], *rows)
    assert summary(read_video_list(path, "train"), tmp_path) == [("a.mp4", "walk"), ("b.mp4", "walk")]
    assert summary(read_video_list(path, name), tmp_path) == [("c.mp4", "run")]


def test_rows_without_a_label_are_no_class(tmp_path, summary):
    labels = pd.DataFrame({"video": ["a.mp4", "b.mp4", "c.mp4"], "label": ["walk", None, " "]})
    labels.to_csv(tmp_path / "clips.csv", index=False)
    labels.to_parquet(tmp_path / "clips.parquet")
    for name in ("clips.csv", "clips.parquet"):
        rows = read_video_list(tmp_path / name)
        assert rows.features["label"].names == ["walk"]
        assert summary(rows, tmp_path) == [("a.mp4", "walk"), ("b.mp4", None), ("c.mp4", None)]
    labels.assign(label=None).to_parquet(tmp_path / "none.parquet")
    assert read_video_list(tmp_path / "none.parquet").column_names == ["video"]


@pytest.mark.parametrize(("row", "empty"), [(["", "walk", "train"], "video"), (["b.mp4", "walk", " "], "split")])
def test_a_row_without_video_or_split_is_named(tmp_path, row, empty):
    path = write_csv(tmp_path / "clips.csv", ["video", "label", "split"], ["a.mp4", "walk", "train"], row)
    with pytest.raises(ValueError, match=rf"clips\.csv, line 3: the column '{empty}' is empty"):
        read_video_list(path)


def test_listed_names_find_files_in_other_forms(tmp_path):
    """Another Unicode form, spaces that belong to the name or do not, and names that are not UTF-8."""
    composed, decomposed = "caf\u00e9.mp4", "cafe\u0301.mp4"
    for name in (os.fsencode(decomposed), b"bad\xe9.mp4", b" in.mp4", b"plain.mp4"):
        (tmp_path / os.fsdecode(name)).touch()
    listed = [composed.encode(), b"bad\xe9.mp4", b'" in.mp4"', b" plain.mp4 "]
    (tmp_path / "clips.csv").write_bytes(b"video\n" + b"\n".join(listed) + b"\n")
    found = read_video_list(tmp_path / "clips.csv").cast_column("video", datasets.Video(decode=False))["video"]
    paths = [local_path(video["path"]) for video in found]
    assert all(map(os.path.isfile, paths))
    assert len(set(paths)) == 4


def test_columns_of_other_names(tmp_path, summary):
    path = write_csv(tmp_path / "clips.csv", ["file_name", "clip", "label", "action"], ["a.mp4", "b.mp4", "x", "run"])
    assert summary(read_video_list(path), tmp_path) == [("a.mp4", "x")]
    rows = read_video_list(path, video_column="clip", label_column="action")
    assert summary(rows, tmp_path) == [("b.mp4", "run")]
    assert rows.column_names == ["video", "label", "file_name"]
    with pytest.raises(ValueError, match="has no column 'other', only file_name, clip, label, action"):
        read_video_list(path, label_column="other")
