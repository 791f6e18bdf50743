"""AVA by its official files."""

import itertools
import re

import pytest

from vididi_hf.data.readers.ava import EVALUATED_ACTIONS, read_ava
from vididi_hf.data.registry import load_video_dataset

ACTIONS = """
item {
  name: "bend/bow (at the waist)"
  id: 1
}
item { name: "talk to (e.g., self, a person, a group)" id: 79 }
label {
  name: "crawl"
  label_id: 2
  label_type: PERSON_MOVEMENT
}
"""
TRAIN = [
    "movieB-_0001,0902,0.100,0.200,0.500,0.900,1,7",
    "movieB-_0001,0902,0.600,0.200,0.900,0.900,2,8",
    "movieB-_0001,0902,0.100,0.200,0.500,0.900,79,7",
    "movieA-_0001,0904,0.000,0.000,1.000,1.000,80,0",
    "movieA-_0001,0903,0.000,0.000,1.000,0.500,12,0",
    "movieA-_0001,0905,0.000,0.000,1.000,0.500,12,0",
]


@pytest.fixture
def root(tmp_path, write, touch):
    for version in ("2.1", "2.2"):
        write(tmp_path / "annotations" / f"ava_train_v{version}.csv", *TRAIN)
        write(tmp_path / "annotations" / f"ava_train_excluded_timestamps_v{version}.csv", "movieA-_0001,0905")
        write(tmp_path / "annotations" / f"ava_action_list_v{version}.pbtxt", ACTIONS)
    write(tmp_path / "annotations" / "ava_val_v2.2.csv", "movieC-_0001,1798,0.1,0.1,0.2,0.2,4,3")
    write(tmp_path / "annotations" / "ava_val_excluded_timestamps_v2.2.csv")
    return touch(tmp_path, "trainval/movieA-_0001.mkv", "trainval/movieB-_0001.mp4", "trainval/movieC-_0001.webm")


def columns(rows):
    return rows.remove_columns("video").to_list()


def test_key_frames(root, summary):
    rows = load_video_dataset("ava", root=root)
    assert summary(rows, root) == [*["trainval/movieA-_0001.mkv"] * 2, "trainval/movieB-_0001.mp4"]
    expected = [
        ("movieA-_0001", 903, [[0, 0, 1, 0.5]], [[11]], [0]),
        ("movieA-_0001", 904, [[0, 0, 1, 1]], [[79]], [0]),
        ("movieB-_0001", 902, [[0.1, 0.2, 0.5, 0.9], [0.6, 0.2, 0.9, 0.9]], [[0, 78], [1]], [7, 8]),
    ]
    for row, (video, second, boxes, labels, persons) in zip(columns(rows), expected, strict=True):
        assert (row["video_id"], row["second"], row["timestamp"]) == (video, second, second)
        assert (row["box_labels"], row["persons"]) == (labels, persons)
        assert row["boxes"] == [pytest.approx(box) for box in boxes]


def test_key_frames_in_which_nobody_is_annotated(root):
    rows = load_video_dataset("ava", root=root, include_empty=True)
    keys = list(zip(rows["video_id"], rows["second"]))
    movies, seconds = ("movieA-_0001", "movieB-_0001"), range(902, 1799)
    assert keys == [key for key in itertools.product(movies, seconds) if key != ("movieA-_0001", 905)]
    filled = [row for row in columns(rows) if row["boxes"]]
    assert filled == columns(load_video_dataset("ava", root=root))
    empty = rows.remove_columns("video")[0]
    assert (empty["second"], empty["timestamp"]) == (902, 902)
    assert empty["boxes"] == empty["box_labels"] == empty["persons"] == []


def test_names_of_actions(root):
    names = load_video_dataset("ava", root=root).features["box_labels"].feature.feature.names
    assert len(names) == 80
    assert names[:3] == ["bend/bow (at the waist)", "crawl", "action 3"]
    assert names[78] == "talk to (e.g., self, a person, a group)"


def test_splits_and_versions(root, summary):
    rows = load_video_dataset("ava", root=root, split="val")
    assert summary(rows, root) == ["trainval/movieC-_0001.webm"]
    assert len(load_video_dataset("ava", root=root, split=None)) == 4
    assert columns(load_video_dataset("ava-2.1", root=root)) == columns(load_video_dataset("ava", root=root))
    with pytest.raises(FileNotFoundError, match=r"found no list ava_val_v2\.1\.csv"):
        load_video_dataset("ava-2.1", root=root, split="validation")
    with pytest.raises(ValueError, match="ava has no split 'test'; it has train, validation"):
        load_video_dataset("ava", root=root, split="test")
    with pytest.raises(ValueError, match=r"ava: version must be '2\.1' or '2\.2', got '1\.0'"):
        read_ava(root, version="1.0")


