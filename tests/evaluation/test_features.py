"""Features of data sets against the processor and the model, called video by video; labels of two data sets."""

import copy
from pathlib import Path

import datasets
import pytest
import torch
from torch import nn

from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.data.folders import with_video_column
from vididi_hf.evaluation.features import (
    EvaluationClips,
    VideoFeatures,
    extract_features,
    label_names,
    with_class_labels,
)
from vididi_hf.evaluation.inputs import check_inputs, orders_of, single_inputs

# Frames, height and width. Two frames are too few for a clip; no frames stand for a broken file.
VIDEOS = [(20, 40, 48), (20, 48, 40), (0, 0, 0), (2, 40, 40), (9, 64, 40)]
GOOD = [0, 1, 3, 4]
LABELS = ["b", "a", "a", "c", "b"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp("videos")
    paths = [folder / f"{index}.mp4" for index in range(len(VIDEOS))]
    for path, (frames, height, width) in zip(paths, VIDEOS):
        if frames == 0:
            path.write_text("no video")
            continue
        generator = torch.Generator().manual_seed(frames + height)
        blocks = torch.randint(256, (frames, 3, height // 8, width // 8), dtype=torch.uint8, generator=generator)
        write_video(path, blocks.repeat_interleave(8, -1).repeat_interleave(8, -2))
    return with_video_column(list(map(str, paths)), LABELS)


@pytest.fixture(scope="module")
def processor():
    return ViDiDiVideoProcessor(num_frames=4, frame_stride=2, size=36, crop_size=32)


@pytest.fixture
def model():
    """An encoder whose BatchNorm has statistics of its own, in training mode."""
    torch.manual_seed(0)
    model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1), batch_norm="shared"))
    for _ in range(3):
        model(3 + 2 * torch.randn(4, 4, 3, 32, 32))
    return model.train()


def one_by_one(model, processor, rows, order, num_clips, orders=(0, 1, 2)):
    """The protocol in plain words: every clip alone through the network, then the mean over clips."""
    rescaled = order > 0 and model.config.derivative_scale == "unit"
    model = copy.deepcopy(model).eval()
    name = "pixel_values" if order == 0 else f"pixel_values_order_{order}"
    features = []
    for index in GOOD:
        clips = processor(rows[index]["video"], num_clips=num_clips, derivative_orders=orders)[name]
        assert clips.shape == (1, num_clips, 4, 3, 32, 32)
        scaled = [clip / clip.square().mean().sqrt() if rescaled else clip for clip in clips[0]]
        with torch.no_grad():  # order 0 is not rescaled
            features.append(sum(model(clip[None]).pooler_output[0] for clip in scaled) / num_clips)
    return torch.stack(features)


@pytest.mark.parametrize(
    ("orders", "num_clips", "batch_size", "num_workers", "scale"),
    [((0, 1, 2), 3, 2, 0, "none"), ((2, 1, 0), 2, 16, 2, "none"), ((1,), 2, 1, 0, "none"), ((0, 1), 2, 16, 0, "unit")],
)
def test_features_are_means_over_clips(orders, num_clips, batch_size, num_workers, scale, model, processor, rows):
    """The frames of a clip are chosen for the highest order: alone, order 1 has one frame to spare, not two."""
    settings = {"num_clips": num_clips, "batch_size": batch_size, "num_workers": num_workers}
    model.config.derivative_scale = scale
    found = extract_features(model, processor, rows, orders=orders, **settings)
    assert tuple(found.by_order) == orders
    for order in orders:
        expected = one_by_one(model, processor, rows, order, num_clips, orders)
        assert expected.std(dim=0).max() > 1e-3  # the videos do differ
        torch.testing.assert_close(found.by_order[order], expected, rtol=1e-4, atol=1e-5)
    assert found.rows.tolist() == GOOD


@pytest.mark.parametrize("batch_size", [1, 3, 16])  # with 1, a whole batch is broken
def test_broken_videos_are_skipped_and_labels_stay_with_their_videos(batch_size, model, processor, rows):
    found = extract_features(model, processor, rows, num_clips=1, batch_size=batch_size)
    assert found.rows.tolist() == GOOD
    assert len(found.by_order[0]) == len(GOOD)
    [(source, reason)] = found.broken.items()
    assert Path(source).name == "2.mp4"
    assert reason
    assert rows.features["label"].int2str(found.labels(rows).tolist()) == [LABELS[index] for index in GOOD]


