"""The video processor: every form of a video, the definition of its pixels and derivatives, settings and their file."""

import io
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from torchcodec.decoders import VideoDecoder
from torchcodec.encoders import VideoEncoder
from transformers import AutoVideoProcessor
from transformers.utils import TensorType
from transformers.video_utils import VideoMetadata

from vididi_hf.clips_vididi import uniform_clips
from vididi_hf.video_processing_vididi import BrokenVideoError, ViDiDiVideoProcessor

MEAN = torch.tensor([0.43216, 0.394666, 0.37645]).reshape(3, 1, 1)
STD = torch.tensor([0.22803, 0.22145, 0.216989]).reshape(3, 1, 1)


def random_frames(num_frames=40, height=60, width=80):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (num_frames, 3, height, width), dtype=torch.uint8, generator=generator)


def small_processor(**settings):
    return ViDiDiVideoProcessor(**{"size": {"shortest_edge": 32}, "crop_size": 24, **settings})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("videos") / "noise.mp4"
    VideoEncoder(random_frames(), frame_rate=10).to_file(file)
    return file


@pytest.fixture(scope="module")
def decoded(path):
    return VideoDecoder(str(path)).get_frames_in_range(0, 40).data


def test_pixels_are_torchvisions_resize_and_crop_normalized():
    frames = random_frames()
    chosen = frames[9:33:3]  # 8 frames at stride 3 span 22 of 40 frames, so they begin at (40 - 22) // 2
    resized = tvf.resize(chosen, [128, 170], antialias=True)
    expected = (tvf.center_crop(resized, [112, 112]) / 255 - MEAN) / STD
    torch.testing.assert_close(dict(ViDiDiVideoProcessor()(frames)), {"pixel_values": expected.unsqueeze(0)})


def test_derivatives_are_differences_of_normalized_frames():
    frames = random_frames()
    inputs = small_processor()(frames, derivative_orders=(0, 1, 2), num_frames=6)
    chosen = frames[uniform_clips(40, 1, 6, 3, extra_frames=2)[0]]
    sampled = small_processor()(chosen, num_frames=8, frame_stride=1)["pixel_values"]
    assert list(inputs) == ["pixel_values", "pixel_values_order_1", "pixel_values_order_2"]
    torch.testing.assert_close(inputs["pixel_values"], sampled[:, :6])
    torch.testing.assert_close(inputs["pixel_values_order_1"], (sampled[:, 1:] - sampled[:, :-1])[:, :6])
    second = sampled[:, 2:] - 2 * sampled[:, 1:-1] + sampled[:, :-2]
    torch.testing.assert_close(inputs["pixel_values_order_2"], second)


def test_several_clips_are_the_uniform_ones():
    frames = random_frames()
    processor = small_processor(do_resize=False, do_center_crop=False, do_normalize=False, do_rescale=False)
    settings = {"num_clips": 3, "num_frames": 4, "frame_stride": 2, "derivative_orders": (0, 1)}
    inputs = processor([frames, frames.flip(0)], **settings)
    indices = uniform_clips(40, 3, 4, 2, extra_frames=1)[:, :4]
    assert torch.equal(inputs["pixel_values"], torch.stack([frames[indices], frames.flip(0)[indices]]).float())
    assert inputs["pixel_values_order_1"].shape == (2, 3, 4, 3, 60, 80)


@pytest.mark.parametrize("num_frames", [1, 2, 7])
def test_short_videos_repeat_frames_without_a_jump(num_frames):
    frames = random_frames(num_frames)
    clips = small_processor(do_resize=False, do_center_crop=False).sample_clips(frames, frame_stride=3, extra_frames=1)
    chosen = [round(place * (num_frames - 1) / 7 - 0.01) for place in range(8)] + [num_frames - 1]
    assert torch.equal(clips[0], frames[chosen])


