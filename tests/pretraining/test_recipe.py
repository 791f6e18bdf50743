"""Recipes: who overrules whom, what goes through JSON, and what is said about mistakes."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from vididi_hf.choices_vididi import BACKBONE_NAMES, OBJECTIVE_NAMES
from vididi_hf.objectives import build_objective
from vididi_hf.options import parse_options
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.views import build_processor

CLEAN = PretrainingRecipe()
PRESETS = PretrainingRecipe.presets


def parse_recipe(arguments: list[str], description: str | None = None) -> PretrainingRecipe:
    return parse_options(PretrainingRecipe, arguments, prog="vididi pretrain", description=description)


# What the authors' code does.
PAPER = {
    "batch_norm": "shared",
    "preset": "paper",
    "frame_interval": None,
    "frame_stride": 3,
    "vicreg_weights": [2.0, 2.0, 0.08],
    "gather": False,
    "cross_view_only": True,
    "view_forward": "joint",
    "extra_frames": False,
    "shorter_side": 150,
    "per_frame_color": True,
    "optimizer": "lars",
    "learning_rate": 4.8,
    "weight_decay": 1e-6,
    "epochs": 400,
    "batch_size": 8,
    "mixed_precision": "fp16",
    "max_grad_norm": 0.0,
}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which the command ends."""
    with pytest.raises(SystemExit) as end:
        parse_recipe(arguments)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().split("\n")
    return line.removeprefix("vididi pretrain: error: ")


def test_paper_preset_is_what_the_authors_ran() -> None:
    expected = asdict(CLEAN) | PAPER
    assert asdict(parse_recipe(["--preset", "paper"])) == expected
    assert asdict(PretrainingRecipe.from_preset("paper")) == expected
    # The authors add 1 · mse + 1 · std + 0.04 · cov of each process twice.
    objective = PretrainingRecipe.from_preset("paper").model_config().objective_options
    weights = {"invariance_weight": 2.0, "variance_weight": 2.0, "covariance_weight": 0.08}
    assert objective == {**weights, "gather": False}
    contrastive = PretrainingRecipe.from_preset("paper", objective="simclr").model_config()
    assert contrastive.objective_options == {"gather": False, "cross_view_only": True}
    assert contrastive.view_forward == "joint"
    assert PretrainingRecipe.from_preset("paper").augmentation().per_frame_color
    assert not CLEAN.augmentation().per_frame_color


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (0.12, None)),
        (["--preset", "paper"], (None, 3)),
        (["--preset", "paper", "--frame_interval", "0.2"], (0.2, None)),
        (["--config", "old.json"], (None, 2)),
        (["--config", "old.json", "--frame_interval", "0.2"], (0.2, None)),
        (["--config", "new.json"], (0.2, None)),
        (["--config", "new.json", "--frame_stride", "4"], (None, 4)),
        (["--config", "new.json", "--preset", "paper"], (0.2, None)),
    ],
)
def test_frames_are_sampled_by_time_or_by_stride(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: tuple[float | None, int | None]
) -> None:
    """`old.json` was written before there was an interval."""
    monkeypatch.chdir(tmp_path)
    Path("old.json").write_text('{"preset": "clean", "frame_stride": 2}')
    Path("new.json").write_text(PretrainingRecipe(frame_interval=0.2).to_json())
    recipe = parse_recipe(arguments)
    assert (recipe.frame_interval, recipe.frame_stride) == expected
    processor = build_processor(recipe)
    assert processor.frame_interval == expected[0]
    assert processor.frame_stride == (expected[1] or round(expected[0] * 25))  # without a frame rate, 25 fps


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("objective", OBJECTIVE_NAMES)
def test_every_preset_builds_every_objective(preset: str, objective: str) -> None:
    config = PretrainingRecipe.from_preset(preset, objective=objective, projector_sizes=[16, 8]).model_config()
    module = build_objective(config.objective, 8, config.objective_options)
    assert module.projector[-1].out_features == 8
    assert [layer.out_features for layer in module.predictor.children() if hasattr(layer, "out_features")] == (
        [16, 8] if objective == "byol" else []
    )


