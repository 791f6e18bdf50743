"""Boxes follow the pixels: what a box encloses before augmentation, it encloses afterwards."""

import doctest
from random import Random

import pytest
import torch

from vididi_hf.detection import augment as module
from vididi_hf.detection.augment import BoxAugmentation

HEIGHT, WIDTH = 60, 90
# Red, green and blue squares: left, top, right, bottom in pixels.
MARKS = {0: (10, 20, 30, 50), 1: (50, 5, 80, 35), 2: (70, 45, 85, 58)}
BOXES = torch.tensor([[x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT] for x1, y1, x2, y2 in MARKS.values()])


@pytest.fixture
def clip():
    frames = torch.zeros(3, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    for channel, (x1, y1, x2, y2) in MARKS.items():
        frames[:, channel, y1:y2, x1:x2] = 255
    return frames


def marked(clip, channel):
    """The box, in pixels, around what is brighter than half in a channel."""
    bright = clip[0, channel] > 127
    rows, columns = bright.any(1).nonzero().flatten(), bright.any(0).nonzero().flatten()
    if not len(rows):
        return None
    return torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()


@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("area", [(1.0, 1.0), (0.2, 0.9)])
def test_boxes_enclose_what_they_enclosed(clip, flip, area):
    augmentation = BoxAugmentation(64, area=area, flip_probability=flip, color_probability=0.0)
    flipped = 0
    for seed in range(40):
        augmented, boxes, kept = augmentation(clip, BOXES, Random(seed))
        assert augmented.shape == (3, 3, 64, 64)
        assert len(kept) == len(boxes) > 0
        for box, mark in zip(boxes * 64, kept.tolist()):
            # Interpolation blurs the edge of a mark over a pixel.
            assert (marked(augmented, mark) - box).abs().max() <= 1.01
        if len(kept) == 3:
            flipped += int(boxes[0, 0] > boxes[1, 0])
    assert flipped > 0 if flip else flipped == 0


def test_persons_who_are_cut_off_are_left_out(clip):
    augmentation = BoxAugmentation(64, area=(0.1, 0.2), flip_probability=0.0, color_probability=0.0)
    numbers = set()
    for seed in range(40):
        augmented, _, kept = augmentation(clip, BOXES, Random(seed))
        numbers.add(len(kept))
        for mark in set(MARKS) - set(kept.tolist()):
            seen = marked(augmented, mark)
            if seen is not None:  # less than half of it: the rest of the square is outside
                assert seen.min() < 1 or seen.max() > 63
    assert 0 not in numbers
    assert numbers & {1, 2}


def test_without_any_box_to_keep_the_whole_picture_is_taken(clip):
    speck = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    augmented, boxes, kept = BoxAugmentation(60, flip_probability=0.0, color_probability=0.0)(clip, speck, Random(0))
    assert (boxes.shape, kept.tolist()) == ((0, 4), [])
    expected = BOXES[0] * 60
    assert (marked(augmented, 0) - expected).abs().max() <= 1.01


def test_colors_change_alike_in_all_frames_and_nothing_moves(clip):
    settings = {"area": (1.0, 1.0), "ratio": (1.5, 1.5), "flip_probability": 0.0}
    plain, _, _ = BoxAugmentation(64, **settings, color_probability=0.0)(clip, BOXES, Random(3))
    colored, _, _ = BoxAugmentation(64, **settings, color_probability=1.0)(clip, BOXES, Random(3))
    assert not torch.equal(plain, colored)
    assert torch.equal(colored[0], colored[2])
    for mark in MARKS:
        assert (marked(plain, mark) - marked(colored, mark)).abs().max() <= 1  # an edge's gray may pass the half


def test_it_is_a_function_of_the_generator(clip):
    runs = [BoxAugmentation(32)(clip, BOXES, Random(5)) for _ in range(2)]
    assert all(torch.equal(*pair) for pair in zip(*runs))


def test_impossible_values_are_named():
    with pytest.raises(ValueError, match="area must be two numbers"):
        BoxAugmentation(32, area=(0.5, 0.2))
    with pytest.raises(ValueError, match="flip_probability must lie in"):
        BoxAugmentation(32, flip_probability=2)


def test_examples():
    assert doctest.testmod(module).failed == 0
