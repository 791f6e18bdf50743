"""Folders of videos, saved data sets, and the columns of all data sets."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from vididi_hf.containers_vididi import local_path
from vididi_hf.data.folders import (
    MissingSplitError,
    SkippedFilesWarning,
    find_files,
    read_video_folder,
    with_video_column,
)
from vididi_hf.data.preparation.options import PreparationOptions
from vididi_hf.data.preparation.treatment import treat_video
from vididi_hf.data.saved import read_hub_dataset, read_saved_dataset
from vididi_hf.decoding_vididi import BrokenVideoError, VideoReader, open_video
from vididi_hf.files import printable


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


def test_all_files_sorted_and_nothing_hidden(tmp_path):
    touch(tmp_path, "b/c/d.txt", "a.mp4", "b/a.mp4", ".hidden", ".git/a.mp4", "b/._a.mp4")
    (tmp_path / "empty").mkdir()
    assert find_files(tmp_path) == ["a.mp4", "b/a.mp4", "b/c/d.txt"]
    assert find_files(str(tmp_path / "empty")) == []


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "elsewhere/a.mp4", "root/b.mp4", "root/sub/c.mp4")
    (tmp_path / "root/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/file.mp4").symlink_to(tmp_path / "root/b.mp4")
    (tmp_path / "root/broken.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (tmp_path / "root/sub/up").symlink_to(tmp_path / "root")
    (tmp_path / "root/sub/itself").symlink_to(tmp_path / "root/sub")
    assert find_files(tmp_path / "root") == ["b.mp4", "file.mp4", "linked/a.mp4", "sub/c.mp4"]


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


def test_videos_without_sub_folders_have_no_label(tmp_path):
    touch(tmp_path, "b.mp4", "a.mp4")
    rows = read_video_folder(tmp_path)
    assert rows.column_names == ["video"]
    assert paths_of(rows, tmp_path) == ["a.mp4", "b.mp4"]
    touch(tmp_path, "some/c.mp4")
    assert read_video_folder(tmp_path).column_names == ["video"]
    touch(tmp_path / "splits", "train/a.mp4", "val/b.mp4")
    assert read_video_folder(tmp_path / "splits").column_names == ["video"]


def test_saved_data_sets(tmp_path, motion_root):
    rows = read_video_folder(motion_root, None)
    datasets.DatasetDict({"train": rows.select([0, 1]), "test": rows.select([2])}).save_to_disk(tmp_path / "dict")
    assert [len(read_saved_dataset(tmp_path / "dict", split)) for split in ("train", "test", None)] == [2, 1, 3]
    assert read_saved_dataset(tmp_path / "dict")[0]["video"].get_frames_at([0]).data.shape == (1, 3, 64, 64)
    with pytest.raises(ValueError, match="has no split 'validation'; it has test, train"):
        read_saved_dataset(tmp_path / "dict", "validation")
    text = datasets.Dataset.from_dict({"video": [str(motion_root / "test" / "bob" / "000003.mp4")]})
    text.save_to_disk(tmp_path / "text")  # paths become videos
    assert read_saved_dataset(tmp_path / "text")[0]["video"].get_frames_at([0]).data.shape == (1, 3, 64, 64)
    rows.select([0]).save_to_disk(tmp_path / "single")  # which is one split
    assert [len(read_saved_dataset(tmp_path / "single", split)) for split in ("train", None)] == [1, 1]
    with pytest.raises(ValueError, match="has no split 'test'; it has train"):
        read_saved_dataset(tmp_path / "single", "test")
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


def test_columns_and_their_types():
    others = {"person": [3, 4], "note": ["", "x"]}
    rows = with_video_column(["a.mp4", "b.mp4"], ["walk", "run"], ["run", "walk", "jump"], columns=others)
    assert rows.column_names == ["video", "label", "person", "note"]
    assert isinstance(rows.features["video"], datasets.Video)
    assert rows.features["label"].names == ["run", "walk", "jump"]
    assert rows.remove_columns("video")[:] == {"label": [1, 0], "person": [3, 4], "note": ["", "x"]}
    missing = with_video_column(["a.mp4", None], ["run", None]).cast_column("video", datasets.Video(decode=False))
    assert missing.to_list()[1] == {"video": None, "label": None}
    boxes = datasets.List(datasets.List(datasets.Value("float32"), length=4))
    typed = with_video_column(["a.mp4"], features={"boxes": boxes}, columns={"boxes": [[]], "person": [3]})
    assert typed.features["boxes"] == boxes
    assert typed.column_names == ["video", "boxes", "person"]
    assert with_video_column(["a.mp4"], ["run"]).features["label"].names == ["run"]
    assert with_video_column(["a.mp4"]).column_names == ["video"]


def test_every_kind_of_video_file_and_nothing_else(tmp_path, monkeypatch):
    kept = ["a.mp4", "b.webm", "c.AVI", "d.mov", "e.mkv", "f.MP4", "g.h.mpg"]
    touch(tmp_path / "all", *kept, "notes.txt", "picture.png", "noextension", "a.mp4.part", "._a.mp4", ".trash/z.mp4")
    touch(tmp_path / "all", "lost+found/b.mp4")
    (tmp_path / "all" / "folder.mp4").mkdir()
    scandir = os.scandir

    def refuse(folder):  # to read what only the system may
        if str(folder).endswith("lost+found"):
            raise PermissionError(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert paths_of(read_video_folder(tmp_path / "all"), tmp_path / "all") == sorted(kept)
    touch(tmp_path, "none/notes.txt")
    for folder in ("none", "nowhere"):
        with pytest.raises(FileNotFoundError, match=folder):
            read_video_folder(tmp_path / folder)


@pytest.mark.parametrize(
    ("folder", "split"), [("Valid", "validation"), ("dev", "validation"), ("TRAINING", "train"), ("eval", "test")]
)
def test_splits_go_by_several_names(tmp_path, folder, split):
    touch(tmp_path, f"{folder}/a.mp4")
    for name in (split, folder):
        assert paths_of(read_video_folder(tmp_path, name), tmp_path) == [f"{folder}/a.mp4"]
    with pytest.raises(MissingSplitError, match=f"has no split 'other'; it has {split}"):
        read_video_folder(tmp_path, "other")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training/run", "testing/run"),
        ("train_videos/run", "test-videos/run"),  # as 🤗 Datasets reads them
        ("data/Train/run", "data/evaluation/run"),
        ("run/train", "run/eval"),
    ],
)
def test_no_test_folder_is_trained_on(tmp_path, train, test):
    touch(tmp_path, f"{train}/a.mp4", f"{test}/b.mp4")
    assert paths_of(read_video_folder(tmp_path), tmp_path) == [f"{train}/a.mp4"]
    assert paths_of(read_video_folder(tmp_path, "test"), tmp_path) == [f"{test}/b.mp4"]
    assert labels_of(read_video_folder(tmp_path)) == ["run"]


def test_classes_are_called_like_splits_or_written_in_two_forms(tmp_path):
    touch(tmp_path, "training dog/a.mp4", "test drive/b.mp4", "caf\u00e9/c.mp4", "cafe\u0301/d.mp4")
    rows = read_video_folder(tmp_path)
    assert rows.features["label"].names == ["caf\u00e9", "test drive", "training dog"]
    assert len(rows) == 4


def test_metadata_of_a_video_folder(tmp_path):
    touch(tmp_path, "train/a.mp4", "train/sub/b.mp4", "test/c.mp4")
    (tmp_path / "train/metadata.csv").write_text("file_name, label,fps\nsub/b.mp4, walk ,30\ngone.mp4,run,2\n")
    (tmp_path / "test/metadata.jsonl").write_text('{"file_name": "c.mp4", "label": "run", "fps": 25}\n')
    with pytest.warns(SkippedFilesWarning, match=r"1 files .*gone\.mp4 \(train/metadata\.csv, line 3: there is no"):
        rows = read_video_folder(tmp_path)
    assert paths_of(rows, tmp_path) == ["train/a.mp4", "train/sub/b.mp4"]
    assert rows.features["label"].names == ["run", "walk"]
    assert (rows["label"][:], rows["fps"][:]) == ([None, 1], [None, 30])
    with pytest.warns(SkippedFilesWarning):
        assert labels_of(read_video_folder(tmp_path, "test", label_column="fps")) == ["25"]


def test_what_is_not_read_is_named_with_its_reason(tmp_path):
    touch(tmp_path, "ok.MTS", "b.m2ts", "c.ogv", "d.vob", "moves.gif", "half.mp4.part", "notes.txt", "a/x.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    links = {"loop.mp4": "loop.mp4", "gone.mp4": "nowhere", "zero.mp4": "/dev/zero", "a/l": "../b", "b/l": "../a"}
    (tmp_path / "b").mkdir()
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        server.bind("bound.mp4")
        with pytest.warns(SkippedFilesWarning, match="7 files are skipped") as caught:
            rows = read_video_folder(tmp_path)
    assert paths_of(rows, tmp_path) == ["a/x.mp4", "b/l/x.mp4", "b.m2ts", "c.ogv", "d.vob", "ok.MTS"]
    (warning,) = [one.message for one in caught if isinstance(one.message, SkippedFilesWarning)]
    assert warning.files == {
        "bound.mp4": "it is a socket",
        "gone.mp4": "it is a link to nothing",
        "half.mp4.part": "its format is not read",
        "loop.mp4": f"it cannot be opened: {os.strerror(errno.ELOOP)}",
        "moves.gif": "its format is not read",
        "pipe.mp4": "it is a FIFO",
        "zero.mp4": "it is a device",
    }
    for name in ("pipe.mp4", "zero.mp4", "loop.mp4", "gone.mp4", "a", "bound.mp4"):
        with pytest.raises(BrokenVideoError, match=warning.files.get(name, "it is a folder")):
            open_video(tmp_path / name)
        video = {"path": str(tmp_path / name), "bytes": None}
        treated = treat_video(video, PreparationOptions(dataset="x", output_dir="y"))
        assert treated.reason == warning.files.get(name, "it is a folder")


def test_names_that_are_not_utf8_are_read_and_printed(tmp_path, write_video):
    path = write_video(tmp_path / "plain.mp4").rename(tmp_path / os.fsdecode(b"caf\xe9 \x1b[31m.mp4"))
    (video,) = read_video_folder(tmp_path).cast_column("video", datasets.Video(decode=False))["video"]
    assert VideoReader(video).num_frames == 24
    assert Path(local_path(video["path"])) == path
    assert printable(video["path"]).endswith(r"caf\xe9 \x1b[31m.mp4")


@pytest.mark.slow
def test_another_locale_changes_nothing(tmp_path, write_video):
    write_video(tmp_path / "caf\u00e9.mp4")
    (tmp_path / "clips.csv").write_text("video,label\ncaf\u00e9.mp4,d\u00e9j\u00e0\n", encoding="utf-8")
    code = "import sys; from vididi_hf.decoding_vididi import VideoReader; from vididi_hf.data.registry import *\n"
    code += "rows = load_video_dataset(sys.argv[1]); print(ascii(rows.features['label'].names))\n"
    code += "print(VideoReader(rows.cast_column('video', datasets.Video(decode=False))[0]['video']).num_frames)"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path / "clips.csv")]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [r"['d\xe9j\xe0']", "24"]
