"""Matching, average precision and frame-mAP against loops that follow the definition, and cases by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import auc
from torchvision.ops import box_iou as torchvision_box_iou

from vididi_hf.evaluation.metrics import FrameMeanAP
from vididi_hf.evaluation.metrics.detection import (
    LabelledBoxes,
    average_precision,
    average_precisions,
    box_iou,
    flatten_frames,
    match_detections,
)

LEFT, RIGHT, ELSEWHERE = [0, 0, 4, 4], [10, 0, 14, 4], [20, 20, 24, 24]


def frame(*rows):
    """A frame of (box, label) or (box, label, score)."""
    names = ("boxes", "labels", "scores")
    return {name: [row[i] for row in rows] for i, name in enumerate(names) if not rows or i < len(rows[0])}


def frame_mean_ap(found, truth, iou_threshold=0.5):
    classes = sorted({label for one in truth for label in one["labels"]})
    return average_precisions(flatten_frames(found), flatten_frames(truth), classes, iou_threshold)


def random_boxes(generator, number):
    corner = generator.integers(0, 3, size=(number, 2))
    return np.concatenate([corner, corner + generator.integers(2, 5, size=(number, 2))], axis=1).astype(float)


def match_by_loops(detections, truth, threshold):
    taken, right = set(), []
    for index in sorted(range(len(detections.scores)), key=lambda i: -detections.scores[i]):
        best, best_iou = None, -1.0
        for other in range(len(truth.frames)):
            if truth.frames[other] != detections.frames[index]:
                continue
            (ax, ay, bx, by), (cx, cy, dx, dy) = detections.boxes[index], truth.boxes[other]
            shared = max(0, min(bx, dx) - max(ax, cx)) * max(0, min(by, dy) - max(ay, cy))
            iou = shared / ((bx - ax) * (by - ay) + (dx - cx) * (dy - cy) - shared)
            if iou > best_iou:
                best, best_iou = other, iou
        right.append(best_iou >= threshold and best not in taken)
        if right[-1]:
            taken.add(best)
    return right


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_matching_is_that_of_the_loops(seed, threshold):
    generator = np.random.default_rng(seed)
    truth = LabelledBoxes(generator.integers(0, 9, size=25), random_boxes(generator, 25), np.zeros(25), np.zeros(25))
    scores = generator.integers(0, 20, size=120) / 20  # with ties
    detections = LabelledBoxes(generator.integers(0, 11, size=120), random_boxes(generator, 120), np.zeros(120), scores)
    found = match_detections(detections, truth, threshold)
    assert found.tolist() == match_by_loops(detections, truth, threshold)
    assert 1 < found.sum() < 25


def test_iou_is_torchvisions_and_empty_boxes_overlap_nothing():
    generator = np.random.default_rng(0)
    first, second = random_boxes(generator, 12), random_boxes(generator, 7)
    expected = torchvision_box_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    np.testing.assert_allclose(box_iou(first[:, None], second), expected)
    assert box_iou(np.ones(4), np.ones(4)) == 0


def test_average_precision_is_the_area_under_the_falling_curve():
    generator = np.random.default_rng(0)
    for _ in range(20):
        right = generator.random(30) < 0.4
        num_truth = int(right.sum()) + 3
        recall = np.cumsum(right) / num_truth
        precision = np.cumsum(right) / np.arange(1, 31)
        # A stair that has, over (r_{i-1}, r_i], the highest precision at a recall of r_i or more.
        steps = [0.0, *recall]
        area = sum((steps[i + 1] - steps[i]) * precision[i:].max() for i in range(30))
        assert average_precision(right, num_truth) == pytest.approx(area)
        assert area >= auc(recall, precision)  # which neither makes it fall nor begins at 0


def test_two_frames_by_hand(tmp_path):
    truth = [frame((LEFT, 0), (RIGHT, 1)), frame((LEFT, 0))]
    found = [
        frame((LEFT, 0, 0.9), (RIGHT, 0, 0.8), (RIGHT, 1, 0.3)),  # right, wrong class, right
        frame((ELSEWHERE, 1, 0.6), (LEFT, 0, 0.7)),  # wrong place, right
    ]
    metric = FrameMeanAP(cache_dir=str(tmp_path))
    for prediction, reference in zip(found, truth):
        metric.add(prediction=prediction, reference=reference)
    computed = metric.compute(iou_threshold=0.5)
    # Class 0: right, wrong, right -> (1 + 2/3) / 2. Class 1: wrong, right -> 1/2.
    assert computed["AP"] == pytest.approx({0: 5 / 6, 1: 1 / 2})
    assert computed["frame-mAP"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("found", "truth", "expected"),
    [
        ([[(LEFT, 0, 0.5), (LEFT, 0, 0.9), (LEFT, 0, 0.7)]], [[(LEFT, 0)]], 1),  # a box is found once
        ([[(LEFT, 0, 0.5), (LEFT, 0, 0.9)], [(RIGHT, 0, 0.1)]], [[(LEFT, 0)], [(RIGHT, 0)]], (1 + 2 / 3) / 2),
        ([[(LEFT, 0, 0.5), (ELSEWHERE, 0, 0.5)]], [[(LEFT, 0)]], 1),  # of equal scores the first counts first
        ([[(ELSEWHERE, 0, 0.5), (LEFT, 0, 0.5)]], [[(LEFT, 0)]], 0.5),
        ([[], [(LEFT, 0, 0.9)]], [[(LEFT, 0)], []], 0),  # boxes of other frames do not match
        ([[]], [[(LEFT, 0)]], 0),
        ([[(LEFT, 0, 0.9)]], [[]], np.nan),
        ([], [], np.nan),
    ],
)
def test_cases_by_hand(found, truth, expected):
    mean, _ = frame_mean_ap([frame(*rows) for rows in found], [frame(*rows) for rows in truth])
    assert mean == pytest.approx(expected, nan_ok=True)


def test_the_threshold_is_the_least_overlap_and_missing_classes_do_not_count():
    truth, found = [frame((LEFT, 0))], [frame(([0, 0, 4, 3], 0, 0.9), (LEFT, 2, 0.9))]  # overlap 3/4
    assert frame_mean_ap(found, truth, 0.75)[0] == 1.0
    assert frame_mean_ap(found, truth, 0.76)[0] == 0.0
    mean, precisions = average_precisions(flatten_frames(found), flatten_frames(truth), [0, 2])
    assert mean == precisions[0] == 1.0
    assert np.isnan(precisions[2])
    with pytest.raises(ValueError, match="iou_threshold must be greater than 0 and at most 1, got 0"):
        frame_mean_ap(found, truth, 0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (frame(([2, 0, 1, 1], 0)), r"x1 <= x2 and y1 <= y2, got \[2.0, 0.0, 1.0, 1.0\]"),
        (frame((LEFT, 0, float("nan"))), "finite"),
        ({"boxes": [LEFT, RIGHT], "labels": [0]}, "frame 1 has 2 boxes, 1 labels"),
    ],
)
def test_impossible_boxes_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        flatten_frames([frame(), bad])
