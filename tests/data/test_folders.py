"""The users' own videos: folders, CSV and Parquet lists, saved data sets."""

import csv
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest

from vididi_hf.data.folders import (
    read_hub_dataset,
    read_saved_dataset,
    read_video_folder,
    read_video_list,
    with_video_column,
)

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def touch(root, *names):
    """Files that only have names: reading a folder or list opens none of them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def paths_of(rows, root):
    """The videos of a data set, relative to a folder."""
    videos = rows.cast_column("video", datasets.Video(decode=False))["video"]
    return [Path(video["path"]).relative_to(root).as_posix() for video in videos]


def labels_of(rows):
    return [rows.features["label"].int2str(number) for number in rows["label"]]


def write_csv(path, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


# Folders


def test_split_and_label_folders(tmp_path):
    touch(tmp_path, "train/run/a.mp4", "train/walk/b.mp4", "test/walk/c.mp4", "test/walk/deeper/d.mp4")
    train, test = read_video_folder(tmp_path), read_video_folder(tmp_path, "test")
    assert paths_of(train, tmp_path) == ["train/run/a.mp4", "train/walk/b.mp4"]
    assert labels_of(train) == ["run", "walk"]
    assert paths_of(test, tmp_path) == ["test/walk/c.mp4", "test/walk/deeper/d.mp4"]
    assert labels_of(test) == ["walk", "walk"]
    # One numbering, though the test split lacks a class.
    assert train.features["label"].names == test.features["label"].names == ["run", "walk"]
    assert len(read_video_folder(tmp_path, None)) == 4


@pytest.mark.parametrize(
    ("folder", "split"),
    [("val", "validation"), ("Valid", "validation"), ("dev", "validation"), ("TRAINING", "train"), ("eval", "test")],
)
def test_splits_go_by_several_names(tmp_path, folder, split):
    touch(tmp_path, f"{folder}/a.mp4")
    assert paths_of(read_video_folder(tmp_path, split), tmp_path) == [f"{folder}/a.mp4"]
    assert paths_of(read_video_folder(tmp_path, folder), tmp_path) == [f"{folder}/a.mp4"]


def test_without_split_folders_everything_is_train(tmp_path):
    touch(tmp_path, "run/a.mp4", "walk/b.mp4", "walk/slow/c.mp4")
    assert labels_of(read_video_folder(tmp_path)) == ["run", "walk", "walk"]
    with pytest.raises(ValueError, match="has no split 'test'; it has train"):
        read_video_folder(tmp_path, "test")


def test_videos_without_sub_folders_have_no_label(tmp_path):
    touch(tmp_path, "b.mp4", "a.mp4")
    rows = read_video_folder(tmp_path)
    assert rows.column_names == ["video"]
    assert paths_of(rows, tmp_path) == ["a.mp4", "b.mp4"]
    touch(tmp_path, "some/c.mp4")
    assert read_video_folder(tmp_path).column_names == ["video"]
    touch(tmp_path / "splits", "train/a.mp4", "val/b.mp4")
    assert read_video_folder(tmp_path / "splits").column_names == ["video"]


def test_every_kind_of_video_file_and_nothing_else(tmp_path):
    kept = ["a.mp4", "b.webm", "c.AVI", "d.mov", "e.mkv", "f.MP4", "g.h.mpg"]
    touch(tmp_path, *kept, "notes.txt", "picture.png", "noextension", "a.mp4.part")
    (tmp_path / "folder.mp4").mkdir()
    touch(tmp_path, "._a.mp4", ".trash/z.mp4")  # what file managers leave behind
    assert sorted(paths_of(read_video_folder(tmp_path), tmp_path)) == sorted(kept)


def test_links_to_folders_are_followed(tmp_path):
    touch(tmp_path / "elsewhere", "run/a.mp4")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "train").symlink_to(tmp_path / "elsewhere")
    assert paths_of(read_video_folder(tmp_path / "videos"), tmp_path) == ["videos/train/run/a.mp4"]


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        read_video_folder(tmp_path / "nowhere")
    touch(tmp_path, "notes.txt")
    with pytest.raises(FileNotFoundError, match=r"holds no video: looked, at any depth, for \.mp4, .*\.webm"):
        read_video_folder(tmp_path)


def test_a_wrong_split_names_those_that_exist(tmp_path):
    touch(tmp_path, "train/a.mp4", "val/b.mp4")
    with pytest.raises(ValueError, match="has no split 'test'; it has train, validation"):
        read_video_folder(tmp_path, "test")


def test_rows_decode(motion_root):
    row = read_video_folder(motion_root, "test")[0]
    assert row["video"].get_frames_at([0, 23]).data.shape == (2, 3, 64, 64)


# Lists


def test_a_list_with_label_and_split(tmp_path):
    path = write_csv(
        tmp_path / "clips.csv",
        ["video", "label", "split", "fps"],
        ["a.mp4", "walk", "train", 25],
        ["sub/b.mp4", "run", "Test", 30],
        ["sub/c.mp4", "walk", "val", 30],
    )
    rows = read_video_list(path)
    assert rows.column_names == ["video", "label", "fps"]
    assert paths_of(rows, tmp_path) == ["a.mp4"]
    assert rows["fps"][:] == [25]
    assert paths_of(read_video_list(path, "test"), tmp_path) == ["sub/b.mp4"]
    assert paths_of(read_video_list(path, "val"), tmp_path) == ["sub/c.mp4"]
    everything = read_video_list(str(path), None)
    assert labels_of(everything) == ["walk", "run", "walk"]
    for split in ("train", "test", "validation", None):
        assert read_video_list(path, split).features["label"].names == ["run", "walk"]
    with pytest.raises(ValueError, match="has no split 'tset'; it has test, train, validation"):
        read_video_list(path, "tset")


def test_a_list_of_videos_only(tmp_path):
    path = write_csv(tmp_path / "clips.csv", ["video"], ["a.mp4"], ["b.mp4"])
    for split in ("train", None):
        rows = read_video_list(path, split)
        assert rows.column_names == ["video"]
        assert paths_of(rows, tmp_path) == ["a.mp4", "b.mp4"]
    with pytest.raises(ValueError, match="has no split 'test'; it has train"):
        read_video_list(path, "test")


def test_splits_may_have_any_names(tmp_path):
    path = write_csv(tmp_path / "clips.csv", ["video", "split"], ["a.mp4", "fold1"], ["b.mp4", "2"], ["c.mp4", "2"])
    assert paths_of(read_video_list(path, "2"), tmp_path) == ["b.mp4", "c.mp4"]
    with pytest.raises(ValueError, match="has no split 'train'; it has 2, fold1"):
        read_video_list(path)


def test_names_that_look_like_numbers_or_blanks_stay_names(tmp_path):
    path = write_csv(
        tmp_path / "clips.csv", ["video", "label"], ["001", "01"], ["002", "1"], ["nan", "nan"], ["1e3", "None"]
    )
    rows = read_video_list(path)
    assert paths_of(rows, tmp_path) == ["001", "002", "nan", "1e3"]
    assert labels_of(rows) == ["01", "1", "nan", "None"]


def test_absolute_paths_and_paths_above(tmp_path):
    touch(tmp_path, "lists/x", "videos/a.mp4")
    path = write_csv(tmp_path / "lists" / "clips.csv", ["video"], [tmp_path / "videos/a.mp4"], ["../videos/a.mp4"])
    videos = read_video_list(path).cast_column("video", datasets.Video(decode=False))["video"]
    assert [Path(video["path"]).resolve() for video in videos] == [(tmp_path / "videos/a.mp4").resolve()] * 2


def test_a_spreadsheets_byte_order_mark_is_no_part_of_a_name(tmp_path):
    (tmp_path / "clips.csv").write_text("\ufeffvideo,label\na.mp4,run\n", encoding="utf-8")
    assert labels_of(read_video_list(tmp_path / "clips.csv")) == ["run"]


def test_a_parquet_list_reads_as_the_csv_list_does(tmp_path):
    table = pd.DataFrame(
        {"video": ["a.mp4", "b.mp4"], "label": ["walk", "run"], "split": ["train", "val"], "start": [0.5, 2.0]}
    )
    table.to_parquet(tmp_path / "clips.parquet")
    table.to_csv(tmp_path / "clips.csv", index=False)
    for split in ("train", "validation", None):
        parquet, text = (read_video_list(tmp_path / name, split) for name in ("clips.parquet", "clips.csv"))
        assert parquet.features == text.features
        assert paths_of(parquet, tmp_path) == paths_of(text, tmp_path)
        assert parquet.remove_columns("video")[:] == text.remove_columns("video")[:]


def test_numbers_as_labels_of_a_parquet_list_become_names(tmp_path):
    pd.DataFrame({"video": ["a.mp4", "b.mp4"], "label": np.array([7, 3])}).to_parquet(tmp_path / "clips.PARQUET")
    rows = read_video_list(tmp_path / "clips.PARQUET")
    assert rows.features["label"].names == ["3", "7"]
    assert labels_of(rows) == ["7", "3"]


def test_lists_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no list .*nowhere\.csv"):
        read_video_list(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match="has no column 'video', only path, label"):
        read_video_list(write_csv(tmp_path / "clips.csv", ["path", "label"], ["a.mp4", "run"]))
    with pytest.raises(ValueError, match="lists no videos"):
        read_video_list(write_csv(tmp_path / "clips.csv", ["video", "label"]), None)
    pd.DataFrame({"video": [{"path": "a.mp4", "bytes": b""}]}).to_parquet(tmp_path / "clips.parquet")
    with pytest.raises(ValueError, match="must hold paths in its column 'video'"):
        read_video_list(tmp_path / "clips.parquet")


def test_a_list_decodes(motion_root):
    rows = read_video_list(motion_root / "clips.csv", "test")
    assert len(rows) == 8
    assert rows[3]["video"].get_frames_at([0]).data.shape == (1, 3, 64, 64)
    assert labels_of(rows)[3] == "bob"
    assert rows.features["background"].dtype == "int64"


@pytest.mark.skipif(not (SHARED / "jhmdb" / "clips.csv").exists(), reason="needs ../shared/data/jhmdb")
def test_the_list_of_a_real_set_has_all_its_videos():
    train, test = (read_video_list(SHARED / "jhmdb" / "clips.csv", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (660, 268)
    assert train.features["label"] == test.features["label"]
    assert train.features["label"].num_classes == 21
    videos = train.cast_column("video", datasets.Video(decode=False))["video"]
    assert all(Path(video["path"]).is_file() for video in videos)


# Saved and published data sets


@pytest.fixture
def saved(tmp_path, motion_root):
    """A `DatasetDict` of 2 training rows and 1 test row, in a folder."""
    rows = read_video_folder(motion_root, None)
    splits = datasets.DatasetDict({"train": rows.select([0, 1]), "test": rows.select([2])})
    splits.save_to_disk(tmp_path / "dict")
    return tmp_path / "dict"


def test_saved_splits(saved):
    assert len(read_saved_dataset(saved)) == 2
    assert len(read_saved_dataset(saved, "test")) == 1
    assert len(read_saved_dataset(saved, None)) == 3
    assert read_saved_dataset(saved)[0]["video"].get_frames_at([0]).data.shape == (1, 3, 64, 64)
    with pytest.raises(ValueError, match="has no split 'validation'; it has test, train"):
        read_saved_dataset(saved, "validation")


def test_a_single_saved_set_is_every_split(tmp_path, motion_root):
    read_video_folder(motion_root, "test").save_to_disk(tmp_path / "single")
    for split in ("train", "test", None):
        assert len(read_saved_dataset(tmp_path / "single", split)) == 8


def test_paths_as_text_and_undecoded_videos_become_videos(tmp_path, motion_root):
    text = datasets.Dataset.from_dict({"video": [str(motion_root / "test" / "bob" / "000003.mp4")]})
    undecoded = text.cast_column("video", datasets.Video(decode=False))
    for number, rows in enumerate([text, undecoded]):
        rows.save_to_disk(tmp_path / str(number))
        video = read_saved_dataset(tmp_path / str(number))[0]["video"]
        assert video.get_frames_at([0]).data.shape == (1, 3, 64, 64)


def test_a_saved_set_without_videos_is_refused(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"], "label": [0]}).save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match="has no column 'video', only text, label"):
        read_saved_dataset(tmp_path / "other")


def test_a_published_set(tmp_path, motion_root, monkeypatch):
    """`load_dataset` reads a folder of Parquet files with embedded videos just as it reads a repository of the Hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    paths = sorted((motion_root / "train").rglob("*.mp4"))[:3]
    videos = [{"path": path.name, "bytes": path.read_bytes()} for path in paths]
    for split, rows in [("train", videos[:2]), ("test", videos[2:])]:
        (tmp_path / "repository" / "data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict({"video": rows}).to_parquet(tmp_path / "repository" / "data" / f"{split}.parquet")
    name = str(tmp_path / "repository")
    assert [len(read_hub_dataset(name, split)) for split in ("train", "test", None)] == [2, 1, 3]
    assert read_hub_dataset(name)[0]["video"].get_frames_at([0]).data.shape == (1, 3, 64, 64)


def test_labels_that_are_text_become_classes_numbered_alike_in_every_split(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    labels = {"train": ["walk", "run", None], "test": ["walk", "jump"]}
    for dtype in ("string", "large_string"):
        types = datasets.Features({"video": datasets.Value("string"), "label": datasets.Value(dtype)})
        splits = datasets.DatasetDict()
        for split, names in labels.items():
            data = {"video": [f"{split}{number}.mp4" for number in range(len(names))], "label": names}
            splits[split] = datasets.Dataset.from_dict(data, features=types)
            (tmp_path / dtype).mkdir(exist_ok=True)
            splits[split].to_parquet(tmp_path / dtype / f"{split}.parquet")
        splits.save_to_disk(tmp_path / "saved" / dtype)
        for read, path in [(read_saved_dataset, tmp_path / "saved" / dtype), (read_hub_dataset, str(tmp_path / dtype))]:
            train, test, everything = (read(path, split) for split in ("train", "test", None))
            assert train.features["label"].names == test.features["label"].names == ["jump", "run", "walk"]
            assert (train["label"][:], test["label"][:]) == ([2, 1, None], [2, 0])
            assert sorted(everything["label"][:], key=str) == [0, 1, 2, 2, None]


# Columns


def test_columns_and_their_types():
    rows = with_video_column(
        ["a.mp4", "b.mp4"], ["walk", "run"], ["run", "walk", "jump"], person=[3, 4], note=["", "x"]
    )
    assert rows.column_names == ["video", "label", "person", "note"]
    assert isinstance(rows.features["video"], datasets.Video)
    assert rows.features["label"].names == ["run", "walk", "jump"]
    assert rows.remove_columns("video")[:] == {"label": [1, 0], "person": [3, 4], "note": ["", "x"]}
    missing = with_video_column(["a.mp4", None], ["run", None]).cast_column("video", datasets.Video(decode=False))
    assert missing.to_list() == [
        {"video": {"bytes": None, "path": "a.mp4"}, "label": 0},
        {"video": None, "label": None},
    ]
    boxes = datasets.List(datasets.List(datasets.Value("float32"), length=4))
    typed = with_video_column(["a.mp4"], features={"boxes": boxes}, boxes=[[]], person=[3])
    assert typed.features["boxes"] == boxes
    assert typed.column_names == ["video", "boxes", "person"]
    assert with_video_column(["a.mp4"], ["run"]).features["label"].names == ["run"]
    assert with_video_column(["a.mp4"]).column_names == ["video"]
