"""Geometry of boxes, against the same on pixels: what a box encloses before augmentation, it encloses afterwards."""

from random import Random

import pytest
import torch
from torchvision.ops import box_iou

from vididi_hf.detection.boxes import BoxAugmentation, box_area, crop_boxes, flip_boxes, jitter_boxes, visible_shares

BOXES = torch.tensor([[0.1, 0.2, 0.5, 0.8], [0.6, 0.0, 1.0, 0.3], [0.9, 0.9, 1.0, 1.0], [0.3, 0.3, 0.3, 0.9]])


def painted(box, height=100, width=200):
    """A picture that is 1 in a box given in fractions."""
    x1, y1, x2, y2 = (box * torch.tensor([width, height, width, height])).round().int().tolist()
    picture = torch.zeros(height, width)
    picture[y1:y2, x1:x2] = 1
    return picture


def extent(picture):
    """The box around the ones, in fractions; None if there are none."""
    rows, columns = picture.any(1).nonzero().flatten().tolist(), picture.any(0).nonzero().flatten().tolist()
    height, width = picture.shape
    if not rows:
        return None
    return [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]


def test_a_crop_does_to_boxes_what_it_does_to_pixels():
    part = {"left": 0.25, "top": 0.1, "width": 0.5, "height": 0.7}
    cropped, shares = crop_boxes(BOXES, **part), visible_shares(BOXES, **part)
    for box, found, share in zip(BOXES, cropped, shares):
        picture = painted(box)
        left = picture[10:80, 50:150]
        expected = extent(left)
        if expected is None:
            assert box_area(found[None]) == 0
            assert share == 0
        else:
            assert found.tolist() == pytest.approx(expected)
            assert float(share) == pytest.approx(float(left.sum() / picture.sum()))


def test_a_flip_does_to_boxes_what_it_does_to_pixels():
    for box, found in zip(BOXES[:3], flip_boxes(BOXES)):
        assert found.tolist() == pytest.approx(extent(painted(box).flip(-1)))


@pytest.mark.parametrize(("amount", "least", "mean"), [(0.1, 0.66, 0.81), (0.2, 0.43, 0.66)])
def test_jitter_overlaps_as_documented(amount, least, mean):
    box = torch.tensor([[0.4, 0.3, 0.6, 0.7]])
    jittered = jitter_boxes(box.expand(20000, 4), amount, torch.Generator().manual_seed(0))
    overlap = box_iou(box, jittered)[0]
    assert float(overlap.min()) >= least
    assert float(overlap.mean()) == pytest.approx(mean, abs=0.01)
    assert float((jittered - box).mean(0).abs().max()) < 0.001  # neither moved nor larger on average


def test_jitter_stays_within_the_picture_and_zero_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    jittered = jitter_boxes(BOXES, 0.9, generator)
    assert (jittered >= 0).all()
    assert (jittered <= 1).all()
    assert (jittered[:, :2] <= jittered[:, 2:]).all()
    torch.testing.assert_close(jitter_boxes(BOXES, 0.0, generator), BOXES)
    with pytest.raises(ValueError, match="jitter must be at least 0 and below 1, got 1"):
        jitter_boxes(BOXES, 1.0, generator)


HEIGHT, WIDTH = 60, 90
# Red, green and blue squares: left, top, right, bottom in pixels.
MARKS = {0: (10, 20, 30, 50), 1: (50, 5, 80, 35), 2: (70, 45, 85, 58)}
MARKED = torch.tensor([[x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT] for x1, y1, x2, y2 in MARKS.values()])


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
        augmented, boxes, kept = augmentation(clip, MARKED, Random(seed))
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
        augmented, _, kept = augmentation(clip, MARKED, Random(seed))
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
    expected = MARKED[0] * 60
    assert (marked(augmented, 0) - expected).abs().max() <= 1.01


def test_colors_change_alike_in_all_frames_and_nothing_moves(clip):
    settings = {"area": (1.0, 1.0), "ratio": (1.5, 1.5), "flip_probability": 0.0}
    plain, _, _ = BoxAugmentation(64, **settings, color_probability=0.0)(clip, MARKED, Random(3))
    colored, _, _ = BoxAugmentation(64, **settings, color_probability=1.0)(clip, MARKED, Random(3))
    assert not torch.equal(plain, colored)
    assert torch.equal(colored[0], colored[2])
    for mark in MARKS:
        assert (marked(plain, mark) - marked(colored, mark)).abs().max() <= 1  # an edge's gray may pass the half


def test_it_is_a_function_of_the_generator(clip):
    runs = [BoxAugmentation(32)(clip, MARKED, Random(5)) for _ in range(2)]
    assert all(torch.equal(*pair) for pair in zip(*runs))


def test_impossible_values_are_named():
    with pytest.raises(ValueError, match="area must be two numbers"):
        BoxAugmentation(32, area=(0.5, 0.2))
    with pytest.raises(ValueError, match="flip_probability must lie in"):
        BoxAugmentation(32, flip_probability=2)
