"""Geometry of boxes, against the same on pixels: what a box encloses before augmentation, it encloses afterwards."""

from dataclasses import replace
from random import Random

import pytest
import torch
from torchvision.ops import box_iou

from vididi_hf.detection.boxes import augment_with_boxes, box_area, crop_boxes, flip_boxes, jitter_boxes, visible_shares

BOXES = torch.tensor([[0.1, 0.2, 0.5, 0.8], [0.6, 0.0, 1.0, 0.3], [0.9, 0.9, 1.0, 1.0], [0.3, 0.3, 0.3, 0.9]])


def painted(box, height=100, width=200):
    """A picture that is 1 in a box given in fractions."""
    x1, y1, x2, y2 = (box * torch.tensor([width, height, width, height])).round().int().tolist()
    picture = torch.zeros(height, width)
    picture[y1:y2, x1:x2] = 1
    return picture


def extent(picture):
    """The box, in pixels, around what is not 0; None if all is."""
    rows, columns = picture.any(1).nonzero().flatten(), picture.any(0).nonzero().flatten()
    return torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float() if len(rows) else None


def test_a_crop_does_to_boxes_what_it_does_to_pixels():
    part = {"left": 0.25, "top": 0.1, "width": 0.5, "height": 0.7}
    for box, found, share in zip(BOXES, crop_boxes(BOXES, **part), visible_shares(BOXES, **part)):
        picture = painted(box)
        left = picture[10:80, 50:150]
        if (expected := extent(left)) is None:
            assert box_area(found[None]) == share == 0
        else:
            torch.testing.assert_close(found, expected / torch.tensor([100, 70, 100, 70]))
            assert float(share) == pytest.approx(float(left.sum() / picture.sum()))


def test_a_flip_does_to_boxes_what_it_does_to_pixels():
    for box, found in zip(BOXES[:3], flip_boxes(BOXES)):
        torch.testing.assert_close(found, extent(painted(box).flip(-1)) / torch.tensor([200, 100, 200, 100]))


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
    assert ((jittered >= 0) & (jittered <= 1)).all()
    assert (jittered[:, :2] <= jittered[:, 2:]).all()
    torch.testing.assert_close(jitter_boxes(BOXES, 0.0, generator), BOXES)


HEIGHT, WIDTH = 60, 90
# Red, green and blue squares: left, top, right, bottom in pixels.
MARKS = {0: (10, 20, 30, 50), 1: (50, 5, 80, 35), 2: (70, 45, 85, 58)}
MARKED = torch.tensor([[x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT] for x1, y1, x2, y2 in MARKS.values()])


@pytest.fixture
def augmented(no_augmentation):
    """`augmented(seed, **changes)`: the marked clip and its boxes after an augmentation to 64 pixels."""
    frames = torch.zeros(3, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    for channel, (x1, y1, x2, y2) in MARKS.items():
        frames[:, channel, y1:y2, x1:x2] = 255

    def augment(seed, boxes=MARKED, ratio=(3 / 4, 4 / 3), **changes):
        augmentation = replace(no_augmentation, image_size=64, ratio=ratio, **changes)
        return augment_with_boxes(augmentation, frames, boxes, Random(seed))

    return augment


def marked(clip, channel):
    """The box, in pixels, around what is brighter than half in a channel."""
    return extent(clip[0, channel] > 127)


@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("area", [(1.0, 1.0), (0.2, 0.9)])
def test_boxes_enclose_what_they_enclosed(augmented, flip, area):
    flipped = 0
    for seed in range(40):
        clip, boxes, kept = augmented(seed, area=area, flip_probability=flip)
        assert clip.shape == (3, 3, 64, 64)
        assert len(kept) == len(boxes) > 0
        for box, mark in zip(boxes * 64, kept.tolist()):
            # Interpolation blurs the edge of a mark over a pixel.
            assert (marked(clip, mark) - box).abs().max() <= 1.01
        if len(kept) == 3:
            flipped += int(boxes[0, 0] > boxes[1, 0])
    assert flipped > 0 if flip else flipped == 0


def test_persons_who_are_cut_off_are_left_out(augmented):
    numbers = set()
    for seed in range(40):
        clip, _, kept = augmented(seed, area=(0.1, 0.2))
        numbers.add(len(kept))
        for mark in set(MARKS) - set(kept.tolist()):
            seen = marked(clip, mark)
            if seen is not None:  # less than half of it: the rest of the square is outside
                assert seen.min() < 1 or seen.max() > 63
    assert 0 not in numbers
    assert numbers & {1, 2}


def test_without_any_box_to_keep_the_whole_picture_is_taken(augmented):
    clip, boxes, kept = augmented(0, boxes=torch.tensor([[0.5, 0.5, 0.5, 0.5]]), area=(0.3, 1.0))
    assert (boxes.shape, kept.tolist()) == ((0, 4), [])
    assert (marked(clip, 0) - MARKED[0] * 64).abs().max() <= 1.01


def test_colors_change_alike_in_all_frames_and_nothing_moves(augmented):
    plain, colored = (augmented(3, ratio=(1.5, 1.5), jitter_probability=chance)[0] for chance in (0.0, 1.0))
    assert not torch.equal(plain, colored)
    assert torch.equal(colored[0], colored[2])
    for mark in MARKS:
        assert (marked(plain, mark) - marked(colored, mark)).abs().max() <= 1  # an edge's gray may pass the half
