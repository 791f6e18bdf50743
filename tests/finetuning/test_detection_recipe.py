"""The recipe of detection: what it adds to that of fine-tuning, and what it leaves out."""

import doctest

import pytest

from vididi_hf.finetuning import detection_recipe as module
from vididi_hf.finetuning.detection_recipe import BoxOptions, DetectionRecipe
from vididi_hf.options import parse_arguments


def test_flags_of_both_and_none_without_meaning(capsys):
    line = ["--model", "m", "--boxes", "jittered", "--jitter", "0.2", "--epochs", "4", "--inputs", "both"]
    recipe = parse_arguments(DetectionRecipe, line, None)
    assert (recipe.boxes, recipe.jitter, recipe.epochs, recipe.extra_frames) == ("jittered", 0.2, 4, 1)
    assert (recipe.label_smoothing, recipe.test_clips) == (0.0, 1)
    for flag in ("--test_clips", "--label_smoothing", "--preset"):
        with pytest.raises(SystemExit):
            parse_arguments(DetectionRecipe, [*line, flag, "2"], None)
    assert "unrecognized arguments" in capsys.readouterr().err


def test_the_augmentation_is_that_of_the_recipe():
    recipe = DetectionRecipe(model="m", crop_area=[0.5, 0.9], flip_probability=0.0, color_probability=0.1)
    augmentation = recipe.box_augmentation(40)
    assert (augmentation.image_size, augmentation.area) == (40, (0.5, 0.9))
    assert (augmentation.flip_probability, augmentation.color_probability) == (0.0, 0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boxes": "nowhere"}, "boxes must be one of ground_truth, jittered, file, detector, got 'nowhere'"),
        ({"boxes": "file"}, "boxes from a file need its path: set detections"),
        ({"test_every": 0}, "test_every must be at least 1, got 0"),
        ({"jitter": 1.0}, "jitter must be at least 0 and below 1"),
        ({"min_score": 1.5}, "min_score must lie between 0 and 1, got 1.5"),
    ],
)
def test_impossible_boxes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        BoxOptions(**options)
    with pytest.raises(ValueError, match=message):
        DetectionRecipe(model="m", **options)


def test_impossible_training_is_named():
    with pytest.raises(ValueError, match="labels must be one of auto, single, multi, got 'some'"):
        DetectionRecipe(model="m", labels="some")
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        DetectionRecipe(model="m", every=0)
    with pytest.raises(ValueError, match="unknown input 'flow'"):
        DetectionRecipe(model="m", inputs=["flow"])


def test_boxes_of_a_detector_come_from_a_pipeline(dataset, tmp_path, monkeypatch):
    asked = []

    def pipeline(task, model):
        asked.append((task, model))
        box = {"xmin": 14, "ymin": 10, "xmax": 42, "ymax": 30}
        return lambda image, threshold: [{"label": "person", "score": 0.95, "box": box}]

    monkeypatch.setattr("transformers.pipeline", pipeline)
    options = BoxOptions(boxes="detector", detector="some/model", test_every=9)
    rows = options.load_test_rows(str(dataset), None, "test")
    boxes, source = options.load_boxes(rows, tmp_path, progress=False)
    assert asked == [("object-detection", "some/model")]
    assert source == "some/model, score >= 0.9"
    assert len(boxes) == len(rows) == 12
    assert boxes[0].tolist() == [pytest.approx([0.25, 0.25, 0.75, 0.75])]
    again, _ = BoxOptions(boxes="file", detections=str(tmp_path / "persons-model.csv")).load_boxes(
        rows, tmp_path, False
    )
    assert [one.tolist() for one in again] == [one.tolist() for one in boxes]
    # All are in the file: the detector is not even loaded. Another one has a file of its own.
    again, _ = options.load_boxes(rows, tmp_path, progress=False)
    assert [one.tolist() for one in again] == [one.tolist() for one in boxes]
    assert len(asked) == 1
    BoxOptions(boxes="detector", detector="other", test_every=9).load_boxes(rows, tmp_path, progress=False)
    assert asked[1:] == [("object-detection", "other")]


def test_examples():
    assert doctest.testmod(module).failed == 0