def test_the_old_name_of_extra_frames_still_works():
    frames = random_frames(9)
    with pytest.warns(FutureWarning, match="lookahead is now called extra_frames"):
        clips = small_processor().sample_clips(frames, lookahead=2)
    assert torch.equal(clips, small_processor().sample_clips(frames, extra_frames=2))


def test_without_sampling_all_frames_are_one_clip():
    inputs = small_processor()(random_frames(11), do_sample_frames=False, derivative_orders=(1, 2), return_tensors="np")
    assert list(inputs) == ["pixel_values_order_1", "pixel_values_order_2"]
    assert all(isinstance(value, np.ndarray) and value.shape == (1, 9, 3, 24, 24) for value in inputs.values())


def test_sampling_and_views_are_the_two_halves_of_a_call(path):
    processor = small_processor(num_clips=2, derivative_orders=(0, 1))
    clips = processor.sample_clips(path)
    assert (clips.dtype, clips.shape) == (torch.uint8, (2, 9, 3, 24, 24))
    for view, pixels in zip(processor.views(clips), processor(path).values()):
        assert torch.equal(view, pixels[0])
    longer = processor.sample_clips(path, extra_frames=3, num_clips=5, num_frames=4, device="meta")
    assert (longer.device.type, longer.shape) == ("meta", (5, 7, 3, 24, 24))
    views = processor.views(longer, orders=[3, 0])
    assert [(view.device.type, view.shape) for view in views] == [("meta", (5, 4, 3, 24, 24))] * 2


def test_every_form_of_a_video_gives_the_same_pixels(path, decoded):
    processor = small_processor(do_resize=False, derivative_orders=(0, 1), num_clips=2)
    last = decoded.permute(0, 2, 3, 1).contiguous()
    forms = {
        "str": str(path),
        "Path": Path(path),
        "bytes": path.read_bytes(),
        "file object": io.BytesIO(path.read_bytes()),
        "dict with path": {"path": str(path), "bytes": None},
        "dict with bytes": {"path": None, "bytes": path.read_bytes()},
        "VideoDecoder": VideoDecoder(str(path)),
        "tensor": decoded,
        "tensor, channels last": last,
        "array, channels last": last.numpy(),
        "array with negative strides": last.numpy()[:, ::-1, ::-1].copy()[:, ::-1, ::-1],
        "tensors": list(decoded),
        "arrays": list(last.numpy()),
        "images": [PIL.Image.fromarray(frame) for frame in last.numpy()],
        "floats": decoded.float(),
    }
    expected = processor(forms["str"])
    assert expected["pixel_values"].shape == (1, 2, 8, 3, 24, 24)
    for name, video in forms.items():
        for key, pixels in processor(video).items():
            assert torch.equal(pixels, expected[key]), name
    for videos in (list(forms.values()), torch.stack([decoded, decoded]), np.stack([decoded, decoded])):
        batch = processor(videos)
        assert len(batch["pixel_values"]) == len(videos)
        assert (batch["pixel_values_order_1"] == expected["pixel_values_order_1"]).all()


def test_a_datasets_video_column_works_decoded_or_not(path):
    expected = small_processor()(path)["pixel_values"]
    for decode in (True, False):
        feature = datasets.Features({"video": datasets.Video(decode=decode)})
        rows = datasets.Dataset.from_dict({"video": [str(path), str(path)]}, features=feature)
        assert torch.equal(small_processor()(rows[0]["video"])["pixel_values"], expected)
        assert torch.equal(small_processor()(rows["video"])["pixel_values"], expected.expand(2, -1, -1, -1, -1))


@pytest.mark.parametrize(
    "nest",
    [
        lambda one, two: [[one], [two]],
        lambda one, two: ([one, two],),
        lambda one, two: [[one.numpy(), two.numpy()]],
        lambda one, two: [list(one), tuple(two.numpy())],
        lambda one, two: [[list(one)], [list(two)]],
        lambda one, two: [torch.stack([one, two])],
    ],
)
def test_nested_batches_are_flattened(nest):
    one, two = random_frames(), random_frames().flip(0)
    expected = small_processor()(torch.stack([one, two]))["pixel_values"]
    assert torch.equal(small_processor()(nest(one, two))["pixel_values"], expected)


