"""Kinetics by its CSV lists."""

import pytest

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
