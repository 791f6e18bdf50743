"""Decoding: every kind of source, every kind of defect, unusual formats, and real files with lying headers."""

import io
import pickle
import struct
import sys
from pathlib import Path

import av
import pytest
import torch
import torchcodec.decoders
from torchcodec.decoders import ColorConverter, Demuxer, VideoDecoder, VideoPacketDecoder
from torchcodec.encoders import AudioEncoder, VideoEncoder

from tests.videos import encode
from vididi_hf.data.decoding import BrokenVideoError, VideoReader, decode_clips, open_video

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "data" / "samples"


needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="needs ../shared/data/samples")


def every_frame(num_frames):
    return torch.arange(num_frames)


def gray_levels(num_frames=30):
    """Frames that tell their own index by their brightness: 4 + 6 · index."""
    return (4 + 6 * torch.arange(num_frames)).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 48, 64).contiguous()


def indices_of(frames):
    return ((frames.float().mean(dim=(-3, -2, -1)) - 4) / 6).round().long().tolist()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "levels.mp4"
    VideoEncoder(gray_levels(), frame_rate=10).to_file(path)
    return path


def test_every_kind_of_source_gives_the_same_frames(video):
    data = video.read_bytes()
    moved = io.BytesIO(data)
    moved.seek(100)  # a file object that someone has read from already
    decoder = VideoDecoder(str(video))
    assert open_video(decoder) is decoder
    expected = VideoDecoder(str(video)).get_frames_in_range(0, 30).data
    with video.open("rb") as opened:
        paths = [video, str(video), {"path": str(video), "bytes": None}]
        contents = [data, bytearray(data), memoryview(data), moved, opened]
        contents += [{"path": None, "bytes": data}, {"path": "gone.mp4", "bytes": data}]
        decoders = [decoder, VideoDecoder(str(video), dimension_order="NHWC")]
        for source in [*paths, *contents, *decoders]:
            frames = VideoReader(source).read(every_frame)
            assert frames.dtype == torch.uint8
            assert torch.equal(frames, expected)
    floats = VideoReader(VideoDecoder(str(video), output_dtype=torch.float32)).read(every_frame)
    assert floats.dtype == torch.uint8
    assert indices_of(floats) == list(range(30))


def index_arrays():
    clip = torch.arange(5) * 2
    return {
        "adjacent clips that share frames": torch.stack([clip, clip + 6]),
        "adjacent clips": torch.stack([clip, clip + 10, clip + 20]),
        "clips with a gap": torch.stack([clip, clip + 15]),
        "clips the other way round": torch.stack([clip + 6, clip]),
        "the same clip twice": torch.stack([clip, clip]),
        "a loop": torch.tensor([[0, 1, 2, 0, 1], [1, 2, 0, 1, 2]]),
        "uneven clips": torch.stack([clip, clip + 6, clip + 8]),
        "one clip": clip[None],
        "one frame of each": torch.tensor([[3], [9], [4]]),
        "backwards": clip.flip(0),
        "frames": clip,
    }


@pytest.mark.parametrize("name", index_arrays())
def test_any_array_of_indices_is_served(video, name):
    whole = VideoDecoder(str(video)).get_frames_in_range(0, 30).data
    indices = index_arrays()[name]
    frames = decode_clips(video, lambda n: indices)
    assert frames.shape == (*indices.shape, 3, 48, 64)
    assert torch.equal(frames, whole[indices])
    if name == "adjacent clips that share frames":
        assert frames[0, 3].data_ptr() == frames[1, 0].data_ptr()
        assert frames.untyped_storage().nbytes() == 8 * 3 * 48 * 64


def test_all_frames_are_asked_for_at_once_and_each_once(video, monkeypatch):
    decoder = VideoDecoder(str(video))
    reader, asked, seen, original = VideoReader(decoder), [], [], decoder.get_frames_at
    monkeypatch.setattr(decoder, "get_frames_at", lambda indices: asked.append(list(indices)) or original(indices))
    for indices in ([[7, 2, 7], [2, 2, 4]], [[1, 2, 3], [2, 3, 4]]):
        reader.read(lambda n, chosen=indices: seen.append(n) or torch.tensor(chosen))
    assert asked == [[2, 4, 7], [1, 2, 3, 4]]
    assert seen == [30, 30]  # chosen once per call


