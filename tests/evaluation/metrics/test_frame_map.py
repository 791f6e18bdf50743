"""Frame-mAP in cases that are computed by hand."""

import math

import pytest

from vididi_hf.evaluation.metrics import FrameMeanAP
from vididi_hf.evaluation.metrics.frame_map import frame_mean_ap

LEFT, RIGHT, ELSEWHERE = [0, 0, 4, 4], [10, 0, 14, 4], [20, 20, 24, 24]


def frame(*rows):
    """A frame of (box, label) or (box, label, score)."""
    names = ("boxes", "labels", "scores")
    return {name: [row[i] for row in rows] for i, name in enumerate(names) if not rows or i < len(rows[0])}


def test_two_frames_by_hand(tmp_path):
    truth = [frame((LEFT, 0), (RIGHT, 1)), frame((LEFT, 0))]
    found = [
        frame((LEFT, 0, 0.9), (RIGHT, 0, 0.8), (RIGHT, 1, 0.3)),  # right, wrong class, right
        frame((ELSEWHERE, 1, 0.6), (LEFT, 0, 0.7)),  # wrong place, right
    ]
    # Class 0: right, wrong, right -> (1 + 2/3) / 2. Class 1: wrong, right -> 1/2.
    expected = {0: 5 / 6, 1: 1 / 2}
    mean, precisions = frame_mean_ap(found, truth)
    assert precisions == pytest.approx(expected)
    assert mean == pytest.approx(2 / 3)
    metric = FrameMeanAP(cache_dir=str(tmp_path))
    for prediction, reference in zip(found, truth):
        metric.add(prediction=prediction, reference=reference)
    computed = metric.compute(iou_threshold=0.5)
    assert computed["frame-mAP"] == pytest.approx(2 / 3)
    assert computed["AP"] == pytest.approx(expected)


def test_a_box_is_found_once():
    truth = [frame((LEFT, 0))]
    found = [frame((LEFT, 0, 0.5), (LEFT, 0, 0.9), (LEFT, 0, 0.7))]
    assert frame_mean_ap(found, truth) == (1.0, {0: 1.0})
    # Where something else has to be found after them, the duplicates cost precision.
    truth, found = [*truth, frame((RIGHT, 0))], [*found, frame((RIGHT, 0, 0.1))]
    assert frame_mean_ap(found, truth)[0] == pytest.approx((1 + 2 / 4) / 2)


def test_of_equal_scores_the_first_counts_first():
    truth = [frame((LEFT, 0))]
    right, wrong = (LEFT, 0, 0.5), (ELSEWHERE, 0, 0.5)
    assert frame_mean_ap([frame(right, wrong)], truth)[0] == 1.0
    assert frame_mean_ap([frame(wrong, right)], truth)[0] == 0.5


def test_boxes_of_other_frames_do_not_match():
    assert frame_mean_ap([frame(), frame((LEFT, 0, 0.9))], [frame((LEFT, 0)), frame()])[0] == 0.0


def test_no_detections_and_no_ground_truth():
    assert frame_mean_ap([frame()], [frame((LEFT, 0))]) == (0.0, {0: 0.0})
    mean, precisions = frame_mean_ap([frame((LEFT, 0, 0.9))], [frame()])
    assert math.isnan(mean)
    assert precisions == {}
    assert math.isnan(frame_mean_ap([], [])[0])


def test_the_threshold_is_the_least_overlap():
    truth, found = [frame((LEFT, 0))], [frame(([0, 0, 4, 3], 0, 0.9))]  # overlap 3/4
    assert frame_mean_ap(found, truth, iou_threshold=0.75)[0] == 1.0
    assert frame_mean_ap(found, truth, iou_threshold=0.76)[0] == 0.0
    with pytest.raises(ValueError, match="iou_threshold must be greater than 0 and at most 1, got 0"):
        frame_mean_ap(found, truth, iou_threshold=0)


def test_lists_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="predictions of 1 frames and references of 2"):
        frame_mean_ap([frame()], [frame(), frame()])
    uneven = [{"boxes": [LEFT, RIGHT], "labels": [0]}, {"boxes": [LEFT], "labels": [0, 1]}]
    with pytest.raises(ValueError, match="frame 0 has 2 boxes, 1 labels"):
        frame_mean_ap([frame(), frame()], uneven)
