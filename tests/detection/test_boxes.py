"""Geometry of boxes, against the same on pixels."""

import doctest

import pytest
import torch
from torchvision.ops import box_iou

from vididi_hf.detection import boxes as module
from vididi_hf.detection.boxes import box_areas, crop_boxes, flip_boxes, jitter_boxes, visible_shares

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
            assert box_areas(found) == 0
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


def test_examples():
    assert doctest.testmod(module).failed == 0
