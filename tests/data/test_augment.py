"""Augmentation: each part against torchvision or an independent statement, and nothing that moves of its own accord."""

import math
import os
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tvf

from vididi_hf.data.augment import ClipAugmentation, color_map, random_resized_crop_box, resize

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
EVERYTHING = ClipAugmentation(image_size=48, jitter_probability=1.0, blur_probability=1.0)


def noise(num_frames=6, height=48, width=48, low=0, high=256):
    seeded = torch.Generator().manual_seed(0)
    return torch.randint(low, high, (num_frames, 3, height, width), dtype=torch.uint8, generator=seeded)


def smooth(num_frames=6, height=64, width=80):
    """Frames without saturated colors, so that no change of color is clipped."""
    return tvf.resize(noise(num_frames, 8, 10, low=70, high=180), [height, width], antialias=True)


@pytest.mark.parametrize(("height", "width"), [(120, 160), (160, 120), (240, 320), (48, 48), (7, 9), (1, 1), (5, 300)])
def test_every_box_lies_inside_the_frame(height, width):
    source = Random(0)
    for _ in range(300):
        top, left, box_height, box_width = random_resized_crop_box(height, width, AREA, RATIO, source)
        assert 0 <= top < top + box_height <= height
        assert 0 <= left < left + box_width <= width


def test_area_and_ratio_of_a_box_are_those_asked_for():
    """A small range of areas always fits, so that nothing is drawn again and the distributions are exact."""
    area, ratio, source = (0.1, 0.4), (0.5, 2.0), Random(0)
    boxes = [random_resized_crop_box(1000, 1000, area, ratio, source) for _ in range(3000)]
    heights, widths = (np.array([box[i] for box in boxes], dtype=float) for i in (2, 3))
    shares, shapes = heights * widths / 1e6, np.log(widths / heights)
    # Quantiles of a uniform distribution of the area and of the logarithm of the ratio.
    places = np.linspace(0, 1, 11)
    assert np.allclose(np.quantile(shares, places), 0.1 + 0.3 * places, atol=0.02)
    assert np.allclose(np.quantile(shapes, places), np.log(0.5) + np.log(4) * places, atol=0.09)
    assert abs(np.corrcoef(shares, shapes)[0, 1]) < 0.08


def test_a_box_falls_anywhere_that_it_fits():
    source = Random(0)
    boxes = [random_resized_crop_box(10, 10, (0.64, 0.64), (1.0, 1.0), source) for _ in range(900)]
    assert {box[2:] for box in boxes} == {(8, 8)}
    counts = np.zeros((3, 3), dtype=int)
    for top, left, _, _ in boxes:
        counts[top, left] += 1
    assert abs(counts - 100).max() < 50  # five standard deviations


@pytest.mark.parametrize(("height", "width", "expected"), [(30, 300, (0, 130, 30, 40)), (300, 30, (130, 0, 40, 30))])
def test_where_nothing_fits_the_box_is_the_largest_in_the_middle(height, width, expected):
    """The whole area of such a frame never fits into it at a ratio between 3/4 and 4/3."""
    boxes = {random_resized_crop_box(height, width, (1.0, 1.0), RATIO, Random(seed)) for seed in range(5)}
    assert boxes == {expected}


def test_the_crop_is_torchvisions_resize_of_the_box(no_augmentation):
    clip = smooth()
    augmentation = replace(no_augmentation, area=AREA, ratio=RATIO)
    for seed in range(5):
        top, left, height, width = random_resized_crop_box(64, 80, AREA, RATIO, Random(seed))
        expected = torch.stack([tvf.resized_crop(frame, top, left, height, width, [48, 48]) for frame in clip])
        difference = augmentation(clip, Random(seed)).int() - expected.int()
        assert difference.abs().max() <= 1  # both round after each axis, in another order


@pytest.mark.parametrize("shape", [(200, 301), (40, 200), (200, 40), (31, 47), (48, 48), (1, 1)])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_resizing_is_torchvisions_to_a_level(shape, memory_format):
    clip = noise(3, *shape).contiguous(memory_format=memory_format)
    resized = resize(clip, 48)
    assert resized.dtype == torch.uint8
    assert (resized.int() - tvf.resize(clip, [48, 48], antialias=True).int()).abs().max() <= 1
    exact = tvf.resize(clip.float(), [48, 48], antialias=True)
    assert (resized.float() - exact).abs().max() < 1.6


