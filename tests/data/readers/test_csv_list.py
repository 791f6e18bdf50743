"""CSV and Parquet lists of videos."""

import csv
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest

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