@pytest.mark.parametrize("indices", [[-1, 3], [3, 30]])
def test_frames_outside_the_video_are_a_mistake_of_the_caller(video, indices):
    with pytest.raises(IndexError, match=r"levels\.mp4, which has 30 frames"):
        decode_clips(video, lambda n: indices)


def broken_files(folder):
    """Path and expected reason of one file of every kind that cannot be read at all."""
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video " * 50)
    (folder / "folder.mp4").mkdir()
    AudioEncoder(torch.zeros(1, 16000), sample_rate=16000).to_file(folder / "audio.mp4")
    with av.open(str(folder / "headers.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.start_encoding()
    data = encode(folder / "whole.mp4", gray_levels()).read_bytes()
    (folder / "truncated.mp4").write_bytes(data[: len(data) // 2])  # its index, at the end, is cut off
    return {
        "missing.mp4": "no such file",
        "empty.mp4": "empty",
        "text.mp4": "not a video in a known container",
        "folder.mp4": "folder",
        "audio.mp4": "no video stream",
        "headers.mp4": "no frames",
        "truncated.mp4": "header is damaged",
    }


def test_broken_files_are_one_error_that_names_file_and_reason(tmp_path):
    for name, reason in broken_files(tmp_path).items():
        path = tmp_path / name
        sources = [path, str(path), {"path": str(path), "bytes": None}]
        if path.is_file():
            sources.append({"path": str(path), "bytes": path.read_bytes()})
        for source in sources:
            with pytest.raises(BrokenVideoError, match=reason) as caught:
                decode_clips(source, every_frame)
            assert isinstance(caught.value, ValueError)
            assert caught.value.source == str(path)
            assert str(path) in str(caught.value)
            assert len(caught.value.reason) < 80


def test_broken_bytes_and_other_types_are_refused_too():
    for source in (b"", b"rubbish", io.BytesIO(), io.BytesIO(b"rubbish" * 30), {"bytes": b"x"}):
        with pytest.raises(BrokenVideoError):
            decode_clips(source, every_frame)
    for source in (3, None, [], {}, {"path": None, "bytes": None}):
        with pytest.raises(TypeError, match=type(source).__name__):
            decode_clips(source, every_frame)


def test_the_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(BrokenVideoError("a.mp4", "it is empty")))
    assert (error.source, error.reason) == ("a.mp4", "it is empty")
    assert str(error) == "cannot read the video a.mp4: it is empty"


def test_missing_ffmpeg_says_what_to_install(video, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("Could not load libtorchcodec. Likely causes: ...")

    with monkeypatch.context() as patch:
        patch.setattr(torchcodec.decoders._video_decoder, "create_video_decoder", fail)
        with pytest.raises(ImportError, match="apt-get install ffmpeg"):
            open_video(video)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ImportError, match="FFmpeg 4 to 9"):
        open_video(video)


def test_frames_cut_off_at_the_end_are_found_and_clips_chosen_again(tmp_path):
    """The index of this file stands at its front and still lists the frames that were cut off."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (30, 3, 48, 64), dtype=torch.uint8, generator=generator)
    data = encode(tmp_path / "whole.mp4", noise, options={"movflags": "faststart"}).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) * 6 // 10])
    whole = VideoReader(tmp_path / "whole.mp4").read(every_frame)

    seen = []
    frames = decode_clips(path, lambda n: seen.append(n) or torch.arange(n))
    assert len(seen) > 1
    assert seen == sorted(seen, reverse=True)
    assert len(frames) == seen[-1] > 5
    # All but the last were decoded from complete data.
    assert torch.equal(frames[:-1], whole[: len(frames) - 1])

    reader = VideoReader(path)
    assert reader.read(lambda n: [0, 4]).shape == (2, 3, 48, 64)  # the good part needs no second look
    assert reader.num_frames == seen[0]
    last = reader.read(lambda n: [n - 1])
    assert reader.num_frames < seen[0]
    assert torch.equal(last[0], frames[reader.num_frames - 1])


@pytest.mark.parametrize("error", [IndexError, RuntimeError, ValueError, MemoryError, OSError, AssertionError])
def test_whatever_the_decoder_raises_names_the_file_in_one_line(video, tmp_path, monkeypatch, error):
    """In any method, of a seeking and of a counting reader."""
    path = tmp_path / "a\n\x1b[31m.mp4"
    path.write_bytes(video.read_bytes())

    def fail(*args, **kwargs):
        raise error("rotten\nC++ stack trace")

    places = [(VideoDecoder, "__init__"), (VideoDecoder, "get_frames_at"), (Demuxer, "__init__")]
    places += [(VideoPacketDecoder, "decode"), (ColorConverter, "convert")]
    for count, failing in enumerate(([0], [1, 2], [1, 3], [1, 4])):
        with monkeypatch.context() as patch:
            for place in failing:
                patch.setattr(*places[place], fail)
            with pytest.raises(BrokenVideoError) as caught:
                VideoReader(path).read(every_frame)
        assert str(caught.value).isprintable(), count
        assert r"a\n\x1b[31m.mp4" in caught.value.source
        assert "stack" not in str(caught.value)


def test_a_choice_that_fails_is_not_the_fault_of_the_video(video):
    for error in (RuntimeError, KeyError):
        with pytest.raises(error, match="mine"):
            decode_clips(video, lambda n, error=error: (_ for _ in ()).throw(error("mine")))


def test_an_open_decoder_that_cannot_seek_counts_up(video):
    class EndsEarly(VideoDecoder):
        """Has 17 frames and says 30."""

        def get_frames_at(self, indices):
            raise IndexError("rotten")

        def get_frame_at(self, index):
            if index >= 17:
                raise RuntimeError("Requested next frame while there are no more frames left to decode.")
            return super().get_frame_at(index)

    seen = []
    frames = decode_clips(EndsEarly(str(video)), lambda n: seen.append(n) or torch.tensor([0, n // 2, n - 1]))
    assert seen == [30, 17]
    assert indices_of(frames) == [0, 8, 16]


def test_a_file_whose_time_stamps_lie_is_read_in_order(tmp_path):
    """An AVI file with B-frames: seeking in it returns neighbors and repetitions."""
    frames = torch.zeros(20, 3, 48, 64, dtype=torch.uint8)
    for index in range(20):
        frames[index, :, :, 3 * index : 3 * index + 4] = 255  # a bar that moves 3 pixels per frame
    path = tmp_path / "bframes.avi"
    encode(path, frames, "mpeg4", coding={"bf": "2", "g": "12", "qmin": "2", "qmax": "2"})

    def places(decoded):
        weight = decoded.float().mean(dim=(1, 2)).clamp(min=30) - 30
        center = (weight * torch.arange(64)).sum(dim=1) / weight.sum(dim=1)
        return ((center - 1.5) / 3).round().int().tolist()

    whole = VideoReader(path).read(every_frame)
    assert len(whole) >= 18
    assert places(whole) == list(range(len(whole)))
    for indices in ([0, 3, 6, 9], [1, 2, 13], [11, 5, 17]):
        expected = torch.stack([whole[index] for index in indices])
        assert torch.equal(VideoReader(path).read(lambda n, wanted=indices: wanted), expected)


@pytest.mark.parametrize(
    ("name", "is_looked_at"), [("a.mp4", False), ("a.mov", False), ("a.mkv", False), ("a.avi", True)]
)
def test_the_first_picture_is_decoded_only_where_containers_lie(tmp_path, monkeypatch, name, is_looked_at):
    path = encode(tmp_path / name, gray_levels(6), "mpeg4")
    looked_at, get_frame_at = [], VideoDecoder.get_frame_at
    monkeypatch.setattr(VideoDecoder, "get_frame_at", lambda self, i: looked_at.append(i) or get_frame_at(self, i))
    for source in (path, path.read_bytes(), {"path": str(path), "bytes": None}):
        looked_at.clear()
        VideoReader(source)
        assert looked_at == [0] * is_looked_at


@needs_samples
def test_a_file_whose_time_stamps_are_only_late_is_sought(monkeypatch):
    """Two of the UCF101 samples have B-frames and one key frame: no need to decode them singly from the start."""
    singly, get_frame_at = [], VideoDecoder.get_frame_at
    monkeypatch.setattr(VideoDecoder, "get_frame_at", lambda self, i: singly.append(i) or get_frame_at(self, i))
    decode_clips(SAMPLES / "ucf101" / "v_ApplyEyeMakeup_g01_c01.avi", lambda n: range(n - 60, n - 6, 3))
    assert singly == [0]


def test_variable_frame_rate_counts_pictures(tmp_path):
    times = [index if index < 10 else 10 + 3 * (index - 10) for index in range(20)]
    path = encode(tmp_path / "variable.mkv", gray_levels(20), times=times)
    reader = VideoReader(path)
    assert reader.num_frames == 20
    assert indices_of(reader.read(every_frame)) == list(range(20))
    assert indices_of(reader.read(lambda n: [15, 9, 12])) == [15, 9, 12]


def test_rotation_of_the_camera_is_undone(tmp_path):
    frames = torch.zeros(4, 3, 48, 64, dtype=torch.uint8)
    frames[..., :32] = 255  # bright on the left
    data = bytearray(encode(tmp_path / "upright.mp4", frames).read_bytes())
    matrix = data.index(b"tkhd") + 44  # a quarter turn in the track header's transformation
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    turned = decode_clips(bytes(data), every_frame)
    assert turned.shape == (4, 3, 64, 48)
    assert turned[:, :, :24].float().mean() > 230
    assert turned[:, :, 40:].float().mean() < 25


UNUSUAL = [("libx264", "yuv444p", (47, 63)), ("libx264", "yuv420p10le", (48, 64)), ("ffv1", "yuv420p", (33, 35))]
UNUSUAL += [("ffv1", "gray", (48, 64)), ("ffv1", "bgr0", (48, 64))]


@pytest.mark.parametrize(("codec", "pixel_format", "size"), UNUSUAL)
def test_any_size_and_pixel_format_becomes_rgb_bytes(tmp_path, codec, pixel_format, size):
    ramp = torch.linspace(20, 230, size[1]).round().to(torch.uint8).expand(5, 3, *size).contiguous()
    path = encode(tmp_path / "unusual.mkv", ramp, codec, pixel_format)
    frames = decode_clips(path, every_frame)
    assert (frames.dtype, frames.shape) == (torch.uint8, ramp.shape)
    assert (frames.float() - ramp.float()).abs().mean() < 4


@needs_samples
@pytest.mark.parametrize("folder", ["jhmdb_original", "ucf101", "hmdb51"])
def test_real_videos_yield_what_decoding_in_order_yields(folder):
    """Against FFmpeg by way of PyAV, which never seeks."""
    paths = sorted((SAMPLES / folder).glob("*.avi"))
    assert paths
    for path in paths:
        with av.open(str(path), metadata_errors="ignore") as container:
            expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        count = len(list(VideoReader(path).frames()))
        assert count == len(expected)
        assert len(VideoReader(path).read(every_frame)) == count
        wanted = [0, 1, 2, 5, count // 2, count - 4, count - 1]
        for indices in ([0, 1, 2, 5], [1, 4, 7], wanted, every_frame(count)[::3].tolist()):
            frames = decode_clips(path, lambda n, chosen=indices: chosen)
            for index, frame in zip(indices, frames):
                difference = frame.permute(1, 2, 0).float() - torch.from_numpy(expected[index]).float()
                assert difference.abs().mean() < 3, (path.name, index)
