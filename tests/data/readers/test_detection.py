"""The columns for boxes, and key frames made of videos."""

import datasets
import pytest

from vididi_hf.data.folders import with_video_column
from vididi_hf.data.readers.detection import box_features, key_frames

LEFT, RIGHT = [0, 0, 0.5, 1], [0.5, 0.25, 1, 0.75]


@pytest.fixture
def rows():
    """A video in which two persons, the second from frame 2 on, are seen; and one in which nobody is."""
    return with_video_column(
        ["a.mp4", "b.mp4"],
        ["walk", "run"],
        features=box_features(["run", "walk"]),
        num_frames=[4, 2],
        frames=[[1, 2, 2, 3], []],
        boxes=[[LEFT, LEFT, RIGHT, RIGHT], []],
        box_labels=[[[1], [1], [1, 0], [0]], []],
        persons=[[0, 0, 1, 1], []],
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
