"""A saliency picture is read back: where there is color, and where the clip is gray."""

import doctest

import numpy as np
import pytest
import torch

from vididi_hf.visualization import plot_saliency, saliency_pictures


def clip_of(frames=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (frames, 3, 8, 12), dtype=torch.uint8, generator=generator)


def spot(frame, rows, columns, frames=3):
    saliency = torch.zeros(frames, 4, 6)
    saliency[frame, rows, columns] = 0.02
    return saliency


def pixels(axis):
    return axis.images[0].get_array().astype(float)


def test_rows_are_the_video_and_each_encoder():
    clip = clip_of()
    axes = plot_saliency(clip, {"baseline": spot(0, 0, 0), "ViDiDi": spot(2, 3, 5)}).axes
    assert len(axes) == 3 * 3
    assert [axis.get_ylabel() for axis in axes[::3]] == ["video", "baseline", "ViDiDi"]
    assert [axis.get_title() for axis in axes[:3]] == ["frame 0", "frame 1", "frame 2"]
    for axis, frame in zip(axes, clip):
        np.testing.assert_array_equal(pixels(axis), frame.permute(1, 2, 0).numpy())


def test_color_is_where_the_encoder_looks_and_the_rest_is_the_clip_in_gray():
    clip = clip_of()
    axes = plot_saliency(clip, {"baseline": spot(0, 0, 0), "ViDiDi": spot(2, 3, 5)}).axes
    colorful = [np.ptp(pixels(axis), axis=-1) for axis in axes[3:]]
    assert [bool(image.max() > 50) for image in colorful] == [True, False, False, False, False, True]
    assert colorful[0][:2, :2].min() > 50 > 0 == colorful[0][4:, 4:].max()
    assert colorful[5][-2:, -2:].min() > 50
    np.testing.assert_allclose(pixels(axes[4])[..., 0], clip[1].float().mean(0).numpy(), atol=0.51)


def test_each_encoder_has_its_own_scale():
    clip = clip_of()
    one = plot_saliency(clip, {"a": spot(0, 0, 0)}).axes
    other = plot_saliency(clip, {"a": 100 * spot(0, 0, 0)}).axes
    np.testing.assert_array_equal(pixels(one[3]), pixels(other[3]))


def test_frames_that_a_derivative_used_up_are_left_out():
    axes = plot_saliency(clip_of(2), {"ViDiDi": spot(1, 3, 5)}).axes
    assert len(axes) == 2 * 2
    assert np.ptp(pixels(axes[3]), axis=-1).max() > 50


def test_an_encoder_that_sees_nothing_is_gray():
    axes = plot_saliency(clip_of(), {"blind": torch.zeros(3, 4, 6)}).axes
    assert max(np.ptp(pixels(axis), axis=-1).max() for axis in axes[3:]) == 0


def test_shapes_must_fit():
    with pytest.raises(ValueError, match=r"saliency of 'ViDiDi' to be \(at least 3 frames.*got \(2, 4, 6\)"):
        plot_saliency(clip_of(), {"ViDiDi": torch.zeros(2, 4, 6)})


def test_examples():
    assert doctest.testmod(saliency_pictures).failed == 0