@pytest.mark.parametrize("return_tensors", ["pt", "np", TensorType.PYTORCH, TensorType.NUMPY, None])
def test_keywords_of_transformers(return_tensors):
    frames = random_frames()
    inputs = small_processor(num_frames=4, frame_stride=2)(
        [frames, frames[:20]], return_metadata=True, data_format="channels_last", return_tensors=return_tensors
    )
    kind = np.ndarray if return_tensors in ("np", TensorType.NUMPY) else torch.Tensor
    assert isinstance(inputs["pixel_values"], kind)
    expected = small_processor(num_frames=4, frame_stride=2)([frames, frames[:20]])["pixel_values"]
    assert torch.equal(torch.as_tensor(inputs["pixel_values"]), expected.movedim(2, -1))
    found = [(one.total_num_frames, one.fps, one.frames_indices) for one in inputs["video_metadata"]]
    assert found == [(40, None, [16, 18, 20, 22]), (20, None, [6, 8, 10, 12])]


def test_fps_is_the_rate_to_sample_or_that_of_an_array_that_has_none(path, decoded):
    def sampled(video, **settings):
        return small_processor(num_frames=4)(video, return_metadata=True, **settings)["video_metadata"][0]

    metadata = VideoMetadata(total_num_frames=40, fps=10)
    for video, known in (
        (path, {}),
        (decoded, {"video_metadata": metadata}),
        (decoded, {"video_metadata": [[metadata]]}),
    ):
        facts = sampled(video, fps=5, **known)
        assert (facts.fps, facts.total_num_frames) == (10, 40)
        assert np.diff(facts.frames_indices).tolist() == [2, 2, 2]
    facts = sampled(decoded, fps=10, frame_interval=0.4)
    assert (facts.fps, np.diff(facts.frames_indices).tolist()) == (10, [4, 4, 4])


@pytest.mark.parametrize("scale", ["unit", "normalized"])
def test_floats_of_another_range_are_refused_unless_told(scale):
    frames = random_frames() / 255 if scale == "unit" else (random_frames() / 255 - 0.5) / 0.25
    with pytest.raises(ValueError, match=r"must be 0 … 255, got .*do_rescale=False"):
        small_processor()(frames)
    small_processor()(frames, do_rescale=False)
    small_processor()(torch.zeros(10, 3, 40, 40))  # black in any range


def test_a_url_is_fetched_by_transformers(path, monkeypatch):
    class Response:
        content = path.read_bytes()

    asked = []
    monkeypatch.setattr("transformers.video_utils.httpx.get", lambda url, **_: asked.append(url) or Response)
    pixels = small_processor(num_clips=2)("https://example.org/noise.mp4")["pixel_values"]
    assert asked == ["https://example.org/noise.mp4"]
    assert torch.equal(pixels, small_processor(num_clips=2)(path)["pixel_values"])


def test_gray_and_transparent_frames_become_rgb():
    gray = random_frames(8)[:, :1]
    expected = small_processor(frame_stride=1)(gray.expand(-1, 3, -1, -1))["pixel_values"]
    opaque = torch.cat([gray.expand(-1, 3, -1, -1), torch.full_like(gray, 255)], dim=1)
    images = [PIL.Image.fromarray(frame[0].numpy()) for frame in gray]
    for video in (gray, list(gray[:, 0]), images, opaque, [image.convert("P") for image in images]):
        torch.testing.assert_close(small_processor(frame_stride=1)(video)["pixel_values"], expected)


def test_ambiguous_shapes_are_settled_by_the_format():
    frames = random_frames(8, 3, 5)  # 3 rows and 3 channels
    processor = small_processor(do_resize=False, frame_stride=1, crop_size=3)
    told = processor.sample_clips(frames.permute(0, 2, 3, 1), input_data_format="channels_last")
    assert torch.equal(told[0], tvf.center_crop(frames, [3, 3]))


