"""Features of data sets against the processor and the model, called video by video."""

import copy
import doctest
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import Tensor, nn
from torchcodec.encoders import VideoEncoder

from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.data.folders import with_video_column
from vididi_hf.evaluation import features as module
from vididi_hf.evaluation.features import EvaluationClips, VideoFeatures, extract_features

# Frames, height and width; two frames are too few for a clip, and no frames stand for a broken file.
VIDEOS = [(20, 40, 48), (20, 48, 40), (0, 0, 0), (2, 40, 40), (9, 64, 40)]
GOOD = [0, 1, 3, 4]
LABELS = ["b", "a", "a", "c", "b"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    folder = tmp_path_factory.mktemp("videos")
    paths = []
    for index, (frames, height, width) in enumerate(VIDEOS):
        path = folder / f"{index}.mp4"
        paths.append(str(path))
        if frames == 0:
            path.write_text("no video")
            continue
        generator = torch.Generator().manual_seed(index)
        blocks = torch.randint(256, (frames, 3, height // 8, width // 8), dtype=torch.uint8, generator=generator)
        VideoEncoder(blocks.repeat_interleave(8, -1).repeat_interleave(8, -2), frame_rate=10).to_file(path)
    return with_video_column(paths, LABELS)


@pytest.fixture(scope="module")
def processor() -> ViDiDiVideoProcessor:
    return ViDiDiVideoProcessor(num_frames=4, frame_stride=2, size=36, crop_size=32)


@pytest.fixture
def model() -> ViDiDiModel:
    """An encoder whose BatchNorm has statistics of its own, in training mode."""
    torch.manual_seed(0)
    model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1), batch_norm="shared"))
    for _ in range(3):
        model(3 + 2 * torch.randn(4, 4, 3, 32, 32))
    return model.train()


def one_by_one(
    model: ViDiDiModel, processor: ViDiDiVideoProcessor, rows: datasets.Dataset, order: int, num_clips: int
) -> Tensor:
    """The protocol, written as one sees it: every clip alone through the network, then the mean over clips."""
    model = copy.deepcopy(model).eval()
    name = "pixel_values" if order == 0 else f"pixel_values_order_{order}"
    features = []
    for index in GOOD:
        clips = processor(rows[index]["video"], num_clips=num_clips, derivative_orders=(0, 1, 2))[name]
        assert clips.shape == (1, num_clips, 4, 3, 32, 32)
        with torch.no_grad():
            features.append(sum(model(clip[None]).pooler_output[0] for clip in clips[0]) / num_clips)
    return torch.stack(features)


