"""What is true of a file, and that a file that is encoded anew holds it and nothing else."""

import io
from pathlib import Path

import av
import pytest
import torch
from torchcodec.decoders import VideoDecoder
from torchcodec.encoders import VideoEncoder

from tests.videos import encode
from vididi_hf.data.decoding import BrokenVideoError
from vididi_hf.data.preparation.transcoding import VideoFacts, probe_video, reencode_video

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "data" / "samples"


def smooth_frames(count: int, height: int, width: int) -> torch.Tensor:
    """A gradient that moves by 3 pixels a frame: easy to encode well, and every frame differs."""
    x, y = torch.arange(width), torch.arange(height)[:, None]
    colors = [((4 * (x + 3 * t) + 0 * y) % 256, (2 * y + 0 * x) % 256, (x + y) % 256) for t in range(count)]
    return torch.stack([torch.stack(color) for color in colors]).to(torch.uint8)


@pytest.fixture
def cut_off(tmp_path):
    """Bytes of a file that promises 24 frames and ends before the last ones; its index is at its beginning."""
    path = tmp_path / "whole.mp4"
    frames = smooth_frames(24, 48, 64)
    VideoEncoder(frames, frame_rate=12).to_file(path, extra_options={"threads": "1", "movflags": "faststart"})
    return path.read_bytes()[:-400]


def test_facts_of_a_whole_video(tmp_path, write_video):
    facts = probe_video(str(write_video(tmp_path / "a.mp4", 17)))
    assert facts == VideoFacts(num_frames=17, promised_frames=17, fps=12.0, height=40, width=48)
    assert facts.is_whole


def test_a_file_that_ends_early_is_repaired_up_to_where_it_ends(cut_off):
    facts = probe_video(cut_off)
    assert 0 < facts.num_frames < facts.promised_frames == 24
    assert not facts.is_whole
    encoded, repaired = reencode_video(cut_off, crf=0)
    assert repaired.num_frames == facts.num_frames
    assert probe_video(encoded) == repaired
    assert repaired.is_whole
    before = torch.stack([VideoDecoder(cut_off).get_frame_at(i).data for i in range(facts.num_frames)])
    after = VideoDecoder(encoded)[:]
    assert (before.float() - after.float()).abs().mean() < 3


def test_the_frames_stay_what_they_are(tmp_path):
    frames = smooth_frames(20, 64, 96)
    path = tmp_path / "a.mp4"
    VideoEncoder(frames, frame_rate=25).to_file(path, crf=0)
    encoded, facts = reencode_video(path)
    decoded = VideoDecoder(encoded)[:]
    assert decoded.shape == frames.shape
    assert facts == VideoFacts(20, 20, 25.0, 64, 96)
    errors = (decoded[:, None].float() - frames[None].float()).abs().mean(dim=(2, 3, 4))
    assert (errors.argmin(dim=1) == torch.arange(20)).all()  # none is shifted, repeated or left out


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((96, 128), 48, (48, 64)),
        ((128, 96), 48, (64, 48)),
        ((96, 129), 48, (48, 64)),
        ((40, 48), 64, (40, 48)),  # never enlarged
        ((96, 128), None, (96, 128)),
        ((50, 100), 33, (32, 66)),  # even, as 4:2:0 needs
    ],
)
def test_sizes(tmp_path, size, short_side, expected):
    path = tmp_path / "a.mkv"
    options = {"codec": "libx264", "pixel_format": "yuv444p"}  # which allows odd sizes
    VideoEncoder(smooth_frames(3, *size), frame_rate=25).to_file(path, **options)
    encoded, facts = reencode_video(path, short_side=short_side)
    assert (facts.height, facts.width) == expected
    assert VideoDecoder(encoded)[0].shape == (3, *expected)


def test_an_odd_size_loses_its_last_row_and_nothing_else_and_broken_videos_say_why(tmp_path, broken_videos):
    path = tmp_path / "a.mkv"
    options = {"codec": "libx264", "pixel_format": "yuv444p", "crf": 0}
    VideoEncoder(smooth_frames(3, 49, 65), frame_rate=25).to_file(path, **options)
    decoded, original = VideoDecoder(reencode_video(path, crf=0)[0])[:], VideoDecoder(path)[:]
    assert decoded.shape == (3, 3, 48, 64)
    assert (decoded.float() - original[:, :, :48, :64].float()).abs().mean() < 3
    for broken in map(str, broken_videos.values()):
        for look in (probe_video, reencode_video):
            with pytest.raises(BrokenVideoError) as error:
                look(broken)
            assert error.value.source == broken


def test_a_variable_rate_keeps_its_speed(tmp_path):
    """Ten frames a tenth of a second apart, then ten of three tenths each: at each time, the picture is the same."""
    gray = torch.arange(20, dtype=torch.uint8) * 12
    times = [*range(10), *range(10, 40, 3)]
    path = encode(tmp_path / "a.mp4", gray[:, None, None, None].expand(20, 3, 48, 64), times=times)
    encoded, facts = reencode_video(path, crf=0)
    decoder = VideoDecoder(encoded)
    for second in torch.arange(0.25, 3.6, 0.5).tolist():
        shown = max(index for index, time in enumerate(times) if time / 10 <= second)
        picture = decoder.get_frame_played_at(second).data.float().mean()
        assert abs(picture / 12 - shown) < 1.5, second  # at most the next one, at the rate of the file
    assert facts.num_frames / facts.fps == pytest.approx(4, abs=0.3)


def test_key_frames_are_as_near_as_asked_for(tmp_path):
    path = tmp_path / "a.mp4"
    VideoEncoder(smooth_frames(40, 48, 64), frame_rate=25).to_file(path)

    for interval, furthest in ((None, range(13, 41)), (6, range(7))):
        with av.open(io.BytesIO(reencode_video(path, key_frame_interval=interval)[0])) as container:
            keys = [i for i, frame in enumerate(container.decode(video=0)) if frame.key_frame]
        assert max(after - before for before, after in zip(keys, [*keys[1:], 40])) in furthest


def test_the_same_video_gives_the_same_bytes(tmp_path, write_video):
    path = write_video(tmp_path / "a.mp4")
    results = {reencode_video(path, short_side=32, key_frame_interval=6)[0] for _ in range(3)}
    assert len(results) == 1
    assert {reencode_video(path.read_bytes(), short_side=32, key_frame_interval=6)[0]} == results


def test_real_files_that_promise_too_much():
    if not SAMPLES.is_dir():
        pytest.skip("no real files in ../shared/data/samples")
    claimed = {path.name: probe_video(path) for path in sorted((SAMPLES / "jhmdb_original").glob("*.avi"))}
    assert len(claimed) == 9
    golf = claimed["Ariya_Swing_golf_f_cm_np1_fr_bad_0.avi"]
    assert (golf.num_frames, golf.promised_frames) == (40, 48)
    assert not any(facts.is_whole for facts in claimed.values())
    kinetics = next((SAMPLES / "kinetics400").glob("*.mp4"))
    assert probe_video(kinetics).is_whole
