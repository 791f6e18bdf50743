"""Containers: numbered frames from all of them, no other files, odd names, and limits of size."""

import os
import threading
from pathlib import Path

import pytest
import torch
from torchcodec.encoders import VideoEncoder

from benchmarks.fuzz_videos import FuzzOptions
from benchmarks.fuzz_videos import run as fuzz
from vididi_hf import PreparationOptions, ViDiDiVideoProcessor, containers_vididi, decoding_vididi
from vididi_hf.data.augment import ClipAugmentation
from vididi_hf.data.loading import ClipMaker
from vididi_hf.data.preparation.treatment import treat_video
from vididi_hf.decoding_vididi import BrokenVideoError, VideoReader

COUNT = 40
B_FRAMES = {"bf": "2", "g": "12"}
# File ending, codec, options of the encoder.
FILES = [("mp4", "libx264", B_FRAMES), ("mp4", "libx264", {"g": "12", "x264-params": "open-gop=1:bframes=3"})]
FILES += [("mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}), ("mov", "libx264", B_FRAMES)]
FILES += [("mkv", "libx264", B_FRAMES), ("webm", "libvpx-vp9", {"g": "12"})]
FILES += [("avi", "mpeg4", {"g": "12"}), ("avi", "mpeg4", B_FRAMES), ("avi", "libx264", B_FRAMES)]
FILES += [("ts", "libx264", B_FRAMES), ("ts", "mpeg2video", B_FRAMES), ("mts", "libx264", {"bf": "0", "g": "12"})]
FILES += [
    ("mpg", "mpeg1video", B_FRAMES),
    ("mpg", "mpeg2video", {"bf": "0", "g": "12"}),
    ("vob", "mpeg2video", B_FRAMES),
]
FILES += [("flv", "flv", {"g": "12"}), ("flv", "libx264", B_FRAMES), ("ogv", "libtheora", {"g": "12"})]


def numbered(count: int, height: int = 48, width: int = 96) -> torch.Tensor:
    """Frames that show their number as six vertical bars."""
    bits = torch.arange(count)[:, None] >> torch.arange(6) & 1
    bars = (30 + 200 * bits).to(torch.uint8).repeat_interleave(width // 6, dim=1)
    return bars[:, None, None].expand(count, 3, height, width).contiguous()


def numbers_of(frames: torch.Tensor) -> list[int]:
    bars = frames.float().mean(dim=(-3, -2)).unflatten(-1, (6, -1))[..., 4:-4].mean(dim=-1)
    return ((bars > 130).long() << torch.arange(6)).sum(dim=-1).flatten().tolist()


def write(folder: Path, ending: str, codec: str, options: dict[str, str], count: int = COUNT) -> Path:
    path = folder / f"numbered.{ending}"
    how = {"codec": codec, "pixel_format": "yuv420p", "extra_options": {"threads": "1", "b": "1000000", **options}}
    VideoEncoder(numbered(count), frame_rate=25).to_file(path, **how)
    return path


@pytest.mark.parametrize(("ending", "codec", "options"), FILES)
def test_exactly_the_requested_frames_of_every_container(tmp_path, ending, codec, options):
    path = write(tmp_path, ending, codec, options)
    assert numbers_of(VideoReader(path).read(torch.arange)) == list(range(COUNT))
    reader = VideoReader(path)
    for wanted in ([13], [COUNT - 1, 0], [25, 2, 25], [[5, 8], [8, 11]]):
        assert numbers_of(reader.read(lambda _, wanted=wanted: wanted)) == torch.tensor(wanted).flatten().tolist()
    assert reader.frame_rate == pytest.approx(25, rel=0.05)
    video = treat_video({"path": str(path), "bytes": None}, PreparationOptions(dataset="", output_dir=""))
    assert video.status == ("kept" if reader.seeks else "re-encoded")
    assert numbers_of(VideoReader(video.encoded).read(torch.arange)) == list(range(COUNT))


@pytest.mark.parametrize(
    ("ending", "codec"), [("avi", "mpeg4"), ("mpg", "mpeg2video"), ("flv", "flv"), ("mkv", "libx264")]
)
def test_very_short_files_keep_all_frames(tmp_path, ending, codec):
    for count in (1, 2, 3):
        path = write(tmp_path, ending, codec, {"bf": "2"} if codec != "flv" else {}, count)
        assert numbers_of(VideoReader(path).read(torch.arange)) == list(range(count))


def test_a_transport_stream_that_begins_within_a_packet(tmp_path):
    data = write(tmp_path, "ts", "libx264", {"g": "12"}).read_bytes()
    found = numbers_of(VideoReader(data[len(data) // 3 :]).read(torch.arange))
    assert len(found) > 10
    assert found == list(range(found[0], COUNT))


def test_an_old_torchcodec_rejects_what_it_cannot_read_exactly(tmp_path, monkeypatch):
    path = write(tmp_path, "ts", "libx264", B_FRAMES)
    monkeypatch.delattr("torchcodec.decoders.Demuxer")
    with pytest.raises(BrokenVideoError, match=r"MPEG-TS.*pip install.*ffmpeg -i"):
        VideoReader(path)


MPD = '<MPD profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" type="static"><Period><AdaptationSet mimeType='
MPD += '"video/mp4"><Representation id="1" bandwidth="9"><BaseURL>{}</BaseURL></Representation></AdaptationSet>'
MPD += "</Period></MPD>"
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.4,\n{}\n#EXT-X-ENDLIST\n"
SDP = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={}\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)
PLAYLISTS = [HLS, "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9\nfile:{}\n", "ffconcat version 1.0\nfile {}\n"]
PLAYLISTS += ["ffconcat version 1.0\nfile 'file:{}'\n", MPD, f'<?xml version="1.0"?>{MPD}', SDP]
PLAYLISTS += ["# VobSub index file, v7 (do not modify this line!)\nid: en\n", f"\x1aE\xdf\xa3\n{MPD}", f"FLV\n{SDP}"]


@pytest.mark.parametrize("gated", [True, False])
def test_playlists_open_no_other_file(tmp_path, monkeypatch, gated):
    """The gate is the check of the first bytes. Without it, the open file alone must hold FFmpeg back."""
    canary = tmp_path / "canary.ts"
    os.mkfifo(canary)  # a process can open it for writing only while another reads it
    opened, stop = [], threading.Event()

    def watch() -> None:
        while not stop.wait(0.001):
            try:
                os.close(os.open(canary, os.O_WRONLY | os.O_NONBLOCK))
                opened.append(True)
            except OSError:
                pass

    monkeypatch.chdir(tmp_path)
    if not gated:
        monkeypatch.setattr(containers_vididi, "_container", lambda name, content: "MP4")
    threading.Thread(target=watch, daemon=True).start()
    for text in PLAYLISTS:
        for target in (canary, canary.name):
            Path("list.mp4").write_bytes(text.format(target).encode("latin-1"))
            with pytest.raises(BrokenVideoError, match="playlist" if gated else "not a video"):
                VideoReader("list.mp4").read(torch.arange)
    stop.set()
    assert opened == []


def test_any_name_is_a_file_and_other_things_are_rejected_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write(tmp_path, "mp4", "libx264", {}, 3).read_bytes()
    for name in (
        "cam1-2024-05-01T12:30.mp4",
        "http:a.mp4",
        "concat:a|b.mp4",
        "frame%03d.mp4",
        "pipe:",
        "-i",
        os.fsdecode(b"\xff.mp4"),
    ):
        Path(name).write_bytes(data)
        for path in (name, Path(name)):
            assert VideoReader(path).num_frames == 3
    os.mkfifo("fifo.mp4")
    for name, reason in (
        ("fifo.mp4", "FIFO"),
        ("/dev/zero", "device"),
        ("gone:1.mp4", "no such"),
        ("a\0.mp4", "opened"),
    ):
        with pytest.raises(BrokenVideoError, match=reason):
            VideoReader(name)


def test_limits_of_size_name_the_command_that_helps(tmp_path):
    tall = torch.zeros(1, 3, 1024, 32, dtype=torch.uint8)
    VideoEncoder(tall, frame_rate=25).to_file(tmp_path / "thin.mp4")
    with pytest.raises(BrokenVideoError, match=r"32 × 1024 pixels exceed .*ffmpeg -i"):
        VideoReader(tmp_path / "thin.mp4")
    for height, width in ((8192, 8192), (16384, 2048), (2, 64), (0, 3)):
        with pytest.raises(BrokenVideoError):
            containers_vididi.check_frame_size("a.mp4", height, width)
    for height, width in ((4320, 8192), (2, 2), (2160, 3840)):
        containers_vididi.check_frame_size("a.mp4", height, width)


@pytest.mark.parametrize("ending", ["mp4", "mpg"])
def test_large_frames_are_shrunk_a_few_at_a_time(tmp_path, monkeypatch, ending):
    """With the same result as all at once, for evaluation and for training."""
    path = write(tmp_path, ending, "mpeg4" if ending == "mp4" else "mpeg1video", {"g": "12"})
    processor = ViDiDiVideoProcessor(num_frames=4, frame_stride=2, size=32, crop_size=24, num_clips=3)
    make = ClipMaker(2, 4, 2, 1, ClipAugmentation(24), seed=0)
    seen, real = [], VideoReader._seek
    monkeypatch.setattr(
        VideoReader, "_seek", lambda self, wanted, *how: seen.append(len(wanted)) or real(self, wanted, *how)
    )
    results = {}
    for batch in (1 << 30, 3 * 3 * 48 * 96):
        monkeypatch.setattr(decoding_vididi, "BATCH", batch)
        seen.clear()
        clips, largest = processor.sample_clips(path), max(seen)
        results[batch] = clips, make(path, (1, 2))
    assert largest == 3
    for whole, parts in zip(*results.values()):
        assert torch.equal(whole, parts)
    monkeypatch.setattr(decoding_vididi, "MAX_READ", 3 * 3 * 48 * 96)
    assert VideoReader(path).read(lambda n: [0, 1, 2]).shape[0] == 3
    with pytest.raises(BrokenVideoError, match=r"4 frames of 96 × 48 pixels take .*ffmpeg"):
        VideoReader(path).read(lambda n: [0, 1, 2, 3])


@pytest.mark.slow
def test_damaged_files_are_read_or_rejected(tmp_path):
    report = fuzz(FuzzOptions(tries=200, seed=1, output=str(tmp_path / "fuzz.json")))
    assert report["tries"] == 200
    assert report["failed"] == []
