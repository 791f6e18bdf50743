"""Which frames a clip takes, as properties over many video lengths."""

import math
from random import Random

import pytest
import torch

from vididi_hf.clips_vididi import centered_clip, frame_step, nearest_frames, sample_training_clips, uniform_clips

LENGTHS = [1, 2, 3, 4, 5, 7, 15, 27, 28, 29, 40, 46, 47, 51, 52, 53, 54, 60, 300]
SHAPES = [(2, 8, 3, 0), (2, 8, 3, 2), (1, 8, 3, 1), (3, 4, 2, 2), (2, 16, 4, 1), (10, 16, 4, 2), (2, 1, 1, 0)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("length", LENGTHS)
def test_shape_and_bounds(length, shape):
    num_clips, num_frames, stride, extra_frames = shape
    for seed in range(3):
        training = sample_training_clips(length, num_clips, num_frames, stride, Random(seed), extra_frames)
        uniform = uniform_clips(length, num_clips, num_frames, stride, extra_frames)
        for clips in (training, uniform):
            assert clips.shape == (num_clips, num_frames + extra_frames)
            assert clips.dtype == torch.int64
            assert clips.min() >= 0
            assert clips.max() < length


@pytest.mark.parametrize("shape", SHAPES)
def test_stride_is_constant_when_one_clip_fits(shape):
    num_clips, num_frames, stride, extra_frames = shape
    span = (num_frames + extra_frames - 1) * stride + 1
    for length in [span, span + 1, span + 30, 10 * span]:
        training = sample_training_clips(length, num_clips, num_frames, stride, Random(0), extra_frames)
        uniform = uniform_clips(length, num_clips, num_frames, stride, extra_frames)[:, :num_frames]
        assert (training.diff(dim=1) == stride).all()
        assert (uniform.diff(dim=1) == stride).all()


@pytest.mark.parametrize("extra_frames", [0, 1, 2])
@pytest.mark.parametrize("length", [52, 53, 60, 300])
def test_training_clips_are_adjacent_and_do_not_overlap(length, extra_frames):
    """2 clips of 8 frames at stride 3 and 2 more frames span (16 + 2 - 1) * 3 + 1 = 52 frames."""
    for seed in range(20):
        first, second = sample_training_clips(length, 2, 8, 3, Random(seed), extra_frames)
        assert second[0] - first[7] == 3
        assert not set(first[:8].tolist()) & set(second[:8].tolist())
        # The extra frames of the first clip are the first frames of the second.
        assert first[8:].tolist() == second[:extra_frames].tolist()


def test_start_is_uniform_over_all_places_that_fit_and_depends_on_the_generator_only():
    rng = Random(0)
    starts = [int(sample_training_clips(52 + 4, 2, 8, 3, rng, extra_frames=2)[0, 0]) for _ in range(1000)]
    counts = torch.bincount(torch.tensor(starts), minlength=5)
    assert counts.shape == (5,)
    assert (counts - 200).abs().max() < 60  # five standard deviations
    first, again, other = (sample_training_clips(300, 2, 8, 3, Random(seed), 2) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_clips_overlap_as_little_as_a_short_video_allows():
    """One clip with its extra frames spans 28 frames; up to 52 frames, the clips are at the two ends."""
    for length in range(28, 60):
        first, second = sample_training_clips(length, 2, 8, 3, Random(0), extra_frames=2)
        assert second[0] - first[0] == min(length - 28, 24)
        if length < 52:
            assert (first[0], second[-1]) == (0, length - 1)


def test_uniform_clips_reach_both_ends_evenly_and_one_clip_is_centered():
    clips = uniform_clips(300, 10, 16, 4)
    assert clips[0, 0] == 0
    assert clips[-1, -1] == 299
    assert set(clips[:, 0].diff().tolist()) <= {26, 27}  # (300 - 61) / 9 = 26.6
    for length in (22, 23, 40, 301):
        clip = uniform_clips(length, 1, 8, 3)[0]
        assert abs(int(clip[0]) - (length - 1 - int(clip[-1]))) <= 1


@pytest.mark.parametrize("stride", [1, 3, 7, 2.5])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9, 15, 21, 22])
def test_a_short_video_is_sampled_from_end_to_end_without_a_jump(length, stride):
    """Clips of 8 frames: distinct as long as there are 8, and otherwise repeated evenly. Nothing wraps around."""
    for clips in (uniform_clips(length, 3, 8, stride), sample_training_clips(length, 2, 6, stride, Random(0), 2)):
        frames = nearest_frames(clips.double())
        steps = frames.diff(dim=1)
        assert (steps >= 0).all()
        assert steps.max() - steps.min() <= 1
        assert (length < 8) or (steps > 0).all()
        if length <= 7 * stride + 1:
            assert (frames[:, 0] == 0).all()
            assert (frames[:, -1] == length - 1).all()
        assert steps.max() <= max(1, math.ceil(stride))


@pytest.mark.parametrize("stride", [3, 2.4])
@pytest.mark.parametrize("length", [1, 5, 8, 20, 22, 24, 30, 300])
def test_extra_frames_do_not_move_clips(length, stride):
    alone = uniform_clips(length, 4, 8, stride)
    center = centered_clip(length // 2, length, 8, stride)
    for extra_frames in (1, 2, 5):
        assert torch.equal(uniform_clips(length, 4, 8, stride, extra_frames)[:, :8], alone)
        assert torch.equal(centered_clip(length // 2, length, 8, stride, extra_frames)[:8], center)


@pytest.mark.parametrize("frame_rate", [12.5, 23.976, 24, 25, 29.97, 30, 50, 60, 120])
def test_an_interval_in_seconds_gives_the_frames_nearest_in_time(frame_rate):
    """Also after rounding: 3 frames at 25 fps are 0.12 s."""
    step = frame_step(8, frame_rate, 3, 0.12)
    length = round(10 * frame_rate)
    for clips in (uniform_clips(length, 7, 8, step), sample_training_clips(length, 2, 8, step, Random(1), 1)):
        seconds = nearest_frames(clips) / frame_rate
        expected = seconds[0, 0] + (clips - clips[0, 0]) / frame_rate
        assert (seconds - expected).abs().max() <= 0.52 / frame_rate
        steps = clips.diff(dim=1) / frame_rate
        torch.testing.assert_close(steps, torch.full_like(steps, 0.12), rtol=0, atol=1e-6)
    if frame_rate == 25:
        assert torch.equal(nearest_frames(uniform_clips(length, 7, 8, step, 1)), uniform_clips(length, 7, 8, 3, 1))
        by_stride = sample_training_clips(length, 2, 8, 3, Random(1), 1)
        assert torch.equal(nearest_frames(sample_training_clips(length, 2, 8, step, Random(1), 1)), by_stride)


def test_a_frame_rate_below_the_interval_warns_with_one_text_for_all_files(recwarn):
    assert frame_step(8, 8.5, 3, 0.12) == pytest.approx(1.02)
    assert frame_step(8, None, 3, 0.12) == frame_step(8, 30, 3, None) == 3
    assert not recwarn
    frame_step(8, 5.0, 3, 0.12)
    frame_step(8, 6.0, 3, 0.12)
    assert len({str(warning.message) for warning in recwarn}) == 1