@pytest.mark.parametrize(
    ("orders", "num_clips", "batch_size", "num_workers"),
    [((0, 1, 2), 3, 2, 0), ((2, 1, 0), 2, 16, 2), ((0, 1, 2), 2, 1, 0)],
)
def test_features_are_means_over_clips_of_the_frames_or_of_their_derivative(
    orders: tuple[int, ...],
    num_clips: int,
    batch_size: int,
    num_workers: int,
    model: ViDiDiModel,
    processor: ViDiDiVideoProcessor,
    rows: datasets.Dataset,
) -> None:
    found = extract_features(
        model,
        processor,
        rows,
        orders=orders,
        num_clips=num_clips,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    assert tuple(found.by_order) == orders
    for order in orders:
        expected = one_by_one(model, processor, rows, order, num_clips)
        assert expected.std(dim=0).max() > 1e-3  # the videos do differ
        torch.testing.assert_close(found.by_order[order], expected, rtol=1e-4, atol=1e-5)
    assert found.rows.tolist() == GOOD


def test_derivatives_are_rescaled_as_the_encoder_says(
    model: ViDiDiModel, processor: ViDiDiVideoProcessor, rows: datasets.Dataset
) -> None:
    config = copy.deepcopy(model.config)
    config.derivative_scale = "unit"
    rescaling = ViDiDiModel(config)
    rescaling.load_state_dict(model.state_dict())
    found = extract_features(rescaling, processor, rows, orders=(0, 1), num_clips=2)
    model.eval()
    for row, index in enumerate(GOOD):
        clips = processor(rows[index]["video"], num_clips=2, derivative_orders=(0, 1))
        derivatives = clips["pixel_values_order_1"][0]
        scaled = torch.stack([clip / clip.square().mean().sqrt() for clip in derivatives])
        with torch.no_grad():
            for order, shown in ((0, clips["pixel_values"][0]), (1, scaled)):
                expected = model(shown).pooler_output.mean(0)
                torch.testing.assert_close(found.by_order[order][row], expected, rtol=1e-4, atol=1e-5)


def test_an_order_alone_sees_the_frames_that_it_needs_and_no_more(
    model: ViDiDiModel, processor: ViDiDiVideoProcessor, rows: datasets.Dataset
) -> None:
    """The frames of a clip are chosen for the highest order asked for: alone, order 1 has one to spare, not two."""
    found = extract_features(model, processor, rows, orders=(1,), num_clips=2).by_order[1]
    model = copy.deepcopy(model).eval()
    for index, features in zip(GOOD, found):
        clips = processor(rows[index]["video"], num_clips=2, derivative_orders=(1,))["pixel_values_order_1"][0]
        with torch.no_grad():
            torch.testing.assert_close(features, model(clips).pooler_output.mean(0), rtol=1e-4, atol=1e-5)


def test_broken_videos_are_left_out_and_named_and_labels_stay_with_their_videos(
    model: ViDiDiModel, processor: ViDiDiVideoProcessor, rows: datasets.Dataset
) -> None:
    for batch_size in (1, 3, 16):  # with 1, a whole batch is broken
        found = extract_features(model, processor, rows, num_clips=1, batch_size=batch_size)
        assert found.rows.tolist() == GOOD
        assert len(found.by_order[0]) == len(GOOD)
        (source,) = found.broken
        assert Path(source).name == "2.mp4"
        assert found.broken[source]
        names = [rows.features["label"].names[label] for label in found.labels(rows).tolist()]
        assert names == [LABELS[index] for index in GOOD]


def test_rows_in_another_order_give_the_same_features_in_that_order(
    model: ViDiDiModel, processor: ViDiDiVideoProcessor, rows: datasets.Dataset
) -> None:
    straight = extract_features(model, processor, rows, num_clips=2)
    shuffled = extract_features(model, processor, rows.select([4, 2, 0, 3, 1]), num_clips=2, batch_size=2)
    assert shuffled.rows.tolist() == [0, 2, 3, 4]
    torch.testing.assert_close(shuffled.by_order[0], straight.by_order[0][[3, 0, 2, 1]], rtol=1e-4, atol=1e-5)
    assert shuffled.labels(rows.select([4, 2, 0, 3, 1])).tolist() == straight.labels(rows)[[3, 0, 2, 1]].tolist()


def test_statistics_do_not_move_and_every_module_keeps_its_mode(
    model: ViDiDiModel, processor: ViDiDiVideoProcessor, rows: datasets.Dataset
) -> None:
    model.backbone.layer1.eval()  # as one does who freezes a stage
    modes = [module.training for module in model.modules()]
    assert True in modes
    assert False in modes
    before = copy.deepcopy(model.state_dict())
    extract_features(model, processor, rows, num_clips=1)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert [module.training for module in model.modules()] == modes


def test_modes_are_restored_after_a_failure_too(
    model: ViDiDiModel, processor: ViDiDiVideoProcessor, rows: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        assert not any(module.training for module in model.modules())
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        extract_features(model, processor, rows, num_clips=1)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_nothing_is_drawn_at_random(
    num_workers: int, model: ViDiDiModel, processor: ViDiDiVideoProcessor, rows: datasets.Dataset
) -> None:
    state = torch.get_rng_state()
    first = extract_features(model, processor, rows, num_clips=2, num_workers=num_workers)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    second = extract_features(model, processor, rows, num_clips=2, num_workers=num_workers)
    assert torch.equal(first.by_order[0], second.by_order[0])


def test_half_precision_encoders_give_full_precision_features(
    model: ViDiDiModel, processor: ViDiDiVideoProcessor, rows: datasets.Dataset
) -> None:
    full = extract_features(model, processor, rows, num_clips=1).by_order[0]
    half = extract_features(model.to(torch.bfloat16), processor, rows, num_clips=1).by_order[0]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.05)


def test_a_classifier_can_be_trained_on_features(
    model: ViDiDiModel, processor: ViDiDiVideoProcessor, rows: datasets.Dataset
) -> None:
    features = extract_features(model, processor, rows, num_clips=1).by_order[0]
    assert not features.requires_grad
    layer = nn.Linear(8, 3)
    layer(features).square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_rows_that_fail_are_told_apart_even_where_their_sources_are_not(
    processor: ViDiDiVideoProcessor, rows: datasets.Dataset
) -> None:
    """Row 2 twice, and a row that holds no video."""
    videos = rows.select_columns("video").cast_column("video", datasets.Video(decode=False))[:]["video"]
    some = with_video_column([videos[0]["path"], videos[2]["path"], None, videos[2]["path"]])
    clips = EvaluationClips(some, processor, num_clips=1, extra_frames=0)
    assert [good for good, _ in clips.batches(batch_size=2)] == [[0]]
    assert list(clips.broken) == [videos[2]["path"], "row 2"]
    assert list(clips.broken_rows) == [1, 2, 3]
    assert clips.broken_rows[2] == "there is no video in it"
    assert clips.broken_rows[1] == clips.broken_rows[3] == clips.broken[videos[2]["path"]]


def test_when_nothing_can_be_decoded_the_reasons_are_told(
    model: ViDiDiModel, processor: ViDiDiVideoProcessor, rows: datasets.Dataset
) -> None:
    with pytest.raises(ValueError, match=r"none of the 2 videos can be decoded: .*2\.mp4: "):
        extract_features(model, processor, rows.select([2, 2]), num_clips=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orders": (0, 0)}, "derivative_orders must be distinct integers"),
        ({"orders": ()}, "derivative_orders must be distinct integers"),
        ({"num_clips": 0}, "num_clips must be at least 1, got 0"),
    ],
)
def test_impossible_arguments_are_named(
    options: dict[str, Any], message: str, model: ViDiDiModel, processor: ViDiDiVideoProcessor, rows: datasets.Dataset
) -> None:
    with pytest.raises(ValueError, match=message):
        extract_features(model, processor, rows, **options)


