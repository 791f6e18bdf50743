"""Recipes: who overrules whom, what goes through JSON, and what is said about mistakes."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from vididi_hf.choices_vididi import BACKBONE_NAMES, OBJECTIVE_NAMES
from vididi_hf.objectives import build_objective
from vididi_hf.options import parse_options
from vididi_hf.pretraining.recipe import PretrainingRecipe

CLEAN = PretrainingRecipe()
PRESETS = PretrainingRecipe.presets


def parse_recipe(arguments: list[str], description: str | None = None) -> PretrainingRecipe:
    return parse_options(PretrainingRecipe, arguments, prog="vididi pretrain", description=description)


# What RECIPE and the paper's code say of the authors' runs.
PAPER = {
    "batch_norm": "shared",
    "preset": "paper",
    "vicreg_weights": [1.0, 1.0, 0.04],
    "per_frame_color": True,
    "optimizer": "lars",
    "learning_rate": 4.8,
    "weight_decay": 1e-6,
    "epochs": 400,
    "batch_size": 8,
    "mixed_precision": "fp16",
    "max_grad_norm": 0.0,
}


def write(path: Path, content: Any) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which the command ends."""
    with pytest.raises(SystemExit) as end:
        parse_recipe(arguments)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().split("\n")
    return line.removeprefix("vididi pretrain: error: ")


def test_without_arguments_it_is_the_clean_preset() -> None:
    assert parse_recipe([]) == CLEAN
    assert CLEAN.preset == "clean"
    assert PRESETS["clean"] == {}


def test_paper_preset_is_what_the_authors_ran() -> None:
    expected = asdict(CLEAN) | PAPER
    assert asdict(parse_recipe(["--preset", "paper"])) == expected
    assert asdict(PretrainingRecipe.from_preset("paper")) == expected
    objective = PretrainingRecipe.from_preset("paper").model_config().objective_options
    assert objective == {"invariance_weight": 1.0, "variance_weight": 1.0, "covariance_weight": 0.04}
    assert PretrainingRecipe.from_preset("paper").augmentation().per_frame_color
    assert not CLEAN.augmentation().per_frame_color


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("objective", OBJECTIVE_NAMES)
def test_every_preset_builds_every_objective(preset: str, objective: str) -> None:
    config = PretrainingRecipe.from_preset(preset, objective=objective, projector_sizes=[16, 8]).model_config()
    module = build_objective(config.objective, 8, config.objective_options)
    assert module.projector[-1].out_features == 8
    assert [layer.out_features for layer in module.predictor.children() if hasattr(layer, "out_features")] == (
        [16, 8] if objective == "byol" else []
    )


@pytest.mark.parametrize(
    ("preset", "file", "flag", "expected"),
    [
        (None, None, None, 100),
        ("paper", None, None, 400),
        ("paper", 7, None, 7),
        (None, 7, None, 7),
        (None, 7, 3, 3),
        ("paper", None, 3, 3),
        ("paper", 7, 3, 3),
    ],
)
def test_defaults_give_way_to_the_preset_it_to_the_file_and_it_to_flags(
    preset: str | None, file: int | None, flag: int | None, expected: int, tmp_path: Path
) -> None:
    arguments = ["--preset", preset] if preset else []
    arguments += ["--config", write(tmp_path / "file.json", {"epochs": file})] if file else []
    arguments += ["--epochs", str(flag)] if flag else []
    recipe = parse_recipe(arguments)
    assert recipe.epochs == expected
    assert recipe.optimizer == "lars"
    assert recipe.mixed_precision == ("fp16" if preset else "no")  # untouched by file and flag


def test_the_preset_that_a_file_names_is_used_unless_a_flag_names_another(tmp_path: Path) -> None:
    path = write(tmp_path / "file.json", {"preset": "paper", "epochs": 7})
    assert parse_recipe(["--config", path]) == PretrainingRecipe.from_preset("paper", epochs=7)
    assert parse_recipe(["--config", path, "--preset", "clean"]) == PretrainingRecipe(epochs=7)
    assert parse_recipe(["--config=" + path, "--preset=clean"]) == PretrainingRecipe(epochs=7)