def test_broken_files_name_themselves(tmp_path, path):
    (tmp_path / "empty.mp4").touch()
    for source in (tmp_path / "empty.mp4", str(tmp_path / "missing.mp4"), [path, tmp_path / "empty.mp4"]):
        with pytest.raises(BrokenVideoError, match=r"(empty|missing)\.mp4"):
            small_processor()(source)


@pytest.mark.parametrize(
    ("videos", "error", "message"),
    [
        (7, TypeError, "cannot read a video from int"),
        ([], ValueError, "empty list"),
        (torch.zeros(3, 8, 8), ValueError, r"got the shape \(3, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), ValueError, "at least 1 frame, got 0"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.int64), ValueError, "uint8 or floating, got torch.int64"),
        ([torch.zeros(3, 8, 8), torch.zeros(4, 3, 8, 8)], ValueError, "mixes frames and videos"),
        ([random_frames(8, 40, 50), random_frames(8, 40, 70)], ValueError, "keep do_center_crop"),
    ],
)
def test_other_inputs_are_refused(videos, error, message):
    with pytest.raises(error, match=message):
        small_processor(do_center_crop=False)(videos)


def test_settings_hold_for_one_call_only():
    processor = small_processor()
    frames, half = random_frames(), {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    inputs = processor(frames, num_frames=4, size=40, crop_size={"height": 20, "width": 30}, num_clips=None)
    assert inputs["pixel_values"].shape == (1, 4, 3, 20, 30)
    assert processor(frames)["pixel_values"].shape == (1, 8, 3, 24, 24)
    plain = processor(frames, do_rescale=False, do_normalize=False, do_resize=False)["pixel_values"]
    scaled = processor(frames, **half, do_resize=False)["pixel_values"]
    torch.testing.assert_close(scaled, plain / 127.5 - 1)
    unit = processor(frames / 255, do_rescale=False, **half, do_resize=False)["pixel_values"]
    torch.testing.assert_close(unit, scaled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame_strid": 3}, "no setting 'frame_strid', only .*frame_stride"),
        ({"frame_stride": -1}, "frame_stride must be 1 to 65536, got -1"),
        ({"num_clips": 0}, "num_clips must be 1 to 65536, got 0"),
        ({"num_frames": "8"}, "num_frames"),
        ({"derivative_orders": (1, 1)}, r"derivative_orders must be .* got \(1, 1\)"),
        ({"derivative_orders": (-1,)}, "derivative_orders must be"),
        ({"num_clips": 2, "do_sample_frames": False}, "num_clips must be 1 with do_sample_frames=False, got 2"),
        ({"size": {"edge": 3}}, "size must have"),
    ],
)
def test_impossible_settings_are_named_in_the_constructor_and_in_a_call(settings, message):
    with pytest.raises(Exception, match=message):
        ViDiDiVideoProcessor(**settings)
    with pytest.raises(Exception, match=message):
        small_processor()(random_frames(8), **settings)


def test_round_trip_through_the_file_and_the_auto_class(tmp_path):
    processor = small_processor(num_frames=5, num_clips=2, derivative_orders=(0, 2), do_normalize=False, frame_stride=2)
    processor.camera = "front"  # a custom field
    processor.save_pretrained(tmp_path)
    expected = processor(random_frames())
    for loaded in (ViDiDiVideoProcessor.from_pretrained(tmp_path), AutoVideoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is ViDiDiVideoProcessor
        assert loaded.to_dict() == processor.to_dict()
        assert (loaded.camera, loaded.derivative_orders) == ("front", (0, 2))
        for name, pixels in loaded(random_frames()).items():
            assert torch.equal(pixels, expected[name])
    assert ViDiDiVideoProcessor.from_pretrained(tmp_path, num_frames=3).num_frames == 3
    with pytest.raises(TypeError, match="no setting 'camera'"):
        processor(random_frames(), camera="front")
