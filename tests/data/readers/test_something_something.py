"""Something-Something V2 by its JSON lists."""

import json

import pytest

from vididi_hf.data.registry import load_video_dataset

LISTS = {
    "labels": {"Moving something up": "1", "Holding something next to something": "0", "Unused thing": "2"},
    "train": [
        {
            "id": "78687",
            "label": "holding potato next to vicks vaporub bottle",
            "template": "Holding [something] next to [something]",
        },
        {"id": "42326", "label": "moving cup up", "template": "Moving [something] up"},
    ],
    "validation": [{"id": "1", "label": "moving pen up", "template": "Moving [something] up"}],
    "test": [{"id": "2"}],
}
VIDEOS = [f"20bn-something-something-v2/{number}.webm" for number in ("78687", "42326", "1", "2")]
NAME = "something-something-v2"


@pytest.fixture
def write_lists(write):
    def write_to(folder, pattern):
        for part, content in LISTS.items():
            write(folder / pattern.format(part), json.dumps(content))

    return write_to


@pytest.mark.parametrize(
    "pattern",
    ["something-something-v2-{}.json", "labels/{}.json", "{}.json", "annotations/something-something-v2-{}.json"],
)
def test_both_names_of_lists(tmp_path, write_lists, touch, summary, pattern):
    write_lists(tmp_path, pattern)
    touch(tmp_path, *VIDEOS)
    train, validation = (load_video_dataset(NAME, root=tmp_path, split=split) for split in ("train", "val"))
    assert summary(train, tmp_path) == [
        (VIDEOS[0], "Holding something next to something"),
        (VIDEOS[1], "Moving something up"),
    ]
    assert train["caption"][:] == ["holding potato next to vicks vaporub bottle", "moving cup up"]
    assert summary(validation, tmp_path) == [(VIDEOS[2], "Moving something up")]
    # As numbered in labels.json.
    assert validation.features["label"].names == sorted(LISTS["labels"], key=LISTS["labels"].get)


def test_the_test_split(tmp_path, write_lists, write, touch, summary):
    write_lists(tmp_path, "labels/{}.json")
    touch(tmp_path, *VIDEOS)
    assert summary(load_video_dataset(NAME, root=tmp_path, split="test"), tmp_path) == [VIDEOS[3]]
    assert load_video_dataset(NAME, root=tmp_path, split=None)["label"][:] == [0, 1, 1, None]
    write(tmp_path / "labels" / "test-answers.csv", "2;Moving something up", "3;Unused thing")
    rows = load_video_dataset(NAME, root=tmp_path, split="test")
    assert summary(rows, tmp_path) == [(VIDEOS[3], "Moving something up")]


def test_a_template_that_is_no_class_and_missing_lists(tmp_path, write_lists, write, touch):
    write_lists(tmp_path, "{}.json")
    write(tmp_path / "train.json", json.dumps([{"id": "1", "label": "x", "template": "Eating [something]"}]))
    touch(tmp_path, *VIDEOS)
    with pytest.raises(ValueError, match="'Eating something' is not one of the 3 classes"):
        load_video_dataset(NAME, root=tmp_path)
    (tmp_path / "train.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"found no list train\.json"):
        load_video_dataset(NAME, root=tmp_path)