def test_the_saved_recipe_is_accepted_as_config(tmp_path: Path) -> None:
    original = PretrainingRecipe.from_preset(
        "paper", objective="byol", projector_sizes=(32, 16), resume=True, progress=False, crop_area=(0.3, 0.9)
    )
    (tmp_path / "recipe.json").write_text(original.to_json())
    path = tmp_path / "recipe.json"
    assert set(json.loads(path.read_text())) == {field.name for field in fields(PretrainingRecipe)}
    assert parse_recipe(["--config", str(path)]) == original
    assert parse_recipe(["--config", str(path), "--no_progress", "--resume", "False"]) == replace(
        original, resume=False
    )
    assert parse_recipe(["--config", str(path), "--progress"]) == replace(original, progress=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--streaming --dataset_root x", "dataset_root is only for built-in data sets without streaming"),
        ("--streaming --cache_gb 1", "streaming does not support cache_gb: leave out one of the two"),
        ("--frame_interval 0.1 --frame_stride 2", "choose one of frame_interval and frame_stride, got both"),
        ("--crop_area 0.5", "crop_area must be two shares 0 < smallest <= largest <= 1, got [0.5]"),
        ("--crop_area 0.9 0.5", "crop_area must be two shares 0 < smallest <= largest <= 1, got [0.9, 0.5]"),
        ("--image_size 20", "image_size must be at least 32, got 20"),
        ("--hidden_sizes 8 8", "hidden_sizes must be four positive integers, one per stage, got (8, 8)"),
        ("--backbone s3d --hidden_sizes 8 8 8 8", "backbone 's3d' has fixed stages: leave hidden_sizes unset, got"),
        ("--vicreg_weights 1 1", "vicreg_weights must be three numbers, got [1.0, 1.0]"),
        ("--fused_optimizer", "fused_optimizer needs optimizer adamw or sgd, got lars"),
        ("--torch_compile --activation_checkpointing", "torch_compile and activation_checkpointing cannot be combined"),
    ],
)
def test_a_wrong_flag_or_value_is_named(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(arguments.split(), capsys).startswith(message)


@pytest.mark.parametrize("backbone", BACKBONE_NAMES)
def test_network_follows_the_recipe(backbone: str) -> None:
    stages = {} if backbone == "s3d" else {"hidden_sizes": (4, 4, 8, 8), "depths": (1, 1, 1, 2)}
    recipe = PretrainingRecipe(
        backbone=backbone,
        num_frames=6,
        image_size=48,
        view_forward="joint",
        batch_norm="shared",
        derivative_scale="unit",
        order_schedule="first-order",
        **stages,
    )
    config = recipe.model_config()
    assert (config.backbone, config.num_frames, config.image_size) == (backbone, 6, 48)
    assert (config.view_forward, config.derivative_orders) == ("joint", (0, 1))
    assert (config.batch_norm, config.derivative_scale) == ("shared", "unit")
    assert (config.hidden_sizes, config.depths) == (stages.get("hidden_sizes"), stages.get("depths"))
    assert config.objective_options == {}  # the objective's own defaults


def test_what_a_resumed_run_may_change() -> None:
    saved = asdict(CLEAN)
    replace(CLEAN, resume=True, epochs=200, output_dir="elsewhere", learning_rate=0.1, num_workers=0).check_resumes(
        saved
    )
    replace(CLEAN, torch_compile=True, channels_last=False).check_resumes(saved)
    CLEAN.check_resumes({"order_schedule": "paper"})  # fields that the older file does not have are not compared
    changed = {"order_schedule": "baseline", "objective": "byol", "optimizer": "sgd", "batch_size": 8, "seed": 1}
    changed |= {"weight_decay": 0.1, "num_frames": 4, "backbone": "mc3_18", "projector_sizes": [8]}
    changed |= {"derivative_scale": "unit"}
    for name, value in changed.items():
        with pytest.raises(ValueError, match="a resumed run must keep its options") as error:
            replace(CLEAN, **{name: value}).check_resumes(saved)
        assert f"{name} was {getattr(CLEAN, name)!r} and is {value!r}" in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 8, "chunk_size": 3}, r"chunk_size must divide batch_size \(8\), got 3"),
        ({"batch_size": 8, "gradient_accumulation": 3}, r"gradient_accumulation must divide batch_size \(8\), got 3"),
        ({"gradient_accumulation": 2, "chunk_size": 8}, "both split the batch: choose one, got 2 and 8"),
    ],
)
def test_a_batch_in_parts_that_cannot_be_is_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainingRecipe(**options)
    PretrainingRecipe(batch_size=8, chunk_size=4)
    PretrainingRecipe(batch_size=8, gradient_accumulation=4)
