"""Which frames a clip takes, as properties over many video lengths."""

from random import Random

import pytest
import torch

from vididi_hf.data.clips import sample_training_clips, uniform_clips

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
        uniform = uniform_clips(length, num_clips, num_frames, stride, extra_frames)
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


def test_tiny_videos_loop_in_order():
    assert uniform_clips(3, 1, 8, 1)[0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert uniform_clips(3, 1, 8, 3)[0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert uniform_clips(2, 1, 6, 3, extra_frames=1)[0].tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert uniform_clips(15, 1, 8, 3)[0].tolist() == [0, 3, 6, 9, 12, 0, 3, 6]
    assert sample_training_clips(3, 2, 4, 3, Random(0), 1).tolist() == [[0, 1, 2, 0, 1], [1, 2, 0, 1, 2]]
    assert uniform_clips(10, 5, 16, 4)[:, 0].tolist() == [0, 2, 4, 6, 8]
    assert sample_training_clips(1, 2, 8, 3, Random(0), 2).eq(0).all()
    assert uniform_clips(1, 10, 16, 4, 1).eq(0).all()


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6])
def test_a_loop_never_runs_backwards(length):
    """A step of more than half the length would look like a step back."""
    steps = uniform_clips(length, 1, 12, 5)[0].diff() % length
    assert (steps > 0).all()
    assert (steps <= length / 2).all()