def test_statistics_do_not_move_and_every_module_keeps_its_mode(model, processor, rows, monkeypatch):
    model.backbone.layer1.eval()  # like a frozen stage
    modes = [module.training for module in model.modules()]
    assert {*modes} == {True, False}
    before = copy.deepcopy(model.state_dict())
    extract_features(model, processor, rows, num_clips=1)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert [module.training for module in model.modules()] == modes

    def fail(*args, **kwargs):
        assert not any(module.training for module in model.modules())
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        extract_features(model, processor, rows, num_clips=1)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("num_workers", [0, 1])
def test_nothing_is_random(num_workers, model, processor, rows):
    state = torch.get_rng_state()
    first = extract_features(model, processor, rows, num_clips=2, num_workers=num_workers)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    second = extract_features(model, processor, rows, num_clips=2, num_workers=num_workers)
    assert torch.equal(first.by_order[0], second.by_order[0])


def test_features_are_full_precision_and_can_train_a_classifier(model, processor, rows):
    full = extract_features(model, processor, rows, num_clips=1).by_order[0]
    layer = nn.Linear(8, 3)
    layer(full).square().sum().backward()  # impossible for tensors of inference mode
    half = extract_features(model.to(torch.bfloat16), processor, rows, num_clips=1).by_order[0]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.05)


def test_failed_rows_are_told_apart_even_if_their_sources_are_equal(model, processor, rows):
    videos = rows.select_columns("video").cast_column("video", datasets.Video(decode=False))[:]["video"]
    some = with_video_column([videos[0]["path"], videos[2]["path"], None, videos[2]["path"]])
    clips = EvaluationClips(some, processor, num_clips=1, extra_frames=0)
    assert [good for good, _ in clips.batches(batch_size=2)] == [[0]]
    assert list(clips.broken) == [videos[2]["path"], "row 2"]
    assert list(clips.broken_rows) == [1, 2, 3]
    assert clips.broken_rows[2] == "there is no video in it"
    assert clips.broken_rows[1] == clips.broken_rows[3] == clips.broken[videos[2]["path"]]
    with pytest.raises(ValueError, match=r"none of the 2 videos can be decoded: .*2\.mp4: "):
        extract_features(model, processor, rows.select([2, 2]))


def test_orders_are_concatenated_each_at_unit_length():
    """So the cosine is the mean of the cosines of the orders."""
    generator = torch.Generator().manual_seed(0)
    frames, derivative = torch.randn(5, 3, generator=generator), 100 * torch.randn(5, 3, generator=generator)
    both = VideoFeatures({0: frames, 1: derivative}, torch.arange(5)).combined((0, 1))
    torch.testing.assert_close(both.norm(dim=1), torch.full((5,), 2**0.5))
    cosines = [torch.cosine_similarity(values[:, None], values[None], dim=-1) for values in (frames, derivative, both)]
    torch.testing.assert_close(cosines[2], (cosines[0] + cosines[1]) / 2)


def test_inputs_consist_of_orders():
    assert orders_of(["derivative"]) == [1]
    assert orders_of(["frames", "both"]) == orders_of(["ensemble"]) == [0, 1]
    assert single_inputs(["ensemble", "frames", "both"]) == ["frames", "derivative", "both"]
    with pytest.raises(ValueError, match="unknown input 'flow'; choose from frames, both"):
        check_inputs(["flow"], ["frames", "both"])
    with pytest.raises(ValueError, match="no inputs"):
        check_inputs([], ["frames"])


def labeled(labels, names=None):
    kind = datasets.ClassLabel(names=names) if names else None
    kind = kind or datasets.Value("string" if isinstance(labels[0], str) else "int64")
    return datasets.Dataset.from_dict({"label": labels}, features=datasets.Features({"label": kind}))


def test_labels_that_agree_are_left_alone():
    for pair in ((labeled([0, 1], ["a", "b"]), labeled([1, 1], ["a", "b"])), (labeled([5, 7]), labeled([7]))):
        assert with_class_labels(*pair) == pair


def test_other_labels_are_matched_by_name():
    text = labeled(["run", "sit", "run"])
    first, second = with_class_labels(text, text)
    assert first is second
    assert (first["label"][:], first.features["label"].names) == ([0, 1, 0], ["run", "sit"])
    known = labeled([0, 1], ["sit", "run"])
    train, test = with_class_labels(known, labeled([0, 1, 2], ["hop", "run", "sit"]))
    assert (train["label"][:], test["label"][:], label_names(test)) == ([0, 1], [2, 1, 0], ["hop", "run", "sit"])
    assert with_class_labels(known, labeled(["run"]))[1]["label"][:] == [1]


@pytest.mark.parametrize(
    ("labels", "names"), [([0, -1], ["a", "b"]), (["run", None], None), (["run", " "], None), ([0, 1], ["run", ""])]
)
def test_videos_without_a_label_are_counted(labels, names):
    bad = labeled(labels, names)
    with pytest.raises(ValueError, match="1 of 2 videos have no label"):
        with_class_labels(bad, bad)
