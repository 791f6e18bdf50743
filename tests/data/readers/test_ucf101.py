"""UCF101 by its official lists."""

import pytest

from vididi_hf.data.registry import load_video_dataset

LISTS = {
    "classInd.txt": ["1 Archery", "2 HandstandPushups", "3 Bowling"],
    # The lists as published: DOS line ends, numbers in the training lists only, and one class spelt in two ways.
    "trainlist01.txt": ["Archery/v_Archery_g08_c01.avi 1", "HandstandPushups/v_HandStandPushups_g08_c02.avi 2"],
    "testlist01.txt": ["Bowling/v_Bowling_g01_c01.avi"],
    "trainlist02.txt": ["Archery/v_Archery_g08_c01.avi 1", "Bowling/v_Bowling_g01_c01.avi 3"],
    "testlist02.txt": ["HandstandPushups/v_HandStandPushups_g08_c02.avi"],
    "trainlist03.txt": ["Bowling/v_Bowling_g01_c01.avi 3", "HandstandPushups/v_HandStandPushups_g08_c02.avi 2"],
    "testlist03.txt": ["Archery/v_Archery_g08_c01.avi"],
}
VIDEOS = [
    "Archery/v_Archery_g08_c01.avi",
    "HandstandPushups/v_HandStandPushups_g08_c02.avi",
    "Bowling/v_Bowling_g01_c01.avi",
]


@pytest.fixture
def write_lists(write):
    def write_to(folder):
        for name, lines in LISTS.items():
            write(folder / name, *lines, end="\r\n")

    return write_to


def test_the_official_splits(tmp_path, write_lists, touch, summary):
    write_lists(tmp_path / "ucfTrainTestlist")
    touch(tmp_path / "UCF-101", *VIDEOS)
    archery, handstand, bowling = ((f"UCF-101/{video}", video.split("/")[0]) for video in VIDEOS)

    def read(name, split="train", **options):
        return summary(load_video_dataset(name, root=tmp_path, split=split, **options), tmp_path)

    assert read("ucf101") == [archery, handstand]
    assert read("ucf101", "test") == [bowling]
    assert read("ucf101-2") == [archery, bowling]
    assert read("ucf101-2", "test") == [handstand]
    assert read("ucf101-3") == read("ucf101", official_split=3) == [bowling, handstand]
    assert read("ucf101-3", "test") == [archery]
    assert read("ucf101", None) == read("ucf101", "all") == [archery, handstand, bowling]
    with pytest.raises(ValueError, match="ucf101 has no split 'val'; it has test, train"):
        read("ucf101", "val")
    with pytest.raises(ValueError, match="official_split must be 1, 2 or 3, got 0"):
        read("ucf101", official_split=0)


def test_columns_and_flat_folders_of_other_containers(tmp_path, write_lists, touch, summary):
    write_lists(tmp_path)
    touch(tmp_path, *(name.rpartition("/")[2].replace(".avi", ".mp4") for name in VIDEOS))
    for split in ("train", "test", None):
        rows = load_video_dataset("ucf101", root=tmp_path, split=split)
        assert rows.column_names == ["video", "label", "source"]
        assert rows.features["label"].names == ["Archery", "HandstandPushups", "Bowling"]  # as numbered, not sorted
    assert rows["source"][:] == ["Archery_g08", "HandStandPushups_g08", "Bowling_g01"]
    assert summary(rows, tmp_path)[2] == ("v_Bowling_g01_c01.mp4", "Bowling")


@pytest.mark.parametrize(
    ("root", "videos", "lists"),
    [
        ("", "UCF-101/", "ucfTrainTestlist"),
        ("", "", ""),
        ("UCF-101", "UCF-101/", ""),
        ("UCF-101", "UCF-101/", "ucfTrainTestlist"),
        ("videos", "videos/", "annotations"),
        ("UCF101/UCF-101", "UCF101/UCF-101/", "UCF101/UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist"),
    ],
)
def test_usual_layouts(tmp_path, write_lists, touch, root, videos, lists):
    write_lists(tmp_path / lists)
    touch(tmp_path, *(videos + name for name in VIDEOS))
    assert len(load_video_dataset("ucf101", root=tmp_path / root, split=None)) == 3


def test_the_real_lists(tmp_path, shared, touch):
    lists = shared / "annotations" / "ucf101"
    videos = {line.split()[0] for path in lists.glob("t*list0*.txt") for line in path.read_text().splitlines()}
    touch(tmp_path / "videos", *videos)
    (tmp_path / "annotations").symlink_to(lists)
    sizes = {}
    for name in ("ucf101", "ucf101-2", "ucf101-3"):
        train, test = (load_video_dataset(name, root=tmp_path / "videos", split=split) for split in ("train", "test"))
        sizes[name] = (len(train), len(test))
        assert train.features["label"].num_classes == 101
        # No recording stands on both sides.
        assert not set(train["source"]) & set(test["source"])
    assert sizes == {"ucf101": (9537, 3783), "ucf101-2": (9586, 3734), "ucf101-3": (9624, 3696)}
    # The numbers in the official training list, counted from 1, are the labels.
    rows = load_video_dataset("ucf101", root=tmp_path / "videos")
    lines = (lists / "trainlist01.txt").read_text().split("\n")[:-1]
    assert rows["label"][:] == [int(line.split()[1]) - 1 for line in lines]


def test_a_wrong_root_and_real_videos(tmp_path, write_lists, write, touch, shared):
    touch(tmp_path / "wrong", "some.mp4")
    with pytest.raises(FileNotFoundError, match=r"found no class index classInd\.txt; .* holds 1 files: some\.mp4"):
        load_video_dataset("ucf101", root=tmp_path / "wrong")
    write_lists(tmp_path / "wrong")
    with pytest.raises(FileNotFoundError, match=r"none of the 2 listed videos found in .* Archery/v_Archery_g08_c01"):
        load_video_dataset("ucf101", root=tmp_path / "wrong")
    lists, videos = shared / "annotations" / "ucf101", shared / "samples" / "ucf101"
    (root := tmp_path / "right").mkdir()
    (root / "UCF-101").symlink_to(videos)
    (root / "classInd.txt").symlink_to(lists / "classInd.txt")
    listed = (lists / "testlist01.txt").read_text().splitlines()
    there = [line for line in listed if (videos / line.rpartition("/")[2]).exists()]
    write(root / "testlist01.txt", *there)
    rows = load_video_dataset("ucf101", root=root, split="test")
    assert len(rows) == len(there) > 0
    assert rows[0]["video"].get_frames_at([0]).data.shape == (1, 3, 240, 320)
