"""Matching and average precision against loops that follow the definition box by box."""

import numpy as np
import pytest
import torch
from sklearn.metrics import auc
from torchvision.ops import box_iou as torchvision_box_iou

from vididi_hf.evaluation.metrics.detection import (
    LabelledBoxes,
    average_precision,
    average_precisions,
    box_iou,
    match_detections,
)


def random_boxes(generator, number):
    corner = generator.integers(0, 3, size=(number, 2))
    return np.concatenate([corner, corner + generator.integers(2, 5, size=(number, 2))], axis=1).astype(float)


def match_by_loops(detections, truth, threshold):
    taken, right = set(), []
    for index in sorted(range(len(detections)), key=lambda i: -detections.scores[i]):
        best, best_iou = None, -1.0
        for other in range(len(truth)):
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
    truth = LabelledBoxes(generator.integers(0, 9, size=25), random_boxes(generator, 25), np.zeros(25))
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
    assert box_iou([1, 1, 1, 1], [1, 1, 1, 1]) == 0


def test_an_overlap_of_exactly_the_threshold_is_right():
    truth = LabelledBoxes([0], [[0, 0, 2, 2]], [0])
    detections = LabelledBoxes([0], [[0, 0, 2, 1]], [0], [0.5])
    assert match_detections(detections, truth, 0.5).tolist() == [True]
    assert match_detections(detections, truth, 0.501).tolist() == [False]


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


def test_without_ground_truth_there_is_no_average_precision():
    truth = LabelledBoxes([0], [[0, 0, 1, 1]], [1])
    detections = LabelledBoxes([0, 0], [[0, 0, 1, 1]] * 2, [1, 2], [0.9, 0.9])
    mean, precisions = average_precisions(detections, truth, [1, 2])
    assert mean == precisions[1] == 1.0
    assert np.isnan(precisions[2])
    assert np.isnan(average_precisions(detections, truth, [2])[0])


def test_impossible_boxes_are_named():
    with pytest.raises(ValueError, match=r"x1 <= x2 and y1 <= y2, got \[2.0, 0.0, 1.0, 1.0\]"):
        LabelledBoxes([0], [[2, 0, 1, 1]], [0])
    with pytest.raises(ValueError, match="finite"):
        LabelledBoxes([0], [[0, 0, 1, 1]], [0], [float("nan")])
    with pytest.raises(ValueError, match=r"\[1, 1, 2\]"):
        LabelledBoxes([0], [[0, 0, 1, 1]], [0, 1])
    truth = LabelledBoxes([0], [[0, 0, 1, 1]], [0])
    with pytest.raises(ValueError, match="need scores"):
        match_detections(truth, truth, 0.5)
