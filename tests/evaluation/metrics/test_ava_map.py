"""AVA's mAP: the published example, cases by hand, and the files."""

import math
from pathlib import Path

import pytest

from vididi_hf.evaluation.metrics import AVAMeanAP
from vididi_hf.evaluation.metrics.ava_map import (
    align_key_frames,
    ava_mean_ap,
    read_ava_actions,
    read_ava_csv,
    read_ava_excluded,
    write_ava_csv,
)

ANNOTATIONS = Path(__file__).resolve().parents[4] / "shared" / "data" / "annotations" / "ava"
needs_annotations = pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="AVA's annotation files are not there")
BOX, OTHER = [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]


@needs_annotations
def test_published_example(tmp_path):
    truth, found = (read_ava_csv(ANNOTATIONS / f"example_{name}.csv") for name in ("gt", "pred"))
    actions = read_ava_actions(ANNOTATIONS / "example_action_list.txt")
    mean, _ = ava_mean_ap(found, truth, actions)
    assert mean == pytest.approx(0.09385522, abs=5e-9)
    predictions, references = align_key_frames(found, truth)
    metric = AVAMeanAP(cache_dir=str(tmp_path / "cache"))
    for prediction, reference in zip(predictions, references):
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute(classes=list(actions))["mAP@0.5"] == pytest.approx(0.09385522, abs=5e-9)
    write_ava_csv(tmp_path / "again.csv", found)
    assert read_ava_csv(tmp_path / "again.csv") == found


@needs_annotations
def test_avas_own_lists():
    actions = read_ava_actions(ANNOTATIONS / "ava_action_list_v2.2_for_activitynet_2019.pbtxt.txt")
    assert len(actions) == 60
    assert (actions[1], actions[80]) == ("bend/bow (at the waist)", "watch (a person)")
    assert ("5BDj0ow5hnA", 1038) in read_ava_excluded(ANNOTATIONS / "ava_val_excluded_timestamps_v2.2.csv")
    sample = read_ava_csv(ANNOTATIONS / "ava_sample.csv")
    assert sample["0f39OWEqJ24", 902]["labels"][:3] == [12, 17, 79]


def test_classes_and_key_frames_that_do_not_count():
    truth = {
        ("film", 902): {"boxes": [BOX, BOX], "labels": [12, 2]},  # 2 is none of the evaluated classes
        ("film", 903): {"boxes": [BOX], "labels": [12]},
    }
    found = {
        ("film", 902): {"boxes": [BOX, BOX], "labels": [12, 2], "scores": [0.5, 0.9]},
        ("film", 903): {"boxes": [OTHER], "labels": [12], "scores": [0.9]},
    }
    mean, precisions = ava_mean_ap(found, truth, classes=[12, 17])
    assert mean == precisions[12] == pytest.approx(0.25)  # wrong, right, and one never found: 1/2 · 1/2
    assert math.isnan(precisions[17])
    assert ava_mean_ap(found, truth, [12, 17], excluded=[("film", 903)])[0] == 1.0


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({902: ([BOX, OTHER], [12, 12], [0.7, 0.7])}, 1.0),  # of equal scores the first counts first
        ({902: ([OTHER, BOX], [12, 12], [0.7, 0.7])}, 0.5),
        ({902: ([BOX], [12], [0.5]), 903: ([BOX], [12], [0.9])}, 0.5),  # a detection without ground truth is wrong
        ({}, 0.0),
    ],
)
def test_one_box_by_hand(found, expected):
    truth = {("film", 902): {"boxes": [BOX], "labels": [12]}}
    names = ("boxes", "labels", "scores")
    found = {("film", second): dict(zip(names, values)) for second, values in found.items()}
    assert ava_mean_ap(found, truth, [12])[0] == expected
    if ("film", 903) in found:
        assert ava_mean_ap(found, truth, [12], excluded=[("film", 903)])[0] == 1.0
    assert math.isnan(ava_mean_ap({}, {}, [12])[0])
    with pytest.raises(ValueError, match="classes is empty"):
        ava_mean_ap(found, truth, [])


def test_one_box_may_have_many_labels_but_each_only_once():
    truth = {("film", 902): {"boxes": [BOX, BOX, OTHER], "labels": [12, 80, 12]}}
    found = {("film", 902): {"boxes": [BOX] * 3 + [OTHER], "labels": [12, 80, 12, 12], "scores": [0.9, 0.9, 0.8, 0.7]}}
    _, precisions = ava_mean_ap(found, truth, [12, 80])
    assert precisions == {12: pytest.approx((1 + 2 / 3) / 2), 80: 1.0}


def test_rows_are_read_as_ava_writes_them(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("film,0902,0.1,0.2,0.3,0.4,12,7\nfilm,0902,0.1,0.2,0.3,0.4,17,7\nfilm,903,,,,,,\n")
    rows = read_ava_csv(path)
    assert rows["film", 902]["labels"] == [12, 17]
    assert rows["film", 902]["boxes"] == [[0.1, 0.2, 0.3, 0.4]] * 2
    assert rows["film", 903]["boxes"] == []
    path.write_text("film,0902,0.1,0.2,0.3,0.4,12\nfilm,902.5,0,0,1,1,12\n")
    with pytest.raises(ValueError, match="line 2 is not a row"):
        read_ava_csv(path)
    path.write_text("nothing of the kind")
    with pytest.raises(ValueError, match="lists no actions"):
        read_ava_actions(path)


@pytest.mark.parametrize(("seconds", "others"), [((902,), (903,)), ((902, 902), (902, 902))])
def test_the_metric_wants_the_same_key_frames_on_both_sides_each_once(seconds, others):
    row = {"video": "film", "boxes": [BOX], "labels": [12]}
    found, truth = [{**row, "scores": [1.0], "second": at} for at in seconds], [{**row, "second": at} for at in others]
    with pytest.raises(ValueError, match="the same key frames in the same order, each once"):
        AVAMeanAP(keep_in_memory=True).compute(predictions=found, references=truth, classes=[12])


def test_only_the_best_detections_of_a_key_frame_count_if_their_number_is_limited():
    """As the official evaluator: of the evaluated classes, by key frame; of equal scores, the first ones."""
    person, other = [0.0, 0.0, 0.4, 0.4], [0.6, 0.6, 1.0, 1.0]
    truth = {("film", 902): {"boxes": [person, other], "labels": [12, 12]}}
    found = {
        ("film", 902): {
            "boxes": [person, other, person, other],
            "labels": [12, 17, 1, 12],
            "scores": [0.9, 0.8, 0.95, 0.3],
        },
        ("film", 903): {"boxes": [person], "labels": [12], "scores": [0.1]},  # unlisted: wrong, after all others
    }

    def measure(limit):
        return ava_mean_ap(found, truth, [12, 17], max_detections=limit)[1][12]

    assert [measure(limit) for limit in (None, 3, 2, 1)] == [1.0, 1.0, 0.5, 0.5]
    with pytest.raises(ValueError, match="max_detections must be at least 1, got 0"):
        measure(0)