def test_a_whole_recipe_file_leaves_a_preset_nothing_but_its_name(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(CLEAN.to_json())
    recipe = parse_recipe(["--config", str(tmp_path / "recipe.json"), "--preset", "paper"])
    assert recipe == replace(CLEAN, preset="paper")


def test_the_saved_recipe_is_accepted_as_config(tmp_path: Path) -> None:
    original = PretrainingRecipe(
        dataset="videos",
        dataset_root="root",
        output_dir="out",
        objective="byol",
        order_schedule="first-order",
        projector_sizes=(32, 16),
        hidden_sizes=(4, 4, 8, 8),
        depths=(1, 1, 1, 1),
        crop_area=(0.3, 0.9),
        per_frame_color=True,
        learning_rate=0.1,
        weight_decay=1e-6,
        max_grad_norm=1,
        resume=True,
        progress=False,
        view_forward="joint",
        batch_norm="shared",
    )
    (tmp_path / "recipe.json").write_text(original.to_json())
    path = tmp_path / "recipe.json"
    assert set(json.loads(path.read_text())) == {field.name for field in fields(PretrainingRecipe)}
    assert parse_recipe(["--config", str(path)]) == original
    assert parse_recipe(["--config", str(path), "--no_progress", "--resume", "False"]) == replace(
        original, resume=False
    )
    assert parse_recipe(["--config", str(path), "--progress"]) == replace(original, progress=True)


def test_flags_of_every_kind() -> None:
    arguments = "--hidden_sizes 8 16 32 64 --crop_area 0.5 1 --per_frame_color --no-progress --dataset-root there"
    assert parse_recipe(arguments.split()) == PretrainingRecipe(
        hidden_sizes=[8, 16, 32, 64],
        crop_area=[0.5, 1.0],
        per_frame_color=True,
        progress=False,
        dataset_root="there",
    )


def test_help_names_every_flag_and_explains_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_recipe(["--help"], description="What this is.")
    assert end.value.code == 0
    text = "".join(capsys.readouterr().out.split())  # lines are broken at hyphens, too
    assert "Whatthisis." in text
    assert "--config" in text
    for field in fields(PretrainingRecipe):
        assert f"--{field.name}" in text
        assert "".join(field.metadata["help"].split()) in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--epoch 3", "unknown option '--epoch': did you mean '--epochs'?"),  # not taken for --epochs
        ("--conf x.json", "unknown option '--conf': did you mean '--config'?"),
        ("videos others", "unexpected argument 'others'"),
        ("--epochs ten", "argument --epochs: invalid int value: 'ten'"),
        ("--epochs", "argument --epochs: expected one argument"),
        ("--shuffle_window 0", "shuffle_window must be at least 1, got 0"),
        ("--streaming --dataset_root x", "dataset_root is only for built-in data sets without streaming"),
        ("--epochs 0", "epochs must be at least 1, got 0"),
        ("--batch_size -4", "batch_size must be at least 1, got -4"),
        ("--learning_rate nan", "learning_rate must be at least 0, got nan"),
        ("--ema_momentum 1.5", "ema_momentum must be at least 0 and at most 1, got 1.5"),
        ("--final_learning_rate -1", "final_learning_rate must be at least 0 and at most 1, got -1.0"),
        ("--crop_area 0.5", "crop_area must be two shares 0 < smallest <= largest <= 1, got [0.5]"),
        ("--crop_area 0.9 0.5", "crop_area must be two shares 0 < smallest <= largest <= 1, got [0.9, 0.5]"),
        (
            "--backbone r3d_19",
            "backbone must be one of r3d_18, r2plus1d_18, mc3_18, s3d, got 'r3d_19': did you mean 'r3d_18'?",
        ),
        ("--objective moco", "objective must be one of vicreg, byol, simclr, got 'moco'"),
        ("--order_schedule papper", "order_schedule must be one of baseline, paper, paper-per-step, first-order,"),
        ("--preset best", "preset must be one of clean, paper, got 'best'"),
        ("--optimizer adam", "optimizer must be one of lars, adamw, sgd, got 'adam'"),
        ("--mixed_precision half", "mixed_precision must be one of no, bf16, fp16, got 'half'"),
        ("--tracker all", "tracker must be one of none, tensorboard, trackio, wandb, got 'all'"),
        ("--view_forward both", "view_forward must be one of separate, joint, got 'both'"),
        ("--derivative_scale half", "derivative_scale must be one of none, unit, got 'half'"),
        ("--image_size 20", "image_size must be at least 32, got 20"),
        ("--num_frames 1", "num_frames must be at least 2, got 1"),
        ("--hidden_sizes 8 8", "hidden_sizes must be four positive integers, one per stage, got (8, 8)"),
        ("--depths 1 1 0 1", "depths must be four positive integers, one per stage, got (1, 1, 0, 1)"),
        ("--backbone s3d --hidden_sizes 8 8 8 8", "backbone 's3d' has fixed stages: leave hidden_sizes unset, got"),
        ("--projector_sizes 16 0", "projector_sizes must be at least 1, got 0"),
        ("--vicreg_weights 1 1", "vicreg_weights must be three numbers, got [1.0, 1.0]"),
        ("--fused_optimizer", "fused_optimizer needs optimizer adamw or sgd, got lars"),
        ("--torch_compile --activation_checkpointing", "torch_compile and activation_checkpointing cannot be combined"),
        ("--config missing.json", "[Errno 2] No such file or directory: 'missing.json'"),
    ],
)
def test_a_wrong_flag_or_value_is_named(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(arguments.split(), capsys).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "epochs": 3}, "has the unknown option 'epoch': did you mean 'epochs'?"),
        ({"epochs": "ten"}, "epochs must be an integer, got 'ten'"),
        ({"epochs": 2.5}, "epochs must be an integer, got 2.5"),
        ({"epochs": True}, "epochs must be an integer, got True"),
        ({"epochs": None}, "epochs must be an integer, got None"),
        ({"learning_rate": [1]}, "learning_rate must be a number, got [1]"),
        ({"dataset": 3}, "dataset must be text, got 3"),
        ({"resume": 1}, "resume must be true or false, got 1"),
        ({"hidden_sizes": 8}, "hidden_sizes must be a list of int or null, got 8"),
        ({"hidden_sizes": [8, 8, 8, 8.5]}, "hidden_sizes must be a list of int or null, got [8, 8, 8, 8.5]"),
        ({"crop_area": None}, "crop_area must be a list of float, got None"),
        ({"preset": "best"}, "preset must be one of clean, paper, got 'best'"),
        ({"preset": ["paper"]}, "preset must be one of clean, paper, got ['paper']"),
        ({"backbone": "resnet"}, "backbone must be one of r3d_18, "),
        ([1, 2], "must hold a JSON object of options, got a list"),
        ("{epochs: 3}", "is not JSON: Expecting property name enclosed in double quotes"),
    ],
)
def test_a_mistake_in_a_file_is_named(
    content: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "file.json", content)
    assert message in refused(["--config", path], capsys)


