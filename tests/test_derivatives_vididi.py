"""Temporal derivatives and Taylor expansion against NumPy, binomial sums and exact polynomials."""

import math

import numpy as np
import pytest
import torch

from vididi_hf.derivatives_vididi import derivative_view, rescale_derivative, taylor_expand, temporal_derivative


def random_video(frames=9, lead=(2,), dtype=torch.float64):
    return torch.rand(*lead, frames, 3, 4, 5, dtype=dtype, generator=torch.Generator().manual_seed(0))


def polynomial_video(degree, times):
    """A video whose pixels are random polynomials in time, and a function that gives its derivatives."""
    coefficients = np.random.default_rng(degree).normal(size=(degree + 1, 2, 3, 3))

    def derivative(order):
        pixels = np.zeros((len(times), 2, 3, 3))
        for power in range(order, degree + 1):
            falling = math.prod(range(power - order + 1, power + 1))
            pixels += falling * coefficients[power] * (np.asarray(times) ** (power - order))[:, None, None, None]
        return torch.from_numpy(pixels)

    return derivative


@pytest.mark.parametrize("order", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_forward_is_numpy_diff(order, lead):
    video = random_video(lead=lead)
    expected = np.diff(video.numpy(), n=order, axis=-4)
    torch.testing.assert_close(temporal_derivative(video, order), torch.from_numpy(expected))


@pytest.mark.parametrize("order", [1, 2, 3, 4, 6])
def test_forward_is_the_alternating_binomial_sum(order):
    video = random_video(lead=())
    expected = [
        sum((-1) ** (order - j) * math.comb(order, j) * video[n + j] for j in range(order + 1))
        for n in range(len(video) - order)
    ]
    torch.testing.assert_close(temporal_derivative(video, order), torch.stack(expected))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_derivatives_of_polynomials_of_their_degree_are_exact(order):
    exact = polynomial_video(order, np.arange(10))
    forward = temporal_derivative(exact(0), order)
    torch.testing.assert_close(forward, exact(order)[: len(forward)], rtol=1e-9, atol=1e-9)


def test_integer_differences_do_not_wrap():
    video = torch.tensor([200, 10, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
    derivative = temporal_derivative(video)
    assert derivative.dtype == torch.float32
    assert derivative.flatten().tolist() == [-190.0, 245.0]
    assert temporal_derivative(video, 0).dtype == torch.float32
    assert taylor_expand(video, 1, 1).flatten().tolist() == [500.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_dtype_and_device_are_kept(dtype, device):
    video = random_video(dtype=torch.float32).to(device=device, dtype=dtype)
    results = [temporal_derivative(video, 2), derivative_view(video, 1, 4), taylor_expand(video, 2, 3)]
    assert all(result.dtype == dtype and result.device.type == device for result in results)


def test_gradients():
    small = torch.rand(5, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: temporal_derivative(v, 3), small)
    assert torch.autograd.gradcheck(lambda v: taylor_expand(v, 2, 2), small)


def test_order_zero_and_scale_none_copy_nothing():
    video = random_video()
    assert temporal_derivative(video, 0) is video
    assert rescale_derivative(video, 0, "unit") is video
    assert rescale_derivative(video, 1, "none") is video
    for order in (0, 1, 2):  # views of every order share a shape and a start
        view = derivative_view(video, order, num_frames=6)
        np.testing.assert_allclose(view.numpy(), np.diff(video.numpy(), n=order, axis=1)[:, :6])


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_unit_scale_is_each_clips_root_mean_square(lead):
    clips = temporal_derivative(random_video(lead=lead), 1) + 0.3
    clips = clips * torch.arange(1, clips[..., 0, 0, 0, 0].numel() + 1).reshape(*lead, 1, 1, 1, 1)
    scaled = rescale_derivative(clips, 1, "unit").numpy().reshape(-1, 8, 3, 4, 5)
    for clip, result in zip(clips.numpy().reshape(-1, 8, 3, 4, 5), scaled):
        np.testing.assert_allclose(result, clip / np.linalg.norm(clip.ravel()) * np.sqrt(clip.size))


def test_unit_scale_does_not_take_noise_for_motion():
    """Differences of a tenth of a gray level become a tenth; nothing at all stays nothing, and has a gradient."""
    level = 1 / 255 / 0.225
    noise = level / 10 * (-1.0) ** torch.arange(8 * 3 * 4 * 5).reshape(8, 3, 4, 5)
    torch.testing.assert_close(rescale_derivative(noise, 1, "unit"), noise / level)
    nothing = torch.zeros(8, 3, 4, 5, requires_grad=True)
    rescale_derivative(nothing, 1, "unit").sum().backward()
    torch.testing.assert_close(nothing.grad, torch.full_like(nothing, 1 / level))


def test_unit_scale_in_half_precision():
    """Thousands of squares of numbers that half precision holds, whose sum it does not."""
    clip = torch.full((4, 3, 64, 64), 100.0, dtype=torch.float16)
    scaled = rescale_derivative(clip, 2, "unit")
    assert scaled.dtype == torch.float16
    assert torch.equal(scaled, torch.ones_like(clip))


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4, 6])
def test_taylor_continues_polynomials_exactly(order):
    past, horizon = order + 3, 4
    exact = polynomial_video(order, np.arange(past + horizon))(0)
    predicted = taylor_expand(exact[:past], order, horizon)
    torch.testing.assert_close(predicted, exact[past:], rtol=1e-8, atol=1e-8)


def test_taylor_is_the_sum_of_the_textbook_backward_stencils():
    video = random_video()
    last, before, first = video[:, -1], video[:, -2], video[:, -3]
    velocity = 1.5 * last - 2 * before + 0.5 * first
    acceleration = last - 2 * before + first
    expected = torch.stack([last + h * velocity + h**2 / 2 * acceleration for h in (1, 2, 3)], dim=1)
    torch.testing.assert_close(taylor_expand(video, 2, 3), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: temporal_derivative(v, 9), "order 9 needs at least 10 frames, got 9"),
        (lambda v: derivative_view(v, 2, 8), "needs at least 10 frames, got 9"),
        (lambda v: derivative_view(v, 2, 0), "num_frames must be at least 1, got 0"),
        (lambda v: taylor_expand(v, 9, 1), "order 9 needs at least 10 frames, got 9"),
        (lambda v: taylor_expand(v, 1, 0), "horizon must be at least 1, got 0"),
        (lambda v: temporal_derivative(v, -1), "order must be an integer of at least 0, got -1"),
        (lambda v: temporal_derivative(v, 1.5), "order must be an integer of at least 0, got 1.5"),
        (lambda v: temporal_derivative(v[0, 0]), r"got the shape \(3, 4, 5\)"),
        (lambda v: rescale_derivative(v, 1, "half"), "scale must be one of none, unit, got 'half'"),
    ],
)
def test_impossible_requests_name_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_video())


@pytest.mark.parametrize("order", [5, 12, 20])
def test_an_expansion_of_high_order_is_exact_or_refused(order):
    times = torch.arange(order + 5, dtype=torch.float64)
    video = ((times / len(times)).unsqueeze(1) ** torch.arange(order + 1)).sum(1)
    frames = video[: order + 1].reshape(-1, 1, 1, 1)
    assert taylor_expand(frames, order, 4).flatten().tolist() == pytest.approx(video[order + 1 :].tolist(), rel=1e-7)
    whole = torch.arange(order + 1.0).reshape(-1, 1, 1, 1)  # of whole numbers, even float32 is exact
    if order < 20:
        assert taylor_expand(whole, order, 1).flatten().tolist() == [order + 1]
    else:
        with pytest.raises(ValueError, match=r"too large for torch.float32: lower order or horizon"):
            taylor_expand(whole, order, 4)
