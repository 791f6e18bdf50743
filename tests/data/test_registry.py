"""One name or path for every kind of data set."""

import re
import shutil
from pathlib import Path

import datasets
import pytest

from vididi_hf.data import motion
from vididi_hf.data.folders import default_root, read_video_folder
from vididi_hf.data.registry import DATASETS, load_video_dataset


def first_path(rows):
    return Path(rows.cast_column("video", datasets.Video(decode=False))[0]["video"]["path"])


def test_motion_is_read_where_it_lies_and_made_where_it_is_not(motion_root, tmp_path):
    root = tmp_path / "motion"
    shutil.copytree(motion_root, root)
    (root / "train" / "pulse" / "000005.mp4").unlink()
    rows = load_video_dataset("motion", root=root, num_train=16, num_test=8)
    assert len(rows) == 16
    assert rows.column_names == ["video", "label", "background"]
    assert rows.features["label"].names == sorted(motion.MOTIONS)
    assert (root / "train" / "pulse" / "000005.mp4").exists()
    assert first_path(rows) == root / "train" / "slide" / "000000.mp4"
    assert len(load_video_dataset("motion", root=root, split="test", num_train=16, num_test=8)) == 8
    assert len(load_video_dataset("motion", root=root, split=None, num_train=16, num_test=8)) == 24


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDIDI_HOME", str(tmp_path))
    assert default_root("motion") == tmp_path / "motion"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VIDIDI_HOME", "~/sets")
    assert default_root("motion") == tmp_path / "sets" / "motion"
    for unset in (lambda: monkeypatch.setenv("VIDIDI_HOME", ""), lambda: monkeypatch.delenv("VIDIDI_HOME")):
        unset()
        assert default_root("motion") == tmp_path / ".cache" / "vididi_hf" / "motion"


@pytest.mark.parametrize("name", sorted(DATASETS.keys() - {"motion", "motion-noise"}))
def test_published_sets_say_where_they_are_looked_for(name, tmp_path, vididi_home):
    """Each of the names leads to a reader, which needs the videos: nothing is downloaded."""
    with pytest.raises(FileNotFoundError, match=rf"there is no folder {vididi_home}/\S+; pass the folder of"):
        load_video_dataset(name)
    with pytest.raises(FileNotFoundError, match=rf"found no .*; looked anywhere in {tmp_path}.* is empty"):
        load_video_dataset(name, root=tmp_path)
    with pytest.raises(ValueError, match=f"{name.split('-')[0]}.* has no split 'unheard-of'"):
        load_video_dataset(name, root=tmp_path, split="unheard-of")


@pytest.mark.parametrize("as_given", [str, Path])
def test_folders_lists_and_saved_data_sets(motion_root, tmp_path, as_given):
    assert len(load_video_dataset(as_given(motion_root))) == 16
    assert len(load_video_dataset(as_given(motion_root), split="test")) == 8
    assert len(load_video_dataset(as_given(motion_root / "clips.csv"), split="test")) == 8
    assert len(load_video_dataset(as_given(motion_root / "train" / "spin"))) == 2
    video = str(motion_root / "test" / "bob" / "000003.mp4")
    datasets.Dataset.from_dict({"video": [video]}).to_parquet(tmp_path / "clips.parquet")
    rows = load_video_dataset(as_given(tmp_path / "clips.parquet"))
    assert rows[0]["video"].get_frames_at([0]).data.shape == (1, 3, 64, 64)
    rows.save_to_disk(tmp_path / "single")
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "dict")
    assert len(load_video_dataset(as_given(tmp_path / "single"))) == 1
    assert len(load_video_dataset(as_given(tmp_path / "dict"), split="test")) == 1
    with pytest.raises(FileNotFoundError, match=r"clips\.csv"):
        load_video_dataset(as_given(tmp_path / "clips.csv"))


def test_relative_paths_and_the_home_folder(motion_root, monkeypatch, tmp_path):
    monkeypatch.chdir(motion_root.parent)
    monkeypatch.setenv("HOME", str(motion_root.parent))
    for name in (motion_root.name, f"./{motion_root.name}", f"~/{motion_root.name}", f"{motion_root.name}/train"):
        assert len(load_video_dataset(name)) == 16
    shutil.copytree(motion_root / "train" / "spin", tmp_path / "motion")
    monkeypatch.chdir(tmp_path)  # a folder called like a built-in set is reached by its path
    assert len(load_video_dataset("./motion")) == len(load_video_dataset(Path("motion"))) == 2


def test_an_id_is_looked_up_on_the_hub(monkeypatch, motion_root):
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        return read_video_folder(motion_root)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(load_video_dataset("owner/some-clips_2.0", split="test")) == 16
    load_video_dataset("owner/some-clips_2.0", split=None)
    assert asked == [("owner/some-clips_2.0", "test"), ("owner/some-clips_2.0", "all")]


def test_options_are_checked_and_seeds_have_folders_of_their_own(motion_root, vididi_home):
    with pytest.raises(TypeError, match="num_videos"):
        load_video_dataset("motion", root=motion_root, num_videos=3)
    for options in ({"num_train": 3}, {"root": motion_root}):
        with pytest.raises(ValueError, match=r"(num_train|root): only the built-in sets \(motion, .*\) take options"):
            load_video_dataset(motion_root, **options)
    paths = {first_path(load_video_dataset("motion", num_train=1, num_test=1, seed=seed)) for seed in (0, 3)}
    assert len(paths) == 2
    assert all(vididi_home in path.parents for path in paths)


@pytest.mark.parametrize("error", [datasets.exceptions.DatasetNotFoundError, ConnectionError])
def test_what_the_hub_does_not_give_may_be_a_misspelt_folder(monkeypatch, motion_root, error):
    def load_dataset(name, split):
        raise error("cannot be reached")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(FileNotFoundError, match=r"'data/vidoes'.*nor a folder.*from the Hub .* cannot be loaded: cann"):
        load_video_dataset("data/vidoes")
    monkeypatch.chdir(motion_root / "train")  # a single video is no data set
    with pytest.raises(FileNotFoundError, match=r"no data set 'pulse/000005\.mp4'.*nor the id"):
        load_video_dataset("pulse/000005.mp4")


@pytest.mark.parametrize("name", ["motoin", "/no/such/folder", "../videos", "~/videos", "a/b/c", "./a/b", "a b/c"])
def test_unknown_names_say_what_is_allowed(name, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "load_dataset", None)  # nothing here is asked of the Hub
    folder = tmp_path / "somewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(FileNotFoundError, match=f"no data set '{re.escape(name)}'"):
        load_video_dataset(name)