def test_mistakes_in_code_are_value_errors() -> None:
    with pytest.raises(ValueError, match=r"^backbone must be one of .* got 'resnet'$"):
        PretrainingRecipe(backbone="resnet")
    with pytest.raises(ValueError, match="epochs must be an integer, got '3'"):
        PretrainingRecipe(epochs="3")
    with pytest.raises(ValueError, match="preset must be one of clean, paper, got 'best'"):
        PretrainingRecipe.from_preset("best")
    with pytest.raises(TypeError, match="epoch"):
        PretrainingRecipe.from_preset("clean", epoch=3)
    with pytest.raises(FileNotFoundError, match="missing"):
        PretrainingRecipe.read_values("missing.json")


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


def test_schedule_and_augmentation_follow_the_recipe() -> None:
    recipe = PretrainingRecipe(order_schedule="paper-per-step", seed=9, image_size=48, crop_area=[0.3, 0.7])
    schedule, augmentation = recipe.build_order_schedule(), recipe.augmentation()
    assert (schedule.every, schedule.seed, schedule.lift_probability) == ("step", 9, 0.5)
    assert (augmentation.image_size, augmentation.area) == (48, (0.3, 0.7))


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


def test_the_recipes_that_come_with_the_scripts_are_valid() -> None:
    paths = sorted((Path(__file__).parents[2] / "scripts" / "recipes").glob("*.json"))
    assert paths
    for path in paths:
        for objective in OBJECTIVE_NAMES:
            config = parse_recipe(["--config", str(path), "--objective", objective]).model_config()
            build_objective(objective, config.hidden_size, config.objective_options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_accumulation": 0}, "gradient_accumulation must be at least 1, got 0"),
        ({"chunk_size": -1}, "chunk_size must be at least 0, got -1"),
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
