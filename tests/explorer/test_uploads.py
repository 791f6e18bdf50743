"""What strangers may send: clips are those asked for, and every refusal says why and what is allowed."""

import multiprocessing

import pytest
import torch

from explorer import uploads
from explorer.uploads import LIMITS, RefusedVideoError, read_in_time, read_upload
from vididi_hf.clips_vididi import uniform_clips
from vididi_hf.data.decoding import VideoReader


def test_clips_are_spread_over_the_video(write_video, tmp_path):
    path = write_video(tmp_path / "clip.mp4", 40)
    clips, facts = read_upload(path, num_clips=3, num_frames=6, frame_stride=2)
    expected = VideoReader(path).read(lambda length: uniform_clips(length, 3, 6, 2))
    assert torch.equal(clips, expected)
    assert facts == "40 frames of 48 × 40 pixels, 12 per second"


def test_only_the_frames_shown_are_decoded(write_video, tmp_path, monkeypatch):
    decoded = []
    decode = VideoReader._decode
    monkeypatch.setattr(
        VideoReader, "_decode", lambda self, frames, *how: decoded.extend(frames) or decode(self, frames, *how)
    )
    read_upload(write_video(tmp_path / "clip.mp4", 200), num_clips=2, num_frames=4, frame_stride=3)
    assert decoded == [0, 3, 6, 9, 190, 193, 196, 199]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "it is empty"),
        ("text", "not a video in a known container"),
        ("audio-only", "no video stream"),
        ("missing", "no such file"),
        ("truncated", "header is damaged"),
    ],
)
def test_what_is_no_video(broken_videos, kind, reason):
    with pytest.raises(RefusedVideoError) as refusal:
        read_upload(broken_videos[kind], 5, 10, 1)
    assert str(refusal.value).startswith(f"{kind}.mp4 cannot be read: ")
    assert reason in str(refusal.value)
    assert str(broken_videos[kind].parent) not in str(refusal.value)  # where the server keeps files is its affair


def test_too_large(write_video, tmp_path, monkeypatch):
    path = write_video(tmp_path / "big.mp4", 12)
    monkeypatch.setattr(uploads, "MAX_PIXELS", 40 * 48 - 1)
    with pytest.raises(RefusedVideoError, match=r"big\.mp4 has 48 × 40 pixels"):
        read_upload(path, 5, 10, 1)
    with path.open("r+b") as file:
        file.truncate(51_000_000)
    with pytest.raises(RefusedVideoError) as refusal:
        read_upload(path, 5, 10, 1)
    assert str(refusal.value) == f"big.mp4 has 51 MB. The explorer accepts videos of {LIMITS}."


def test_too_many_frames_in_few_bytes(write_video, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_FRAMES", 29)
    with pytest.raises(RefusedVideoError, match=r"clip\.mp4 has 30 frames"):
        read_upload(write_video(tmp_path / "clip.mp4", 30), 5, 10, 1)


@pytest.mark.slow
def test_another_process_reads_and_is_killed_if_it_takes_too_long(write_video, broken_videos, tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", 30)
    clips, facts = read_in_time(path, 2, 4, 1)
    expected, same_facts = read_upload(path, 2, 4, 1)
    assert torch.equal(clips, expected)
    assert facts == same_facts
    with pytest.raises(RefusedVideoError, match=r"text\.mp4 cannot be read: it is not a video"):
        read_in_time(broken_videos["text"], 2, 4, 1)
    monkeypatch.setattr(uploads, "MAX_WAIT", 0.0)
    with pytest.raises(RefusedVideoError, match=r"clip\.mp4 takes more than 10 seconds to decode"):
        read_in_time(path, 2, 4, 1)
    assert multiprocessing.active_children() == []
