"""Video-mAP: linking against all paths, the overlap of tubes by its definition, and cases by hand."""

from itertools import product

import numpy as np
import pytest

from vididi_hf.evaluation.metrics import VideoMeanAP
from vididi_hf.evaluation.metrics.tubes import link_boxes, tube_iou


def iou(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("counts", [(2, 3, 2), (1, 2, 3, 1), (2, 0, 2)])
def test_linking_finds_the_best_of_all_paths_and_then_the_best_of_the_rest(counts):
    draw = np.random.default_rng(len(counts))
    corners = [draw.integers(0, 3, size=(count, 2)) for count in counts]
    boxes = [
        np.concatenate([corner, corner + draw.integers(2, 5, corner.shape)], 1).astype(float) for corner in corners
    ]
    scores = [draw.random((count, 2)) for count in counts]
    left = [[set(range(count)) for _ in range(2)] for count in counts]  # by frame and class
    found = 0
    for begin, path in link_boxes(boxes, scores):
        frames = range(begin, begin + len(path))
        assert begin == 0 or not left[begin - 1][0]  # a path begins and ends where no box is left
        assert frames[-1] == len(counts) - 1 or not left[frames[-1] + 1][0]
        for label in range(2):

            def quality(chosen, label=label, frames=frames):
                steps = zip(zip(frames, chosen), zip(frames[1:], chosen[1:]))
                overlaps = sum(iou(boxes[t][i], boxes[u][j]) for (t, i), (u, j) in steps)
                return overlaps + sum(scores[t][i, label] for t, i in zip(frames, chosen))

            best = max(quality(chosen) for chosen in product(*(left[t][label] for t in frames)))
            assert quality(path[:, label]) == pytest.approx(best)
        for t, chosen in zip(frames, path):
            for label, box in enumerate(chosen):
                left[t][label].remove(box)
        found += len(path)
    assert found == sum(counts)


def test_overlap_of_tubes_counts_missing_frames():
    box, half = np.array([0.0, 0, 2, 2]), np.array([0.0, 0, 1, 2])
    a, b = {0: box, 1: box, 2: box}, {1: box, 2: half, 3: box}
    assert tube_iou(a, b) == pytest.approx((1 + 0.5) / 2 * 2 / 4)
    assert tube_iou(a, {7: box}) == 0


def frames(video, boxes, scores, persons=None):
    """Frames 0, 2, 4 … with boxes (frames, boxes, 4), and scores (boxes, classes) that are the same in all of them."""
    classes = len(scores[0])
    for time, of_frame in enumerate(boxes):
        yield {
            "video": video,
            "frame": 2 * time,
            "boxes": [box for box in of_frame for _ in range(classes)],
            "labels": list(range(classes)) * len(of_frame),
            "scores": [score for box in scores for score in box],
        }


def test_two_persons_who_cross_are_two_tubes():
    left, right = ([[x, 0, x + 4, 4] for x in places] for places in (range(0, 12, 2), range(10, -2, -2)))
    boxes = list(zip(left, right))
    found = list(frames("a", boxes, [(0.75, 0.125), (0.25, 0.5)]))
    truth = [
        {"video": "a", "frame": 2 * time, "boxes": list(pair), "labels": [0, 1], "persons": [0, 1]}
        for time, pair in enumerate(boxes)
    ]
    metric = VideoMeanAP(keep_in_memory=True)
    assert metric.compute(predictions=found, references=truth)["video-mAP@0.5"] == 1
    nothing = {"boxes": [], "labels": [], "scores": []}
    # Half of a tube: temporal IoU 1/2.
    half = [frame if frame["frame"] < 6 else frame | nothing for frame in found]
    thresholds = {"iou_thresholds": (0.2, 0.5, 0.6)}
    expected = {"video-mAP@0.2": 1, "video-mAP@0.5": 1, "video-mAP@0.6": 0}
    assert metric.compute(predictions=half, references=truth, **thresholds) == expected
    # A gap ends a tube. Of its parts, with 2 and 3 of 6 frames, one is right, and the first one is a mistake.
    gap = [frame if frame["frame"] != 4 else frame | nothing for frame in found]
    assert metric.compute(predictions=gap, references=truth, iou_thresholds=(0.4, 0.6)) == {
        "video-mAP@0.4": 0.5,
        "video-mAP@0.6": 0,
    }
    with pytest.raises(ValueError, match="every box needs a score for every class"):
        metric.compute(predictions=[found[0] | {"labels": [0, 1, 0, 0]}], references=truth[:1])
