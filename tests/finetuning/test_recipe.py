"""The recipes: presets, checks, schedule, files."""

import json
from dataclasses import asdict

import pytest

from vididi_hf.finetuning.recipe import DetectionRecipe, FinetuningRecipe
from vididi_hf.options import parse_options


def test_the_papers_recipe():
    recipe = FinetuningRecipe(model="m", preset="paper")
    assert recipe == FinetuningRecipe.from_preset("paper", model="m")
    assert (recipe.learning_rate, recipe.batch_size, recipe.momentum, recipe.weight_decay) == (0.16, 128, 0.9, 1e-4)
    assert (recipe.epochs, recipe.dropout, recipe.num_frames, recipe.frame_stride) == (120, 0.5, 16, 4)
    assert (recipe.label_smoothing, recipe.test_clips, recipe.test_inputs) == (0.0, 10, ["frames"])
    by_time = FinetuningRecipe(model="m", preset="paper", frame_interval=0.12)
    assert (by_time.num_frames, by_time.frame_interval, by_time.frame_stride) == (16, 0.12, None)
    rates = [recipe.learning_rate_factor(epoch) for epoch in range(120)]
    assert rates == pytest.approx([1.0] * 60 + [0.1] * 20 + [0.01] * 20 + [0.001] * 20)
    warm = FinetuningRecipe(model="m", epochs=12, warmup_epochs=2)
    rates = [warm.learning_rate_factor(epoch) for epoch in (0, 0.5, 1, 2, 5.9, 6, 8, 10)]
    assert rates == pytest.approx([0, 0.25, 0.5, 1, 1, 0.1, 0.01, 0.001])


def test_inputs_that_are_trained_are_tested():
    for inputs, test_inputs, extra_frames in (
        (["frames"], ["frames"], 0),
        (["derivative"], ["derivative"], 1),
        (["both"], ["both"], 1),
        (["frames", "derivative"], ["frames", "derivative", "ensemble"], 1),
    ):
        recipe = FinetuningRecipe(model="m", inputs=inputs)
        assert (recipe.test_inputs, recipe.extra_frames) == (test_inputs, extra_frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_milestones": [0.9, 0.5]}, "lr_milestones must be rising shares"),
        ({"crop_area": [0.5, 2.0]}, "crop_area must be two shares"),
        ({"inputs": ["frames", "both"]}, "inputs must be 'both' alone"),
        ({"inputs": ["both"], "test_inputs": ["frames"]}, r"trained with \['both'\] cannot be tested"),
        ({"inputs": ["derivative"], "test_inputs": ["frames"]}, r"trained with \['derivative'\] cannot be tested"),
        ({"test_inputs": ["both"]}, r"trained with \['frames'\] cannot be tested"),
        (
            {"boxes": "jittered", "detections": "a.csv"},
            "detections is used with boxes file or detector",
        ),
        (
            {"boxes": "file", "detections": "a", "detector": "b"},
            "detector is used with boxes detector, but",
        ),
        ({"boxes": "file"}, "boxes from a file need its path: set detections"),
        ({"boxes": "detector", "min_score": 0.2}, r"min_score of detected boxes must be at least 0\.5, got 0\.2"),
    ],
)
def test_impossible_values_are_named(options, message):
    for kind in [DetectionRecipe] if "boxes" in options else [FinetuningRecipe, DetectionRecipe]:
        with pytest.raises(ValueError, match=message):
            kind(model="m", **options)


@pytest.mark.parametrize("kind", [FinetuningRecipe, DetectionRecipe])
def test_saved_with_present_or_earlier_names_and_resumed(kind, tmp_path):
    path = tmp_path / "finetuning.json"
    path.write_text(kind(model="m", epochs=4).to_json(), encoding="utf-8")
    saved = kind.read_values(path)
    assert kind(**saved) == kind(model="m", epochs=4)
    kind(model="other", epochs=4, num_workers=0, resume=True).check_resumes(saved)
    with pytest.raises(ValueError, match="epochs was 4 and is 5; seed was 0 and is 1"):
        kind(model="m", epochs=5, seed=1).check_resumes(saved)
    values = asdict(kind(model="m", lr_milestones=[0.5], color_probability=0.25))
    values["drops"], values["colour_probability"] = values.pop("lr_milestones"), values.pop("color_probability")
    path.write_text(json.dumps(values), encoding="utf-8")
    recipe = kind(**kind.read_values(path))
    assert (recipe.lr_milestones, recipe.color_probability) == ([0.5], 0.25)


def test_flags_of_both_and_none_without_meaning(capsys):
    line = ["--model", "m", "--jitter", "0.2", "--epochs", "4"]
    recipe = parse_options(DetectionRecipe, line)
    assert (recipe.jitter, recipe.epochs, recipe.label_smoothing, recipe.test_clips) == (0.2, 4, 0.0, 1)
    for flag in ("--test_clips", "--label_smoothing", "--preset"):
        with pytest.raises(SystemExit):
            parse_options(DetectionRecipe, [*line, flag, "2"])
        assert f"unknown option '{flag}'" in capsys.readouterr().err
