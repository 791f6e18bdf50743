"""Which frames a clip around a key frame has, and what key frames are called."""

import itertools

import datasets
import pytest
import torch
from torchcodec.decoders import VideoDecoder

from vididi_hf.data.decoding import BrokenVideoError
from vididi_hf.data.folders import with_video_column
from vididi_hf.data.readers.detection import box_features
from vididi_hf.detection import key_frames as module
from vididi_hf.detection.key_frames import KeyFrameReader, centered_clip, class_names, is_ava, load_key_frames, names_of


def test_the_key_frame_is_in_the_middle_and_ends_are_repeated():
    for num_frames, stride, extra_frames, center, length in [(8, 3, 1, 20, 40), (5, 1, 0, 7, 30), (2, 4, 2, 9, 19)]:
        clip = centered_clip(center, length, num_frames, stride, extra_frames).tolist()
        assert clip[num_frames // 2] == center
        assert [b - a for a, b in itertools.pairwise(clip)] == [stride] * (num_frames + extra_frames - 1)
    assert centered_clip(1, 20, 8, 2).tolist() == [0, 0, 0, 0, 1, 3, 5, 7]
    assert centered_clip(18, 20, 4, 2, extra_frames=1).tolist() == [14, 16, 18, 19, 19]
    assert centered_clip(99, 20, 4, 2).tolist() == [15, 17, 19, 19]
    assert centered_clip(0, 1, 4, 2).tolist() == [0, 0, 0, 0]


def test_rows_of_videos_become_key_frames(dataset):
    rows = load_key_frames(dataset, split="test", every=4)
    assert rows["frame"][:] == [0, 4, 8] * 6
    assert class_names(rows) == ["bright", "dark", "flicker"]
    assert not is_ava(rows)
    assert names_of(rows)[:4] == [("0", 0), ("0", 4), ("0", 8), ("1", 0)]  # stored as bytes, with the name only
    listed = with_video_column(["videos/run/a.b.avi"], frame=[7])
    assert names_of(listed) == [("run/a.b", 7)]


def test_key_frames_of_ava_keep_their_names(ava_root):
    rows = load_key_frames("ava", root=ava_root, split="validation")
    assert is_ava(rows)
    assert names_of(rows) == [("three", 902), ("three", 903)]
    assert rows["timestamp"][:] == [2, 3]
    assert len(class_names(rows)) == 80


def test_frames_are_those_of_the_file(dataset, ava_root):
    rows = load_key_frames(dataset, split="train")
    video = rows.cast_column("video", datasets.Video(decode=False))[13]["video"]["bytes"]
    frames = VideoDecoder(video).get_frames_in_range(0, 10).data
    reader = KeyFrameReader(rows, num_frames=4, stride=2, extra_frames=1)
    clip, row = reader.read(13)  # frame 3 of the second video
    assert (row["frame"], row["box_labels"]) == (3, [[1]])
    assert torch.equal(clip, frames[[0, 1, 3, 5, 7]])
    assert torch.equal(reader.read_key_frame(13), frames[3])
    # Of AVA, by time: 5 frames a second, and the file begins at second 900.
    movies = load_key_frames("ava", root=ava_root, split="train")
    assert movies["second"][:3] == [902, 903, 902]
    path = movies.cast_column("video", datasets.Video(decode=False))[1]["video"]["path"]
    frames = VideoDecoder(path).get_frames_in_range(0, 25).data
    clip, _ = KeyFrameReader(movies, num_frames=4, stride=3, extra_frames=0).read(1)
    assert torch.equal(clip, frames[[9, 12, 15, 18]])


def test_few_files_stay_open_and_those_of_one_video_are_opened_once(dataset, monkeypatch):
    opened = []
    real = module.VideoReader
    monkeypatch.setattr(module, "VideoReader", lambda video: opened.append(video["path"]) or real(video))
    rows = load_key_frames(dataset, split="train", every=5)
    reader = KeyFrameReader(rows, num_frames=2, stride=1, extra_frames=0)
    for index in range(len(rows)):
        reader.read(index)
    assert len(opened) == len(set(opened)) == 9
    assert len(reader._open) == 4


def test_what_cannot_be_read_is_named(dataset, broken_videos, motion_root):
    rows = with_video_column(
        [str(broken_videos["text"])],
        features={**box_features(["a"]), "frame": datasets.Value("int32")},
        num_frames=[3],
        frame=[1],
        boxes=[[[0, 0, 1, 1]]],
        box_labels=[[[0]]],
        persons=[[0]],
    )
    with pytest.raises(BrokenVideoError, match=r"text\.mp4"):
        KeyFrameReader(rows, 4, 1, 0).read(0)
    with pytest.raises(ValueError, match="has no column 'boxes'"):
        load_key_frames(motion_root / "clips.csv")
    with pytest.raises(ValueError, match="the rows are not key frames: they have no column frame"):
        KeyFrameReader(rows.remove_columns("frame"), 4, 1, 0)
