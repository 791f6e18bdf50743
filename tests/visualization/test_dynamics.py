"""Figures are read back: what is in the images, their titles and their labels."""

import numpy as np
import pytest
import torch

from vididi_hf.visualization import plot_derivatives, plot_taylor


def pixels(axis):
    """The image of an axis as (3, height, width) numbers."""
    return axis.images[0].get_array().astype(float).transpose(2, 0, 1)


def random_clip(frames, height=6, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (frames, 3, height, width), dtype=torch.uint8, generator=generator)


def uniform_clip(levels):
    """Frames of one gray level each."""
    return torch.tensor(levels, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 6, 8)


def test_derivatives_are_signed_around_gray_and_scaled_by_row():
    clip = random_clip(7)
    values = clip.numpy().astype(float)
    first = values[1:6] - values[:5]
    second = values[2:] - 2 * values[1:6] + values[:5]
    axes = plot_derivatives(clip, max_order=2).axes
    assert len(axes) == 3 * 5
    assert [axis.get_title() for axis in axes[:5]] == [f"frame {number}" for number in range(5)]
    for axis, frame in zip(axes[:5], clip):
        np.testing.assert_array_equal(pixels(axis), frame.numpy())
    for row, expected, name in ((1, first, "∂V"), (2, second, "∂²V")):
        limit = np.quantile(np.abs(expected), 0.995)
        for axis, frame in zip(axes[5 * row : 5 * row + 5], expected):
            np.testing.assert_allclose(pixels(axis), np.clip(127.5 + 127.5 * frame / limit, 0, 255), atol=0.51)
        assert axes[5 * row].get_ylabel() == f"{name}\n±{limit:.0f}"


def test_scale_of_derivatives():
    clip = random_clip(4)
    there, back = (plot_derivatives(frames, max_order=1).axes[3:] for frames in (clip, 255 - clip))
    for one, other in zip(there, back):
        np.testing.assert_allclose(pixels(one) + pixels(other), 255, atol=1.01)  # symmetric
    clip = uniform_clip([0, 10, 20, 30]).clone()
    clip[0, 0, 0, 0] = 255
    assert plot_derivatives(clip, max_order=1).axes[3].get_ylabel() == "∂V\n±10"  # one flash does not set it
    axes = plot_derivatives(uniform_clip([80] * 4), max_order=2).axes
    for axis in axes[2:]:
        np.testing.assert_allclose(pixels(axis), 127.5, atol=0.5)
    assert axes[2].get_ylabel() == "∂V\n±1"  # the noise of a still video is not blown up
    axes = plot_derivatives(random_clip(13), max_order=12).axes
    assert [axes[row].get_ylabel().split("\n")[0] for row in (3, 12)] == ["∂³V", "∂¹²V"]


def test_quadratic_video():
    """V(t) = t² + 3 from t = 0; known until t = 4, then 28, 39, 52."""
    axes = plot_taylor(uniform_clip([3, 4, 7, 12, 19, 28, 39, 52]), order=2, horizon=3).axes
    assert len(axes) == 4 * 4
    assert [axis.get_title() for axis in axes[:4]] == ["t", "t + 1", "t + 2", "t + 3"]
    assert [axis.get_ylabel() for axis in axes[::4]] == ["video", "order 0", "order 1", "order 2"]
    shown = [[pixels(axis).mean() for axis in axes[4 * row : 4 * row + 4]] for row in range(4)]
    assert shown[0] == [19, 28, 39, 52]
    assert shown[1] == [19, 19, 19, 19]
    assert shown[2][1:] == [19 + 7, 19 + 14, 19 + 21]
    assert shown[3][1:] == [28, 39, 52]
    errors = [[float(axis.get_xlabel()) for axis in axes[4 * row + 1 : 4 * row + 4]] for row in (1, 2, 3)]
    assert errors == [[9, 20, 33], [2, 6, 12], [0, 0, 0]]
    assert [axes[4 * row].get_xlabel() for row in (1, 2, 3)] == ["V(t)", "∂V(t)", "∂²V(t)"]


def test_error_is_a_root_mean_square_of_what_was_predicted_and_the_best_is_bold():
    clip = random_clip(4)
    values = clip.numpy().astype(float)
    axes = plot_taylor(clip, order=1, horizon=2).axes
    expected = []
    for order in (0, 1):
        predicted = [values[1] + order * step * (values[1] - values[0]) for step in (1, 2)]
        expected.append([np.sqrt(np.mean((predicted[i] - values[2 + i]) ** 2)) for i in (0, 1)])
    labels = [[axis.xaxis.label for axis in axes[row : row + 2]] for row in (4, 7)]
    assert [[label.get_text() for label in row] for row in labels] == [[f"{x:.1f}" for x in row] for row in expected]
    bold = np.array([[label.get_weight() == "bold" for label in row] for row in labels])
    np.testing.assert_array_equal(bold, expected == np.min(expected, axis=0))


def test_predictions_beyond_black_and_white_are_shown_as_these():
    axes = plot_taylor(uniform_clip([0, 200, 0]), order=1, horizon=1).axes
    assert pixels(axes[5]).mean() == 255
    assert axes[5].get_xlabel() == "400.0"


@pytest.mark.parametrize(
    ("plot", "clip", "message"),
    [
        (plot_derivatives, random_clip(4).float(), r"expected uint8 .*, got torch\.float32 \(4, 3, 6, 8\)"),
        (plot_derivatives, random_clip(4)[:, :1], r"got torch\.uint8 \(4, 1, 6, 8\)"),
        (plot_derivatives, random_clip(2), "up to order 2 need at least 3 frames, got 2"),
        (plot_taylor, random_clip(6), "order 2 and horizon 4 need at least 7 frames, got 6"),
    ],
)
def test_impossible_clips(plot, clip, message):
    with pytest.raises(ValueError, match=message):
        plot(clip)
