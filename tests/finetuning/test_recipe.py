"""The recipes: presets, checks, schedule, files."""

import json
from dataclasses import asdict

import pytest

from vididi_hf.detection.options import BoxOptions
from vididi_hf.finetuning.detection_recipe import DetectionRecipe
from vididi_hf.finetuning.recipe import FinetuningRecipe
from vididi_hf.options import parse_options


def test_the_papers_recipe():
    recipe = FinetuningRecipe(model="m", preset="paper")
    assert recipe == FinetuningRecipe.from_preset("paper", model="m")
    assert (recipe.learning_rate, recipe.batch_size, recipe.momentum, recipe.weight_decay) == (0.16, 128, 0.9, 1e-4)
    assert (recipe.epochs, recipe.dropout, recipe.num_frames, recipe.frame_stride) == (120, 0.5, 16, 4)
    assert (recipe.label_smoothing, recipe.test_clips, recipe.test_inputs) == (0.0, 10, ["frames"])
    rates = [recipe.learning_rate_factor(epoch) for epoch in range(120)]
    expected = [1.0] * 60 + [0.1] * 20 + [0.01] * 20 + [0.001] * 20
    assert rates == pytest.approx(expected)


def test_the_warmup_rises_from_nothing():
    recipe = FinetuningRecipe(model="m", epochs=12, warmup_epochs=2)
    assert [recipe.learning_rate_factor(epoch) for epoch in (0, 0.5, 1, 2, 5.9, 6, 8, 10)] == pytest.approx(
        [0, 0.25, 0.5, 1, 1, 0.1, 0.01, 0.001]
    )


def test_what_is_given_is_stronger_than_the_preset():
    recipe = parse_options(FinetuningRecipe, ["--model", "m", "--preset", "paper", "--epochs", "3"])
    assert (recipe.epochs, recipe.batch_size, recipe.num_frames) == (3, 128, 16)
    recipe = FinetuningRecipe(model="m", label_smoothing=0.0)
    assert (recipe.label_smoothing, recipe.epochs, recipe.num_frames) == (0.0, 30, None)


def test_inputs_that_are_trained_are_tested():
    assert FinetuningRecipe(model="m", inputs=["derivative"]).test_inputs == ["derivative"]
    both = FinetuningRecipe(model="m", inputs=["both"])
    assert (both.test_inputs, both.extra_frames) == (["both"], 1)
    turns = FinetuningRecipe(model="m", inputs=["frames", "derivative"])
    assert turns.test_inputs == ["frames", "derivative", "ensemble"]
    assert FinetuningRecipe(model="m").extra_frames == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "large"}, "preset must be one of small, paper, got 'large'"),
        ({"lr_milestones": [0.9, 0.5]}, "lr_milestones must be rising shares"),
        ({"crop_area": [0.5, 2.0]}, "crop_area must be two shares"),
        ({"inputs": ["flow"]}, "inputs must be one of frames, derivative, both, got 'flow'"),
        ({"inputs": ["frames", "both"]}, "inputs must be 'both' alone"),
        ({"inputs": ["both"], "test_inputs": ["frames"]}, r"trained with \['both'\] cannot be tested"),
        ({"test_inputs": ["both"]}, r"trained with \['frames'\] cannot be tested"),
    ],
)
def test_impossible_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FinetuningRecipe(model="m", **options)
    if "preset" not in options:
        with pytest.raises(ValueError, match=message):
            DetectionRecipe(model="m", **options)


def test_boxes_from_a_file_need_a_file():
    for make in (BoxOptions, lambda **options: DetectionRecipe(model="m", **options)):
        with pytest.raises(ValueError, match="boxes from a file need its path: set detections"):
            make(boxes="file")


@pytest.mark.parametrize("kind", [FinetuningRecipe, DetectionRecipe])
def test_saved_and_resumed(kind, tmp_path):
    path = tmp_path / "finetuning.json"
    path.write_text(kind(model="m", epochs=4).to_json(), encoding="utf-8")
    saved = kind.read_values(path)
    assert kind(**saved) == kind(model="m", epochs=4)
    kind(model="other", epochs=4, num_workers=0, resume=True).check_resumes(saved)
    with pytest.raises(ValueError, match="epochs was 4 and is 5; seed was 0 and is 1"):
        kind(model="m", epochs=5, seed=1).check_resumes(saved)


@pytest.mark.parametrize("kind", [FinetuningRecipe, DetectionRecipe])
def test_earlier_names_are_read(kind, tmp_path):
    path = tmp_path / "finetuning.json"
    values = asdict(kind(model="m", lr_milestones=[0.5], color_probability=0.25))
    values["drops"], values["colour_probability"] = values.pop("lr_milestones"), values.pop("color_probability")
    path.write_text(json.dumps(values), encoding="utf-8")
    recipe = kind(**kind.read_values(path))
    assert (recipe.lr_milestones, recipe.color_probability) == ([0.5], 0.25)


def test_flags_of_both_and_none_without_meaning(capsys):
    line = ["--model", "m", "--boxes", "jittered", "--jitter", "0.2", "--epochs", "4", "--inputs", "both"]
    recipe = parse_options(DetectionRecipe, line)
    assert (recipe.boxes, recipe.jitter, recipe.epochs, recipe.extra_frames) == ("jittered", 0.2, 4, 1)
    assert (recipe.label_smoothing, recipe.test_clips) == (0.0, 1)
    for flag in ("--test_clips", "--label_smoothing", "--preset"):
        with pytest.raises(SystemExit):
            parse_options(DetectionRecipe, [*line, flag, "2"])
        assert f"unknown option '{flag}'" in capsys.readouterr().err