def test_flips_are_horizontal_and_happen_as_often_as_asked(no_augmentation):
    clip = noise()
    assert torch.equal(no_augmentation(clip, Random(0)), clip)
    assert torch.equal(replace(no_augmentation, flip_probability=1.0)(clip, Random(0)), tvf.horizontal_flip(clip))
    often, source = replace(no_augmentation, image_size=4, flip_probability=0.25), Random(0)
    small = noise(1, 4, 4)
    flipped = sum(torch.equal(often(small, source), small.flip(-1)) for _ in range(800))
    assert abs(flipped - 200) < 62  # five standard deviations


def apply(clip, *factors):
    changes = torch.tensor(color_map(*factors), dtype=torch.float32)
    return torch.einsum("ij,tjhw->tihw", changes[:, :3], clip.float()) + changes[:, 3:, None]


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_brightness_and_saturation_are_torchvisions(factor):
    assert np.allclose(color_map(1, 1, 1, 0), np.eye(3, 4), atol=1e-9)
    clip = smooth().float() / 255
    assert torch.allclose(apply(clip, factor, 1, 1, 0), tvf.adjust_brightness(clip, factor), atol=1e-5)
    assert torch.allclose(apply(clip, 1, 1, factor, 0), tvf.adjust_saturation(clip, factor), atol=1e-3)
    gray = apply(clip, 1, 1, 0, 0)
    assert torch.allclose(gray, tvf.rgb_to_grayscale(clip, num_output_channels=3), atol=1e-3)
    assert (gray[:, 0] - gray[:, 1]).abs().max() < 1e-5


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_contrast_scales_around_mid_gray(factor):
    """torchvision scales around the mean luma of the frame; they agree where that is mid gray."""
    clip = smooth(1).float()
    luma = (clip * torch.tensor([0.2989, 0.587, 0.114]).reshape(3, 1, 1)).sum(1).mean()
    clip = clip + (127.5 - luma) / 0.9999
    expected = tvf.adjust_contrast(clip / 255, factor) * 255
    assert torch.allclose(apply(clip, 1, factor, 1, 0), expected, atol=0.05)
    assert torch.allclose(apply(torch.full((1, 3, 2, 2), 127.5), 1, factor, 1, 0), torch.tensor(127.5))


@pytest.mark.parametrize("turn", [-0.05, 0.02, 0.05, 0.3])
def test_turning_the_hue_keeps_luma_and_grays_and_composes(turn):
    clip, luma = noise().float(), torch.tensor([0.299, 0.587, 0.114])
    turned = apply(clip, 1, 1, 1, turn)
    assert torch.allclose(torch.einsum("j,tjhw->thw", luma, turned), torch.einsum("j,tjhw->thw", luma, clip), atol=1e-2)
    gray = torch.full((1, 3, 2, 2), 90.0)
    assert torch.allclose(apply(gray, 1, 1, 1, turn), gray, atol=1e-2)
    assert (turned - clip).abs().mean() > 1
    assert torch.allclose(apply(turned, 1, 1, 1, 1 - turn), clip, atol=0.05)
    assert torch.allclose(apply(turned, 1, 1, 1, 0.15), apply(clip, 1, 1, 1, turn + 0.15), atol=0.05)


@pytest.mark.parametrize("turn", [-0.05, 0.05])
def test_a_small_turn_takes_colors_the_way_torchvisions_does(turn):
    colors = torch.tensor([[0.8, 0.3, 0.3], [0.3, 0.8, 0.3], [0.3, 0.3, 0.8], [0.8, 0.8, 0.3]]).reshape(4, 3, 1, 1)
    ours, theirs = apply(colors, 1, 1, 1, turn) - colors, tvf.adjust_hue(colors, turn) - colors
    assert (torch.cosine_similarity(ours.flatten(1), theirs.flatten(1)) > 0.2).all()


def test_the_steps_follow_one_another_as_documented():
    clip = smooth().float()
    stepwise = apply(apply(apply(apply(clip, 1, 1, 1, 0.04), 1, 1, 1.2, 0), 1, 0.9, 1, 0), 1.1, 1, 1, 0)
    assert torch.allclose(apply(clip, 1.1, 0.9, 1.2, 0.04), stepwise, atol=1e-3)


def solve_colors(before, after):
    """Least squares for the affine map of a frame's colors: (4, 3), matrix transposed and offset."""
    inputs = torch.cat([before.flatten(1).T.double(), torch.ones(before[0].numel(), 1, dtype=torch.float64)], 1)
    return torch.linalg.lstsq(inputs, after.flatten(1).T.double()).solution


