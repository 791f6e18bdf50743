"""Kinetics by its CSV lists."""

import pytest

from vididi_hf.data.readers.common import AbsentVideosWarning
from vididi_hf.data.registry import load_video_dataset

HEADER = "label,youtube_id,time_start,time_end,split"
TRAIN = ["air drumming,-abcdefghi0,5,15,train", '"zumba, fast",1234567890e,130,140,train']
VALIDATION = ["zumba,__cdefghij2,0,10,validate"]
FILES = ["-abcdefghi0_000005_000015.mp4", "1234567890e_000130_000140.mp4", "__cdefghij2_000000_000010.mp4"]


@pytest.fixture
def write_lists(write):
    def write_to(folder, train="train.csv", validation="validate.csv"):
        write(folder / train, HEADER, *TRAIN)
        write(folder / validation, HEADER, *VALIDATION)

    return write_to


@pytest.mark.parametrize(
    "layout",
    [
        ("train/air_drumming/", "train/zumba, fast/", "val/zumba/"),
        ("air drumming/", "zumba, fast/", "zumba/"),
        ("videos/train/", "videos/train/", "videos/validate/"),
        ("", "", ""),
    ],
)
def test_layouts(tmp_path, write_lists, touch, summary, layout):
    write_lists(tmp_path / "annotations")
    files = [folder + file for folder, file in zip(layout, FILES)]
    touch(tmp_path, *files)
    train, validation, everything = (
        load_video_dataset("kinetics400", root=tmp_path, split=split) for split in ("train", "val", None)
    )
    assert summary(train, tmp_path) == [(files[0], "air drumming"), (files[1], "zumba, fast")]
    assert summary(validation, tmp_path) == [(files[2], "zumba")]
    assert summary(everything, tmp_path) == summary(train, tmp_path) + summary(validation, tmp_path)
    for rows in (train, validation, everything):
        assert rows.features["label"].names == ["air drumming", "zumba", "zumba, fast"]
        assert rows.column_names == ["video", "label"]


PREFIXES = [(400, ""), (400, "kinetics_"), (400, "kinetics-400_"), (600, "kinetics_600_"), (700, "kinetics700_2020_")]


@pytest.mark.parametrize(("classes", "prefix"), [*PREFIXES, (700, "k700_")])
@pytest.mark.parametrize("validation", ["val", "validate", "validation"])
def test_names_of_lists(tmp_path, write_lists, touch, classes, prefix, validation):
    name = f"kinetics{classes}"
    write_lists(tmp_path, f"{prefix}train.csv", f"{prefix}{validation}.csv")
    touch(tmp_path, *FILES)
    assert [len(load_video_dataset(name, root=tmp_path, split=split)) for split in ("train", "validation")] == [2, 1]


def test_files_named_by_the_id_alone_and_other_containers(tmp_path, write_lists, touch, summary):
    write_lists(tmp_path)
    touch(tmp_path, "-abcdefghi0.mkv", "1234567890e.mp4", FILES[1])
    rows = load_video_dataset("kinetics400", root=tmp_path)
    # A clip cut out of its video goes before the video.
    assert [path for path, _ in summary(rows, tmp_path)] == ["-abcdefghi0.mkv", FILES[1]]


def test_a_test_list_without_labels(tmp_path, write_lists, write, touch, summary):
    write_lists(tmp_path)
    write(tmp_path / "test.csv", "youtube_id,time_start,time_end,split", "tttttttttt0,1,11,test")
    touch(tmp_path, *FILES, "tttttttttt0_000001_000011.mp4")
    rows = load_video_dataset("kinetics400", root=tmp_path, split="test")
    assert summary(rows, tmp_path) == ["tttttttttt0_000001_000011.mp4"]
    rows = load_video_dataset("kinetics400", root=tmp_path, split=None)
    assert rows["label"][:] == [0, 2, 1, None]


def test_wrong_lists(tmp_path, write_lists, write, touch):
    touch(tmp_path, FILES[1])
    write_lists(tmp_path, "kinetics-600_train.csv", "kinetics-600_val.csv")  # of another version
    with pytest.raises(FileNotFoundError, match=r"kinetics400: found no list train\.csv"):
        load_video_dataset("kinetics400", root=tmp_path)
    write_lists(tmp_path, validation="unrelated.csv")
    with pytest.warns(AbsentVideosWarning, match="kinetics400: 1 of the 2 listed videos") as caught:
        assert len(load_video_dataset("kinetics400", root=tmp_path)) == 1
    assert caught[0].message.videos == ("-abcdefghi0_000005_000015",)
    with pytest.raises(FileNotFoundError, match=r"found no list validation\.csv"):
        load_video_dataset("kinetics400", root=tmp_path, split="val")
    write(tmp_path / "train.csv", "videos/a.mp4 0")
    with pytest.raises(ValueError, match=r"train\.csv has no column youtube_id, time_start, time_end, only videos/a"):
        load_video_dataset("kinetics400", root=tmp_path)
    write(tmp_path / "train.csv", HEADER, *(f"class {number},abcdefghijk,0,10,train" for number in range(401)))
    with pytest.raises(ValueError, match=r"kinetics400: the lists in .* have 401 classes, more than this version"):
        load_video_dataset("kinetics400", root=tmp_path)


def test_real_files(tmp_path, write, shared):
    samples = sorted((shared / "samples" / "kinetics400").glob("*.mp4"))
    write(tmp_path / "train.csv", HEADER, *(f"some,{path.stem},10,20,train" for path in samples))
    (tmp_path / "videos").symlink_to(samples[0].parent)
    rows = load_video_dataset("kinetics400", root=tmp_path)
    assert len(rows) == len(samples) == 3
    assert rows[0]["video"].get_frames_at([0]).data.shape[:2] == (1, 3)