def test_movies_cut_at_minute_15_have_timestamps_of_their_own(root):
    (root / "trainval").rename(root / "videos_15min")
    assert load_video_dataset("ava", root=root)["timestamp"][:] == [3, 4, 2]
    assert load_video_dataset("ava", root=root)["second"][:] == [903, 904, 902]
    assert load_video_dataset("ava", root=root, starts_at=0)["timestamp"][:] == [903, 904, 902]
    (root / "videos_15min").rename(root / "cut")
    assert load_video_dataset("ava", root=root, starts_at=900.5)["timestamp"][:] == [2.5, 3.5, 1.5]


def test_the_real_lists(tmp_path, shared, touch):
    lists = shared / "annotations" / "ava"
    for version, year in (("2.1", 2018), ("2.2", 2019)):
        text = (lists / f"ava_action_list_v{version}_for_activitynet_{year}.pbtxt.txt").read_text()
        assert tuple(map(int, re.findall(r"id: (\d+)", text))) == EVALUATED_ACTIONS
        assert len(EVALUATED_ACTIONS) == 60
        (tmp_path / f"ava_action_list_v{version}.pbtxt").write_text(text)
    touch(tmp_path, "0f39OWEqJ24.mkv", "_-Z6wFjXtGQ.mkv", "ava_train_excluded_timestamps_v2.2.csv")
    (tmp_path / "ava_train_v2.2.csv").symlink_to(lists / "ava_sample.csv")
    excluded = (lists / "ava_val_excluded_timestamps_v2.2.csv").read_text()
    (tmp_path / "ava_train_excluded_timestamps_v2.2.csv").write_text(excluded)
    rows = load_video_dataset("ava", root=tmp_path)
    assert rows["second"][:] == [902, 903, 902]
    assert rows["box_labels"][:] == [[[11, 16, 78]], [[11, 16]], [[11, 73, 79]]]
    names = rows.features["box_labels"].feature.feature.names
    assert [names[number] for number in (11, 73, 79)] == ["stand", "listen to (a person)", "watch (a person)"]


def test_absent_movies_and_missing_or_damaged_lists(root, write):
    (root / "trainval" / "movieA-_0001.mkv").unlink()
    with pytest.warns(UserWarning, match="ava: 1 of the 2 listed videos are not under .*: movieA-_0001$"):
        assert load_video_dataset("ava", root=root)["video_id"][:] == ["movieB-_0001"]
    (root / "trainval" / "movieA-_0001.mkv").touch()
    (root / "annotations" / "ava_train_excluded_timestamps_v2.2.csv").unlink()
    with pytest.warns(UserWarning, match=r"found no ava_train_excluded_timestamps_v2\.2\.csv .* no key frame is excl"):
        assert len(load_video_dataset("ava", root=root)) == 4
    wrong = {"0.1,0.1,0.2,0.2,4": "", "0.9,0.1,0.2,0.2,4,1": "reversed or empty", "0.1,0.2,0.3,0.2,4,1": "empty"}
    wrong |= {"0.1,nan,0.2,0.2,4,1": "must be four numbers", "10,10,200,90,4,1": "not in the frame"}
    for line, reason in wrong.items():
        write(root / "annotations" / "ava_train_v2.2.csv", TRAIN[0], f"movieA-_0001,0902,{line}")
        with pytest.raises(ValueError, match=rf"ava_train_v2\.2\.csv, line 2: each line must be video_id,.*{reason}"):
            load_video_dataset("ava", root=root)
    write(root / "annotations" / "ava_train_v2.2.csv", "\ufeffmovieA-_0001, 0902, -0.004,0.1,1.004,0.2,4,1")
    assert load_video_dataset("ava", root=root)["boxes"][0] == [pytest.approx([0, 0.1, 1, 0.2])]  # rounding
    (root / "annotations" / "ava_action_list_v2.2.pbtxt").unlink()
    with pytest.raises(FileNotFoundError, match=r"found no list of actions ava_action_list_v2\.2\.pbtxt"):
        load_video_dataset("ava", root=root)