def test_a_clip_gets_one_jitter_within_its_bounds(no_augmentation):
    clip = smooth(4, 48, 48)
    augmentation = replace(no_augmentation, jitter=(0.2, 0.0, 0.0, 0.0), jitter_probability=1.0)
    source = Random(0)
    factors = []
    for _ in range(100):
        solutions = torch.stack([solve_colors(a, b) for a, b in zip(clip, augmentation(clip, source))])
        # Equal but for what rounding does to the fit: weights, and offsets in levels of 255.
        assert (solutions - solutions[:1])[:, :3].abs().max() < 0.02
        assert (solutions - solutions[:1])[:, 3].abs().max() < 2
        factors.append(float(solutions[0, :3].diagonal().mean()))
    assert 0.79 < min(factors) < 0.85
    assert 1.15 < max(factors) < 1.21


@pytest.mark.parametrize(
    ("field", "probability"), [("jitter_probability", 0.8), ("gray_probability", 0.2), ("blur_probability", 0.5)]
)
def test_each_change_happens_as_often_as_asked(field, probability, no_augmentation):
    clip, source = noise(1, 8, 8), Random(0)
    augmentation = replace(no_augmentation, image_size=8, blur_sigma=(20.0, 20.0), **{field: probability})
    changed = sum(not torch.equal(augmentation(clip, source), clip) for _ in range(600))
    assert abs(changed - 600 * probability) < 5 * math.sqrt(600 * probability * (1 - probability))


@pytest.fixture
def blur(no_augmentation):
    """Blurs a clip of squares with a deviation in pixels, and does nothing else to it."""

    def blurred(clip, sigma):
        size = clip.shape[-1]
        sigmas = (sigma * 112 / size,) * 2
        return replace(no_augmentation, image_size=size, blur_probability=1.0, blur_sigma=sigmas)(clip, Random(0))

    return blurred


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 1.3, 2.0, 6.0])
def test_the_blur_is_torchvisions(sigma, blur):
    clip = noise(2, 112, 112)
    width = 2 * math.ceil(3 * sigma) + 1
    expected = tvf.gaussian_blur(clip.float(), [width, width], [sigma, sigma])
    assert (blur(clip, sigma).float() - expected).abs().max() < 0.51  # rounded once


@pytest.mark.parametrize("size", [1, 2, 5, 16, 40])
@pytest.mark.parametrize("sigma", [0.03, 0.7, 1.0, 9.0])
def test_the_blur_is_a_convolution_of_mirrored_lines(size, sigma, blur):
    clip, radius = noise(1, size, size), math.ceil(3 * sigma)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)

    def convolve(line):
        return np.convolve(np.pad(line, radius, mode="reflect"), taps / taps.sum(), mode="valid")

    rows = np.apply_along_axis(convolve, 2, clip[0].numpy().astype(float))
    expected = np.apply_along_axis(convolve, 1, rows)
    assert abs(blur(clip, sigma)[0].numpy() - expected).max() < 0.51


@pytest.mark.parametrize(("shape", "near"), [((24, 24), 2.0), ((20, 40), 2.0), ((96, 96), 0.5), ((60, 90), 0.5)])
def test_a_crop_is_blurred_at_the_smaller_size_and_it_looks_as_after_resizing(shape, near, no_augmentation):
    """What is enlarged is enlarged last: on average it differs by a level, where the blur takes away thirty."""
    clip, sigma = noise(2, *shape), 3.0
    augmentation = replace(no_augmentation, ratio=(0.5, 2.0), blur_probability=1.0, blur_sigma=(7.0, 7.0))
    box = random_resized_crop_box(*shape, augmentation.area, augmentation.ratio, Random(1))
    top, left, height, width = box
    resized = tvf.resize(clip[..., top : top + height, left : left + width].float(), [48, 48], antialias=True)
    expected = tvf.gaussian_blur(resized, [19, 19], [sigma, sigma])
    assert (resized - expected).abs().mean() > 12
    assert (augmentation(clip, Random(1)).float() - expected).abs().mean() < near


