"""Saliency against its formula written out, and against videos in which it is known where there is anything to see."""

import math

import numpy as np
import pytest
import torch

from vididi_hf import ViDiDiConfig, ViDiDiModel
from vididi_hf.visualization import plot_saliency, share_on_motion, video_saliency


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 8, 8, 16), depths=(1, 1, 1, 1), image_size=32))


def moving_patch(frames=8, size=48):
    """A textured square of 10 pixels that moves from left to right over a uniform background, and where it is."""
    generator = torch.Generator().manual_seed(0)
    texture = torch.randn(3, 10, 10, generator=generator) * 2
    video, where = torch.full((frames, 3, size, size), 0.3), torch.zeros(frames, size, size, dtype=torch.bool)
    for frame in range(frames):
        left = 2 + frame * (size - 14) // (frames - 1)
        video[frame, :, 19:29, left : left + 10] = texture
        where[frame, 19:29, left : left + 10] = True
    return video, where


class TestVideoSaliency:
    @pytest.mark.parametrize("order", [0, 1])
    def test_formula(self, model, order):
        """Every step of the definition in other words than the code's: one point of the path at a time."""
        torch.manual_seed(1)
        video = torch.randn(4 + order, 3, 32, 36)

        def blurred(values, axis, deviation):
            size = values.shape[axis]
            lines = np.moveaxis(values, axis, 0)
            weights = [[math.exp(-((i - j) ** 2) / (2 * deviation**2)) for j in range(size)] for i in range(size)]
            return np.moveaxis(np.stack([np.average(lines, axis=0, weights=row) for row in weights]), 0, axis)

        still = video.double().numpy().mean(0)
        still = torch.from_numpy(blurred(blurred(still, 1, 8.0), 2, 8.0)).float()[None].expand_as(video)
        model.eval()

        def embed(frames):
            for _ in range(order):
                frames = frames[1:] - frames[:-1]
            return model(frames[None], derivative_order=order).pooler_output[0]

        difference = (embed(video) - embed(still)).detach()
        slopes = []
        for place in (1 / 6, 1 / 2, 5 / 6):
            point = (1 - place) * still + place * video
            point.requires_grad_()
            slopes += torch.autograd.grad(embed(point) @ difference, point)
        shares = ((video - still) * torch.stack(slopes).mean(0)).sum(1) / difference.square().sum()
        found = video_saliency(model, video, derivative_order=order, steps=3, smoothing=(0, 0))
        np.testing.assert_allclose(found.numpy(), shares.numpy(), rtol=1e-3, atol=1e-5)
        smooth = blurred(blurred(blurred(shares.numpy(), 0, 1.5), 1, 3.2), 2, 3.2)
        found = video_saliency(model, video, derivative_order=order, steps=3, smoothing=(1.5, 0.1))
        np.testing.assert_allclose(found.numpy(), smooth.clip(min=0), rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("order", [0, 1])
    def test_shares_add_up_to_what_the_video_makes_of_the_embedding(self, model, order):
        video, _ = moving_patch(8 + order)
        shares = video_saliency(model, video, derivative_order=order, steps=48, smoothing=(0, 0))
        assert shares.sum() == pytest.approx(1, abs=0.05)

    @pytest.mark.parametrize("order", [0, 1])
    def test_finds_the_only_thing_there_is_in_space_and_time(self, model, order):
        video, where = moving_patch(8 + order)
        found = video_saliency(model, video, derivative_order=order)
        peaks = [divmod(int(frame.argmax()), 48) for frame in found]
        centers = [frame.nonzero().float().mean(0).tolist() for frame in where]
        distances = [math.dist(peak, center) for peak, center in zip(peaks, centers)]
        assert sorted(distances)[len(distances) // 2] < 7
        assert found[where].sum() > 6 * where.float().mean() * found.sum()
        far = torch.ones_like(where)
        far[:, 8:40] = False
        assert found[far].max() < 0.05 * found.max()

    def test_nothing_to_see_is_nothing(self, model):
        assert not video_saliency(model, torch.full((8, 3, 32, 32), 0.7)).any()

    def test_repeats_itself_and_leaves_the_model_as_it_was(self, model):
        video, _ = moving_patch()
        model.train()
        norm = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm3d))
        before = norm.running_mean.clone()
        with torch.no_grad():  # as in a notebook that only looks
            found = video_saliency(model, video)
        assert torch.equal(found, video_saliency(model, video))
        assert model.training
        assert torch.equal(norm.running_mean, before)
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not found.requires_grad


def clip_of(frames=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (frames, 3, 8, 12), dtype=torch.uint8, generator=generator)


def spot(frame, rows, columns, frames=3):
    saliency = torch.zeros(frames, 4, 6)
    saliency[frame, rows, columns] = 0.02
    return saliency


def pixels(axis):
    return axis.images[0].get_array().astype(float)


def test_share_on_motion():
    clip = torch.full((3, 3, 2, 4), 100, dtype=torch.uint8)
    clip[1, :, 0, 0] = 109  # changes from frame 0 to 1 and back: in all three frames
    clip[2, :, 1, 3] = 108  # too little
    weights = torch.ones(3, 2, 4)
    weights[:, 0, 0] = 9
    assert share_on_motion(weights, clip) == pytest.approx((27 / 48, 1 / 8))
    assert share_on_motion(weights, clip, threshold=7.5)[1] == pytest.approx((3 + 2) / 24)
    assert share_on_motion(0 * weights, clip)[0] == 0


def test_color_is_where_the_encoder_looks_and_the_rest_is_the_clip_in_gray():
    clip = clip_of()
    figure = plot_saliency(clip, {"baseline": spot(0, 0, 0), "ViDiDi": 100 * spot(2, 3, 5), "blind": 0 * spot(0, 0, 0)})
    axes = figure.axes
    assert len(axes) == 4 * 3
    assert [axis.get_ylabel() for axis in axes[::3]] == ["video", "baseline", "ViDiDi", "blind"]
    assert [axis.get_title() for axis in axes[:3]] == ["frame 0", "frame 1", "frame 2"]
    for axis, frame in zip(axes, clip):
        np.testing.assert_array_equal(pixels(axis), frame.permute(1, 2, 0).numpy())
    colorful = [np.ptp(pixels(axis), axis=-1) for axis in axes[3:]]
    assert [image.max() > 50 for image in colorful] == [True, False, False, False, False, True, False, False, False]
    assert colorful[0][:2, :2].min() > 50 > 0 == colorful[0][4:, 4:].max()
    assert colorful[5][-2:, -2:].min() > 50  # each encoder has its own scale
    np.testing.assert_allclose(pixels(axes[4])[..., 0], clip[1].float().mean(0).numpy(), atol=0.51)


def test_frames_that_a_derivative_used_up_are_left_out():
    axes = plot_saliency(clip_of(2), {"ViDiDi": spot(1, 3, 5)}).axes
    assert len(axes) == 2 * 2
    assert np.ptp(pixels(axes[3]), axis=-1).max() > 50


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: video_saliency(model, torch.zeros(4, 3, 32, 32), steps=0), "steps must be at least 1, got 0"),
        (lambda model: video_saliency(model, torch.zeros(1, 4, 3, 32, 32)), r"got \(1, 4, 3, 32, 32\)"),
        (lambda _: share_on_motion(torch.zeros(2, 4, 4), clip_of(2)), r"got \(2, 4, 4\) of \(2, 3, 8, 12\)"),
        (lambda _: plot_saliency(clip_of(), {"A": torch.zeros(2, 4, 6)}), r"'A' has shape \(2, 4, 6\), the clip 3"),
    ],
)
def test_impossible(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)
