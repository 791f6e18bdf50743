"""HMDB51 by its official files, and by lists made from them."""

import datasets
import pytest

from vididi_hf.data.registry import load_video_dataset

ACTIONS = ["brush_hair", *(f"other_{number:02d}" for number in range(49)), "wave"]


def clip(action, number):
    return f"Some film! [HD]_{action}_u_nm_np1_fr_goo_{number}.avi"


@pytest.fixture
def root(tmp_path, write, touch):
    """51 actions with four clips each: used to train, test, not, and (not in split 1) to train."""
    for action in ACTIONS:
        lists = {1: (1, 2, 0, 0), 2: (2, 1, 0, 1), 3: (0, 1, 2, 1)}
        for split, flags in lists.items():
            lines = [f"{clip(action, number)} {flag} " for number, flag in enumerate(flags)]
            write(tmp_path / f"testTrainMulti_7030_splits/{action}_test_split{split}.txt", *lines)
        touch(tmp_path / "hmdb51_org" / action, *(clip(action, number) for number in range(4)))
    return tmp_path


def numbers(name, root, split):
    """The numbers of the clips of the first and last action that are in a split."""
    rows = load_video_dataset(name, root=root, split=split)
    assert rows.features["label"].names == ACTIONS
    videos = rows.cast_column("video", datasets.Video(decode=False))
    return tuple([row["video"]["path"][-5] for row in videos if row["label"] == label] for label in (0, 50))


def test_the_official_splits(root):
    assert numbers("hmdb51", root, "train") == (["0"], ["0"])
    assert numbers("hmdb51", root, "test") == (["1"], ["1"])
    assert numbers("hmdb51", root, None) == (["0", "1"], ["0", "1"])
    assert numbers("hmdb51-2", root, "train") == (["1", "3"], ["1", "3"])
    assert numbers("hmdb51-2", root, "test") == (["0"], ["0"])
    assert numbers("hmdb51-3", root, "train") == (["1", "3"], ["1", "3"])
    assert numbers("hmdb51-3", root, "test") == (["2"], ["2"])


def test_an_incomplete_list_would_number_classes_otherwise_and_a_damaged_one_is_named(root, write):
    rows = load_video_dataset("hmdb51", root=root / "hmdb51_org")  # the lists lie beside this folder
    assert (rows.column_names, set(rows["source"])) == (["video", "label", "source"], {"Some film! [HD]"})
    (root / "testTrainMulti_7030_splits" / "wave_test_split1.txt").unlink()
    with pytest.raises(ValueError, match=r"hmdb51: the lists .* have 50 actions, not 51: they are incomplete or"):
        load_video_dataset("hmdb51", root=root)
    assert len(load_video_dataset("hmdb51-2", root=root)) == 102
    write(root / "testTrainMulti_7030_splits" / "wave_test_split1.txt", "clip_without_number.avi")
    with pytest.raises(ValueError, match=r"wave_test_split1\.txt: each line must be a clip and a number, got 'clip_w"):
        load_video_dataset("hmdb51", root=root)


def test_jhmdb_is_no_hmdb51(root, touch):
    """Its clips are of HMDB51 and have the same names, in other containers."""
    jhmdb = touch(root / "jhmdb", *(f"{action}/{clip(action, 0)[:-4]}.mp4" for action in ACTIONS[:21]))
    with pytest.raises(FileNotFoundError, match=r"hmdb51: only 21 of the 51 listed videos found in .*jhmdb; looked"):
        load_video_dataset("hmdb51", root=jhmdb)  # with the lists of HMDB51 beside it


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("hmdb51_vid_train_split_1.txt", "hmdb51_vid_val_split_1.txt"),
        ("hmdb51_train_split_1_videos.txt", "hmdb51_val_split_1_videos.txt"),
        ("hmdb51_train_split1.txt", "hmdb51_test_split1.txt"),
    ],
)
def test_plain_lists(tmp_path, write, touch, train, test):
    write(tmp_path / train, *(f"{action}/{clip(action, 0)} {number}" for number, action in enumerate(ACTIONS)))
    write(tmp_path / test, *(f"{action}/{clip(action, 1)[:-4]} {number}" for number, action in enumerate(ACTIONS)))
    touch(tmp_path, *(f"{action}/{clip(action, number)}" for action in ACTIONS for number in range(3)))
    assert numbers("hmdb51", tmp_path, "train") == (["0"], ["0"])
    assert numbers("hmdb51", tmp_path, "test") == (["1"], ["1"])


def test_the_real_lists(tmp_path, shared, touch):
    lists = shared / "annotations" / "hmdb51"
    lines = [line for path in lists.glob("*.txt") for line in path.read_text().splitlines()]
    touch(tmp_path / "videos", *(line.rsplit(maxsplit=1)[0] + ".avi" for line in lines))
    (tmp_path / "annotations").symlink_to(lists)
    train, test = (load_video_dataset("hmdb51", root=tmp_path / "videos", split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (3570, 1530)
    # 70 videos to train and 30 to test with in each of 51 classes.
    for rows, number in ((train, 70), (test, 30)):
        assert [rows["label"][:].count(label) for label in range(51)] == [number] * 51
    assert train.features == test.features