def test_the_blur_comes_before_the_colors(no_augmentation):
    """As in the authors' code. White stripes that are made brighter first are cut off, and blurred to less than 128."""
    stripes = (torch.arange(48) % 2 * 255).to(torch.uint8).expand(2, 3, 48, 48)
    blurred = replace(no_augmentation, blur_probability=1.0, blur_sigma=(9.0, 9.0))
    augmentation = replace(blurred, jitter_probability=1.0, jitter=(1.0, 0.0, 0.0, 0.0))
    brightest = max(float(augmentation(stripes, Random(seed)).float().mean()) for seed in range(20))
    assert 200 < brightest < 256


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="the threads of a process are only listed by Linux")
def test_no_threads_are_started():
    """Workers of a loader would have one pool each; and a process that has one must not be forked."""
    clip = noise(10, 240, 320)
    threads = len(os.listdir("/proc/self/task"))
    for seed in range(3):
        replace(EVERYTHING, image_size=224, flip_probability=1.0)(clip, Random(seed))
    assert len(os.listdir("/proc/self/task")) == threads


def test_the_result_is_written_where_it_shall_be():
    clip, places = noise(), torch.zeros(2, 6, 48, 48, 3, dtype=torch.uint8).movedim(-1, -3)
    augmentation = ClipAugmentation(image_size=48, jitter_probability=0.5)
    for seed in range(20):  # with and without blur and colors
        returned = augmentation(clip, Random(seed), out=places[1])
        assert returned.data_ptr() == places[1].data_ptr()
        assert torch.equal(places[1], augmentation(clip, Random(seed)))
    assert not places[0].any()
    with pytest.raises(ValueError, match="out must have its channels last in memory, got strides"):
        augmentation(clip, Random(0), out=places[1].contiguous())


@pytest.mark.parametrize("size", [32, 48, 112])
@pytest.mark.parametrize("shape", [(10, 3, 60, 80), (1, 3, 120, 90), (2, 3, 20, 20)])
def test_the_result_is_a_function_of_clip_and_generator_and_leaves_both_alone(size, shape, no_augmentation):
    clip = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    copy, before = clip.clone(), torch.get_rng_state()
    for augmentation in (replace(no_augmentation, image_size=size), replace(EVERYTHING, image_size=size)):
        first, again = (augmentation(clip, Random(1)) for _ in range(2))
        assert first.shape == (shape[0], 3, size, size)
        assert first.dtype == torch.uint8
        assert torch.equal(first, again)
    assert not torch.equal(first, augmentation(clip, Random(2)))
    assert torch.equal(clip, copy)
    assert torch.equal(before, torch.get_rng_state())


def test_what_rests_in_the_video_rests_in_the_clip():
    """The derivative of a static clip is exactly zero, whatever is drawn."""
    static = noise(1, 60, 80).expand(6, -1, -1, -1)
    for seed in range(40):
        clip = ClipAugmentation(image_size=32)(static, Random(seed)).float()
        assert clip.diff(dim=0).abs().max() == 0


def test_colors_per_frame_flicker_and_only_they(no_augmentation):
    static = smooth(1).expand(6, -1, -1, -1)
    flickering = replace(EVERYTHING, per_frame_color=True)
    assert all(flickering(static, Random(seed)).float().diff(dim=0).abs().mean() > 0.5 for seed in range(10))
    without = replace(flickering, jitter_probability=0.0, gray_probability=0.0)
    assert all(without(static, Random(seed)).float().diff(dim=0).abs().max() == 0 for seed in range(10))
    # Whether there is jitter is drawn once per clip.
    static = smooth(1, 8, 8).expand(6, -1, -1, -1)
    sometimes = replace(no_augmentation, image_size=8, jitter_probability=0.5, per_frame_color=True)
    clips = [sometimes(static, Random(seed)) for seed in range(40)]
    assert {sum(not torch.equal(frame, static[0]) for frame in clip) for clip in clips} == {0, 6}


def test_gray_wins_over_jittered_saturation(no_augmentation):
    gray = replace(no_augmentation, jitter_probability=1.0, gray_probability=1.0)(noise(), Random(0))
    assert (gray.max(dim=1).values.int() - gray.min(dim=1).values).max() <= 1


def test_per_frame_gray_is_drawn_for_each_frame(no_augmentation):
    clip = noise(8, 8, 8)
    augmentation = replace(no_augmentation, image_size=8, gray_probability=0.5, per_frame_color=True)
    frames = torch.cat([augmentation(clip, Random(seed)) for seed in range(40)])
    is_gray = frames.int().diff(dim=1).abs().amax(dim=(1, 2, 3)) <= 1
    assert abs(int(is_gray.sum()) - 160) < 45  # five standard deviations
    assert all(torch.equal(frame, clip[i % 8]) != is_gray[i] for i, frame in enumerate(frames))
