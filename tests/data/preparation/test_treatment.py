"""What becomes of a video: one test for each fate, and its reason."""

import pytest
from torchcodec.decoders import VideoDecoder
from torchcodec.encoders import VideoEncoder

from vididi_hf.data.preparation import treatment
from vididi_hf.data.preparation.options import PreparationOptions
from vididi_hf.data.preparation.treatment import treat_video


def options(**values):
    return PreparationOptions(dataset="", output_dir="", **values)


@pytest.fixture
def promising(tmp_path, write_video):
    """A file that promises 24 frames and ends before the last ones."""
    path = tmp_path / "promising.mp4"
    frames = VideoDecoder(write_video(tmp_path / "a.mp4"))[:]
    VideoEncoder(frames, frame_rate=12).to_file(path, extra_options={"threads": "1", "movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:-1500])
    return {"path": str(path), "bytes": None}


def test_a_good_video_is_kept_byte_by_byte(tmp_path, write_video):
    path = write_video(tmp_path / "a.mp4")
    for video in ({"path": str(path), "bytes": None}, {"path": None, "bytes": path.read_bytes()}):
        result = treat_video(video, options(short_side=64))  # it is smaller than that
        assert (result.status, result.reason, result.encoded) == ("kept", "", path.read_bytes())
        assert (result.facts.num_frames, result.facts.height, result.facts.width) == (24, 40, 48)


def test_broken_videos_are_dropped_with_the_reason(broken_videos):
    reasons = {}
    for kind, path in broken_videos.items():
        result = treat_video({"path": str(path), "bytes": None}, options())
        assert (result.status, result.encoded, result.facts) == ("dropped", None, None)
        reasons[kind] = result.reason
    assert reasons["empty"] == "it is empty"
    assert reasons["missing"] == "there is no such file"
    assert reasons["audio-only"] == "it has no video stream"
    assert all(reasons.values())
    for nothing in (None, {"path": None, "bytes": None}):
        assert treat_video(nothing, options()).reason == "the row holds no video"


def test_what_promises_too_much_is_repaired_kept_or_dropped_as_asked_for(promising):
    repaired = treat_video(promising, options())
    assert repaired.status == "repaired"
    assert repaired.reason == f"only {repaired.facts.num_frames} of the 24 frames that it promises can be decoded"
    assert 0 < repaired.facts.num_frames == len(VideoDecoder(repaired.encoded)) < 24
    kept = treat_video(promising, options(partial="keep"))
    assert kept.status == "kept"
    assert kept.encoded == open(promising["path"], "rb").read()  # noqa: SIM115
    dropped = treat_video(promising, options(partial="drop"))
    assert (dropped.status, dropped.reason, dropped.encoded) == ("dropped", repaired.reason, None)


def test_what_cannot_be_encoded_read_or_stored_is_dropped(tmp_path, write_video, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no")

    video = {"path": str(write_video(tmp_path / "a.mp4")), "bytes": None}
    with monkeypatch.context() as patch:
        patch.setattr(treatment, "reencode_video", refuse)
        result = treat_video(video, options(short_side=32))
    assert (result.status, result.reason) == ("dropped", "its frames cannot be re-encoded (no)")
    folder = treat_video({"path": str(tmp_path), "bytes": None}, options())
    assert (folder.status, folder.reason) == ("dropped", "it is a folder")
    monkeypatch.setattr(treatment, "MAX_CELL_BYTES", 100)
    result = treat_video(video, options())
    assert result.status == "dropped"
    assert "2 GiB" in result.reason


def test_short_videos_are_dropped_and_all_are_reencoded_where_that_is_asked_for(tmp_path, write_video, monkeypatch):
    video = {"path": str(path := write_video(tmp_path / "a.mp4", 3)), "bytes": None}
    assert treat_video(video, options(min_frames=3)).status == "kept"
    result = treat_video(video, options(min_frames=4))
    assert (result.status, result.reason) == ("dropped", "it has 3 frames, and min_frames is 4")
    for changes, size in (({"short_side": 32}, (32, 38)), ({"key_frame_interval": 4}, (40, 48))):
        result = treat_video(video, options(**changes))
        assert (result.status, result.reason) == ("re-encoded", "")
        assert result.encoded != path.read_bytes()
        assert VideoDecoder(result.encoded)[0].shape[1:] == size

    def fail(_):
        raise ImportError("no FFmpeg")

    monkeypatch.setattr(treatment, "probe_video", fail)
    with pytest.raises(ImportError):  # other errors are not taken for faults of a video
        treat_video(video, options())
