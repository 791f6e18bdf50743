"""Which frames a clip around a key frame has, and what key frames are called."""

import itertools

import datasets
import pytest
import torch
from torchcodec.decoders import VideoDecoder

from vididi_hf.clips_vididi import centered_clip
from vididi_hf.data.decoding import BrokenVideoError
from vididi_hf.data.folders import with_video_column
from vididi_hf.detection import key_frames as module
from vididi_hf.detection.key_frames import KeyFrameReader, class_names, is_ava, load_key_frames, names_of


def test_the_key_frame_is_in_the_middle_and_ends_are_repeated():
    for num_frames, stride, extra_frames, center, length in [(8, 3, 1, 20, 40), (5, 1, 0, 7, 30), (2, 4, 2, 9, 19)]:
        clip = centered_clip(center, length, num_frames, stride, extra_frames).tolist()
        assert clip[num_frames // 2] == center
        assert [b - a for a, b in itertools.pairwise(clip)] == [stride] * (num_frames + extra_frames - 1)
    assert centered_clip(1, 20, 8, 2).tolist() == [0, 0, 0, 0, 1, 3, 5, 7]
    assert centered_clip(18, 20, 4, 2, extra_frames=1).tolist() == [14, 16, 18, 19, 19]
    assert centered_clip(99, 20, 4, 2).tolist() == [15, 17, 19, 19]
    assert centered_clip(0, 1, 4, 2).tolist() == [0, 0, 0, 0]


def test_key_frames_and_their_names(dataset, ava_root, motion_root):
    rows = load_key_frames(dataset, split="test", every=4)
    assert rows["frame"][:] == [0, 4, 8] * 6
    assert class_names(rows) == ["bright", "dark", "flicker"]
    assert not is_ava(rows)
    assert names_of(rows)[:4] == [("0", 0), ("0", 4), ("0", 8), ("1", 0)]  # stored as bytes, with the name only
    assert names_of(with_video_column(["videos/run/a.b.avi"], columns={"frame": [7]})) == [("run/a.b", 7)]
    rows = load_key_frames("ava", root=ava_root, split="validation")
    assert is_ava(rows)
    assert names_of(rows) == [("three", 902), ("three", 903)]
    assert rows["timestamp"][:] == [2, 3]
    assert len(class_names(rows)) == 80
    with pytest.raises(ValueError, match="has no column 'boxes'"):
        load_key_frames(motion_root / "clips.csv")


def test_frames_are_those_of_the_file(dataset, ava_root, broken_videos):
    rows = load_key_frames(dataset, split="train")
    stored = rows.cast_column("video", datasets.Video(decode=False))
    frames = VideoDecoder(stored[13]["video"]["bytes"]).get_frames_in_range(0, 10).data
    clip, row = KeyFrameReader(rows, num_frames=4, stride=2, extra_frames=1).read(13)  # frame 3 of the second video
    assert (row["frame"], row["box_labels"]) == (3, [[1]])
    assert torch.equal(clip, frames[[0, 1, 3, 5, 7]])
    assert torch.equal(KeyFrameReader(rows).read(13)[0], frames[[3]])
    # Of AVA, by time: 5 frames a second, and the file begins at second 900.
    movies = load_key_frames("ava", root=ava_root, split="train")
    assert movies["second"][:3] == [902, 903, 902]
    path = movies.cast_column("video", datasets.Video(decode=False))[1]["video"]["path"]
    frames = VideoDecoder(path).get_frames_in_range(0, 25).data
    clip, _ = KeyFrameReader(movies, num_frames=4, stride=3, extra_frames=0).read(1)
    assert torch.equal(clip, frames[[9, 12, 15, 18]])
    table = [{**stored[0], "video": {"path": str(broken_videos["text"]), "bytes": None}}]
    with pytest.raises(BrokenVideoError, match=r"text\.mp4"):
        KeyFrameReader(datasets.Dataset.from_list(table, features=stored.features)).read(0)


def test_few_files_stay_open_and_those_of_one_video_are_opened_once(dataset, monkeypatch):
    opened = []
    real = module.VideoReader
    monkeypatch.setattr(module, "VideoReader", lambda video: opened.append(video["path"]) or real(video))
    reader = KeyFrameReader(load_key_frames(dataset, split="train", every=5))
    for index in range(len(reader)):
        reader.read(index)
    assert len(opened) == len(set(opened)) == 9
    assert len(reader._open) == 4


def test_wrong_boxes_are_found_when_key_frames_are_loaded(dataset):
    rows = datasets.load_from_disk(str(dataset))["train"].cast_column("video", datasets.Video(decode=False))
    for boxes, labels, persons, message in (
        ([[0.5, 0.1, 0.2, 0.9]], [[0]], [0], r"the box .* is reversed or empty"),
        ([[0.1, 0.1, 0.2, 0.9]], [], [0], r"it has 1 boxes and 0 lists of box_labels"),
        ([[0.1, 0.1, 0.2, 0.9]], [[0]], [], r"it has 1 boxes and 0 persons"),
    ):
        table = rows.to_list()
        table[4] |= {"boxes": boxes, "box_labels": labels, "frames": [0] * len(boxes), "persons": persons}
        wrong = datasets.Dataset.from_list(table, features=rows.features)
        with pytest.raises(ValueError, match=f"in memory: .*, row 5: {message}"):
            load_key_frames(wrong)


def test_columns_of_other_data_sets(dataset):
    """No `num_frames`, no boxes at all, and a box that reaches a little over the edge, where it is cut."""
    rows = datasets.load_from_disk(str(dataset))["train"].cast_column("video", datasets.Video(decode=False))
    table = rows.remove_columns("num_frames").to_list()[:2]
    table[0] |= {"boxes": [[-0.005, 0.1, 0.2, 1.005]], "box_labels": [[0]], "frames": [3], "persons": [0]}
    table[1] |= dict.fromkeys(("boxes", "box_labels", "frames", "persons"))
    kinds = {name: kind for name, kind in rows.features.items() if name != "num_frames"}
    own = datasets.Dataset.from_list(table, features=datasets.Features(kinds))
    found = load_key_frames(own, include_empty=True)
    assert (found["frame"][:], found["boxes"][:]) == ([3], [[pytest.approx([0, 0.1, 0.2, 1])]])
