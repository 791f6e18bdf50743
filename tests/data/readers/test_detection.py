"""The columns for boxes, and key frames made of videos."""

import datasets
import pytest

from vididi_hf.data.folders import with_video_column
from vididi_hf.data.readers.detection import box_features, fractions, key_frames, load_mat

LEFT, RIGHT = [0, 0, 0.5, 1], [0.5, 0.25, 1, 0.75]


@pytest.fixture
def rows():
    """A video in which two persons, the second from frame 2 on, are seen; and one in which nobody is."""
    return with_video_column(
        ["a.mp4", "b.mp4"],
        ["walk", "run"],
        features=box_features(["run", "walk"]),
        columns={
            "num_frames": [4, 2],
            "frames": [[1, 2, 2, 3], []],
            "boxes": [[LEFT, LEFT, RIGHT, RIGHT], []],
            "box_labels": [[[1], [1], [1, 0], [0]], []],
            "persons": [[0, 0, 1, 1], []],
        },
    )


def test_a_row_for_each_frame_with_boxes(rows):
    found = key_frames(rows)
    assert found.cast_column("video", datasets.Video(decode=False))["video"][0]["path"] == "a.mp4"
    expected = [
        {"frame": 1, "boxes": [LEFT], "box_labels": [[1]], "persons": [0]},
        {"frame": 2, "boxes": [LEFT, RIGHT], "box_labels": [[1], [1, 0]], "persons": [0, 1]},
        {"frame": 3, "boxes": [RIGHT], "box_labels": [[0]], "persons": [1]},
    ]
    assert found.remove_columns("video").to_list() == [{**row, "label": 1, "num_frames": 4} for row in expected]
    assert all(found.features[name] == rows.features[name] for name in ("video", "boxes", "box_labels", "label"))


def test_frames_without_boxes_and_every_so_many(rows):
    assert key_frames(rows, every=2)["frame"][:] == [2]
    everything = key_frames(rows, include_empty=True)
    assert everything["frame"][:] == [0, 1, 2, 3, 0, 1]
    assert [len(boxes) for boxes in everything["boxes"]] == [0, 1, 2, 1, 0, 0]
    assert key_frames(rows, every=3, include_empty=True)["frame"][:] == [0, 3, 0]


def test_what_has_no_key_frames_and_no_matlab_file(rows, tmp_path):
    for some, every, message in (
        (rows.remove_columns(["frames", "persons"]), 1, "has no column frames, persons: its rows are not videos with"),
        (rows, 0, "every must be positive, got 0"),
        (rows.select([1]), 1, "holds no key frame"),
    ):
        with pytest.raises(ValueError, match=message):
            key_frames(some, every=every)
    assert fractions([[32, 60, 320, 241], [-3, 0, 160, 120]], 320, 240) == [[0.1, 0.25, 1, 1], [0, 0, 0.5, 0.5]]
    (tmp_path / "no.mat").write_text("this is no MATLAB file" * 20)
    with pytest.raises(ValueError, match=r"no\.mat cannot be read as a MATLAB file"):
        load_mat(tmp_path / "no.mat")