def test_progress_is_shown_on_request(
    model: ViDiDiModel,
    processor: ViDiDiVideoProcessor,
    rows: datasets.Dataset,
    capsys: pytest.CaptureFixture[str],
) -> None:
    extract_features(model, processor, rows, num_clips=1)
    assert "features" not in capsys.readouterr().err
    extract_features(model, processor, rows, num_clips=1, progress=True)
    assert "features" in capsys.readouterr().err


def test_orders_are_put_side_by_side_each_at_unit_length() -> None:
    generator = torch.Generator().manual_seed(0)
    frames, derivative = torch.randn(5, 3, generator=generator), 100 * torch.randn(5, 3, generator=generator)
    features = VideoFeatures({0: frames, 1: derivative}, torch.arange(5))
    both = features.combined((0, 1))
    for video in range(5):
        expected = [*(frames[video] / frames[video].norm()), *(derivative[video] / derivative[video].norm())]
        assert both[video].tolist() == pytest.approx([float(value) for value in expected], rel=1e-5)
    torch.testing.assert_close(features.combined((1,)).norm(dim=1), torch.ones(5))
    cosines = [torch.cosine_similarity(values[:, None], values[None], dim=-1) for values in (frames, derivative, both)]
    torch.testing.assert_close(cosines[2], (cosines[0] + cosines[1]) / 2)


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0
