"""The recipe: presets, checks, schedule."""

import doctest
import json
from dataclasses import asdict

import pytest

from vididi_hf.finetuning import recipe as module
from vididi_hf.finetuning.recipe import FinetuningRecipe
from vididi_hf.options import parse_arguments


def test_the_papers_recipe():
    recipe = FinetuningRecipe(model="m", preset="paper")
    assert (recipe.learning_rate, recipe.batch_size, recipe.momentum, recipe.weight_decay) == (0.16, 128, 0.9, 1e-4)
    assert (recipe.epochs, recipe.dropout, recipe.num_frames, recipe.frame_stride) == (120, 0.5, 16, 4)
    assert (recipe.label_smoothing, recipe.test_clips, recipe.test_inputs) == (0.0, 10, ["frames"])
    rates = [recipe.learning_rate_factor(epoch) for epoch in range(120)]
    expected = [1.0] * 60 + [0.1] * 20 + [0.01] * 20 + [0.001] * 20
    assert rates == pytest.approx(expected)


def test_the_warm_up_rises_from_nothing():
    recipe = FinetuningRecipe(model="m", epochs=12, warmup_epochs=2)
    assert [recipe.learning_rate_factor(epoch) for epoch in (0, 0.5, 1, 2, 5.9, 6, 8, 10)] == pytest.approx(
        [0, 0.25, 0.5, 1, 1, 0.1, 0.01, 0.001]
    )


def test_what_is_given_is_stronger_than_the_preset():
    recipe = parse_arguments(FinetuningRecipe, ["--model", "m", "--preset", "paper", "--epochs", "3"], None)
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
        ({"train": "stem"}, "train must be one of all, last_stage, head, got 'stem'"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be at least 0, got nan"),
        ({"dropout": 1.0}, "dropout must be below 1, got 1.0"),
        ({"flip_probability": 1.5}, "flip_probability must be at least 0 and at most 1, got 1.5"),
        ({"drops": [0.9, 0.5]}, "drops must be rising shares"),
        ({"crop_area": [0.5, 2.0]}, "crop_area must be two shares"),
        ({"inputs": ["flow"]}, "unknown input 'flow'"),
        ({"inputs": ["frames", "both"]}, "inputs must be 'both' alone"),
        ({"inputs": ["both"], "test_inputs": ["frames"]}, r"a classifier of \['both'\] cannot be tested"),
        ({"test_inputs": ["both"]}, r"a classifier of \['frames'\] cannot be tested"),
    ],
)
def test_impossible_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FinetuningRecipe(model="m", **options)


def test_saved_and_continued(tmp_path):
    recipe = FinetuningRecipe(model="m", epochs=4)
    recipe.save(tmp_path)
    saved = json.loads((tmp_path / "finetuning.json").read_text())
    assert saved == asdict(recipe)
    FinetuningRecipe(model="m", epochs=4, num_workers=0, resume=True).check_continues(saved)
    with pytest.raises(ValueError, match="epochs was 4 and is 5; seed was 0 and is 1"):
        FinetuningRecipe(model="m", epochs=5, seed=1).check_continues(saved)


def test_the_augmentation_can_leave_left_and_right_alone():
    augmentation = FinetuningRecipe(model="m", flip_probability=0.0, crop_area=[0.5, 1.0]).augmentation(40)
    assert (augmentation.image_size, augmentation.flip_probability, augmentation.area) == (40, 0.0, (0.5, 1.0))


def test_examples():
    assert doctest.testmod(module).failed == 0
