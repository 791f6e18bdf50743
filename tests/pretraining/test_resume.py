"""Runs that stop and continue end as if they had never stopped, bit by bit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pretraining.runs import (
    BATCH,
    EPOCHS,
    OPTIMIZERS,
    STEPS,
    TOTAL,
    assert_same,
    final_state,
    interrupt,
    make_recipe,
    without_speed,
)
from vididi_hf.data.preparation.options import PreparationOptions
from vididi_hf.data.preparation.prepare import prepare_dataset
from vididi_hf.pretraining import loop, modeling
from vididi_hf.pretraining.checkpoints import VIDEOS, list_checkpoints
from vididi_hf.pretraining.logging import read_metrics
from vididi_hf.pretraining.loop import pretrain
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining, compile_encoders
from vididi_hf.pretraining.recipe import PretrainingRecipe


@pytest.mark.parametrize("objective", OPTIMIZERS)
@pytest.mark.parametrize(
    ("options", "stop", "found"),
    [
        ({"save_steps": 2}, (5, "step"), "step-00000004"),  # in the middle of an epoch
        ({"save_epochs": 1}, (4, "step"), "step-00000003"),  # at its edge
        ({"save_steps": 3, "save_epochs": 9}, (3, "epoch"), None),  # after an epoch's last step, before its checkpoint
    ],
)
def test_a_run_that_is_stopped_and_resumed_ends_as_if_it_had_not_been(
    objective, options, stop, found, videos, whole_runs, tmp_path
) -> None:
    expected = whole_runs(objective)
    recipe = make_recipe(videos, tmp_path, objective, **options)
    interrupt(recipe, stop[0], stop[1])
    assert [path.name for path in list_checkpoints(tmp_path)][-1:] == ([found] if found else [])
    pretrain(replace(recipe, resume=True))
    assert_same(final_state(tmp_path), final_state(expected))
    assert without_speed(read_metrics(tmp_path)) == without_speed(read_metrics(expected))


def test_workers_and_a_second_stop_change_nothing(videos, whole_runs, tmp_path) -> None:
    recipe = make_recipe(videos, tmp_path, "byol", num_workers=2, save_steps=1, resume=True)
    for stop in (2, 5):
        interrupt(recipe, stop)
        assert len(list_checkpoints(tmp_path)) == min(stop - 1, recipe.keep_checkpoints)
    pretrain(recipe)
    assert_same(final_state(tmp_path), final_state(whole_runs("byol")))
    assert [row["epoch"] for row in read_metrics(tmp_path)] == [1, 2]


def test_a_streamed_run_that_is_stopped_within_an_epoch_ends_as_if_it_had_not_been(videos, tmp_path) -> None:
    shards = tmp_path / "shards"
    prepare_dataset(
        PreparationOptions(
            dataset=str(videos), output_dir=str(shards), videos_per_group=2, num_workers=0, progress=False
        )
    )
    options: dict[str, Any] = {"streaming": True, "shuffle_window": 6}
    expected = pretrain(make_recipe(shards, tmp_path / "whole", **options))
    assert [row["total_steps"] for row in read_metrics(expected)] == [STEPS, TOTAL]
    recipe = make_recipe(shards, tmp_path / "stopped", save_steps=1, num_workers=1, **options)
    interrupt(recipe, 5)
    assert list_checkpoints(tmp_path / "stopped")[-1].name == "step-00000004"
    pretrain(replace(recipe, resume=True))
    assert_same(final_state(tmp_path / "stopped"), final_state(expected))


def test_a_finished_run_resumed_changes_nothing_and_can_be_made_longer(videos, whole_runs, tmp_path) -> None:
    recipe = make_recipe(videos, tmp_path, resume=True)
    pretrain(recipe)
    expected, rows = final_state(whole_runs("vicreg")), read_metrics(tmp_path)
    pretrain(recipe)
    assert_same(final_state(tmp_path), expected)
    assert read_metrics(tmp_path) == rows
    pretrain(replace(recipe, epochs=3))
    assert [row["epoch"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    assert list_checkpoints(tmp_path)[-1].name == "step-00000009"


def test_a_used_folder_is_refused_and_left_alone(videos: Path, tmp_path: Path) -> None:
    recipe = make_recipe(videos, tmp_path, epochs=1)
    pretrain(recipe)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        ValueError, match="already holds a run: add --resume to continue it, or choose another output_dir"
    ):
        pretrain(recipe)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("file", ["config.json", "checkpoints/checkpoint-3/trainer_state.json"])
def test_the_folder_of_another_model_is_left_alone(file: str, videos: Path, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("{}")
    for resume in (False, True):
        with pytest.raises(ValueError, match="already holds a model: choose another output_dir"):
            pretrain(make_recipe(videos, tmp_path, resume=resume))


def test_dropout_is_the_same_after_a_stop(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_dropout(recipe: PretrainingRecipe, build=loop.build_model, **others) -> ViDiDiForPreTraining:
        model = build(recipe, **others)
        model.objective.projector.insert(0, torch.nn.Dropout(0.5))
        return model

    monkeypatch.setattr(loop, "build_model", lambda recipe, accelerator: with_dropout(recipe, accelerator=accelerator))
    folders = [tmp_path / name for name in ("whole", "stopped")]
    pretrain(make_recipe(videos, folders[0], save_steps=1))
    recipe = make_recipe(videos, folders[1], save_steps=1)
    interrupt(recipe, 2)
    pretrain(replace(recipe, resume=True))
    assert_same(final_state(folders[1]), final_state(folders[0]))


def test_another_run_is_not_resumed(videos: Path, tmp_path: Path) -> None:
    recipe = make_recipe(videos, tmp_path, epochs=1, resume=True)
    pretrain(recipe)
    with pytest.raises(ValueError, match="order_schedule was 'paper' and is 'baseline'"):
        pretrain(replace(recipe, order_schedule="baseline"))
    videos_of_one_class = videos / "train" / "a"
    with pytest.raises(ValueError, match="has 3 steps per epoch, and this run has 2: keep the videos"):
        pretrain(replace(recipe, epochs=2, dataset=str(videos_of_one_class), accept_changed_data=True))


def test_damaged_checkpoints_are_skipped_for_older_ones(videos, whole_runs, tmp_path, capsys) -> None:
    recipe = make_recipe(videos, tmp_path, save_steps=1, keep_checkpoints=3, resume=True)
    interrupt(recipe, 5)
    older, old, newest = list_checkpoints(tmp_path)
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (old / "training_state" / "optimizer.pt").unlink()
    capsys.readouterr()
    pretrain(recipe)
    said = capsys.readouterr().out
    assert f"skipped a checkpoint: {newest} is damaged: model.safetensors has changed" in said
    assert f"skipped a checkpoint: {old} is damaged: training_state/optimizer.pt is missing" in said
    assert f"resumed from {older}: 0 epochs and 2 steps are done" in said
    assert_same(final_state(tmp_path), final_state(whole_runs("vicreg")))
    for checkpoint in list_checkpoints(tmp_path):
        (checkpoint / "recipe.json").unlink()
    with pytest.raises(ValueError, match=r"no checkpoint in .*checkpoints can be read"):
        pretrain(recipe)


def test_the_scale_of_the_loss_is_part_of_a_checkpoint(videos, tmp_path, monkeypatch) -> None:
    """As with fp16 on a GPU, whose scaler accelerate leaves out on a CPU; the scale doubles every other step."""
    build = loop.build_accelerator

    def build_with_scaler(recipe: PretrainingRecipe) -> Any:
        accelerator = build(recipe)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        return accelerator

    monkeypatch.setattr(loop, "build_accelerator", build_with_scaler)
    recipe = make_recipe(videos, tmp_path / "run", save_steps=1, resume=True)
    whole = final_state(pretrain(replace(recipe, output_dir=str(tmp_path / "whole"))))
    interrupt(recipe, 4)
    pretrain(recipe)
    assert_same(final_state(tmp_path / "run"), whole)
    state = torch.load(list_checkpoints(tmp_path / "run")[-1] / "training_state" / "optimizer.pt", weights_only=True)
    assert state["scaler"]["scale"] == 8.0 * 2 ** (TOTAL // 2)


@pytest.mark.slow  # test_compilation.py trains a step, and looks at the names of what is saved
def test_a_compiled_run_is_stopped_and_resumed_like_others(videos, tmp_path, monkeypatch) -> None:
    """Traced and differentiated as if to be compiled."""
    compiled: list[ViDiDiForPreTraining] = []

    def trace(model: ViDiDiForPreTraining) -> None:
        compiled.append(model)
        compile_encoders(model, backend="aot_eager")

    monkeypatch.setattr(modeling, "compile_encoders", trace)
    options: dict[str, Any] = {"order_schedule": "fixed-pair", "evaluate_epochs": 1}
    plain = pretrain(make_recipe(videos, tmp_path / "plain", **options))
    options["torch_compile"] = True
    expected = pretrain(make_recipe(videos, tmp_path / "whole", **options))
    recipe = make_recipe(videos, tmp_path / "stopped", save_steps=2, **options)
    interrupt(recipe, 5)
    pretrain(replace(recipe, resume=True))
    assert len(compiled) == 3
    assert_same(final_state(tmp_path / "stopped"), final_state(expected))
    found, wanted = (final_state(folder)["published"] for folder in (expected, plain))
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-3)


def test_the_checkpoint_of_the_best_evaluation_is_kept(videos, tmp_path, monkeypatch) -> None:
    scores = iter([0.5, 0.75, 0.75, 0.25])
    monkeypatch.setattr(loop, "evaluate", lambda *args: {"R@1": next(scores)})
    recipe = make_recipe(videos, tmp_path, epochs=4, save_epochs=9, keep_checkpoints=1, resume=True)
    interrupt(recipe, 11)  # of 12: the best one is remembered by a run that goes on
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000006"]
    scores = iter([0.75, 0.25])
    pretrain(recipe)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000006", "step-00000012"]


def test_a_loss_that_explodes_ends_the_run_before_anything_is_saved(videos: Path, tmp_path: Path) -> None:
    recipe = make_recipe(videos, tmp_path, optimizer="sgd", learning_rate=1e30, save_epochs=1, evaluate_epochs=1)
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step 2 with derivative orders") as error:
        pretrain(recipe)
    files = sorted(str(path) for path in (videos / "train").rglob("*.mp4"))
    named = str(error.value).split("the videos of this step were ")[1].split(", ")
    assert len(named) == BATCH
    assert set(named) < set(files)
    assert list_checkpoints(tmp_path) == []
    assert read_metrics(tmp_path) == []
    assert not (tmp_path / "model.safetensors").exists()


def test_a_loss_that_explodes_is_not_saved_within_an_epoch_either(videos: Path, tmp_path: Path) -> None:
    recipe = make_recipe(videos, tmp_path, optimizer="sgd", learning_rate=1e30, save_steps=1)
    with pytest.raises(FloatingPointError, match="at step 2 "):
        pretrain(recipe)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000001"]


def test_changed_videos_are_noticed_named_and_accepted_on_demand(videos, tmp_path, capsys) -> None:
    mine = shutil.copytree(videos, tmp_path / "videos")
    recipe = make_recipe(mine, tmp_path / "run", save_steps=2)
    interrupt(recipe, 3)
    moved = mine.rename(tmp_path / "moved")
    recipe = replace(recipe, dataset=str(moved), resume=True)
    interrupt(recipe, 5)  # another folder is no other data set
    first, second, *_ = sorted((moved / "train" / "a").iterdir())
    first.rename(first.with_name("zz.mp4"))
    with second.open("ab") as file:
        file.write(b"longer")
    changes = rf"1 is gone \(a/{first.name}\), 1 is new \(a/zz.mp4\), 1 is of another size \(a/{second.name}\)"
    with pytest.raises(
        ValueError, match=f"videos are not those of .*step-00000004: {changes}; .*--accept_changed_data"
    ):
        pretrain(recipe)
    pretrain(replace(recipe, accept_changed_data=True))
    assert "continuing with other videos than before: 1 is gone" in capsys.readouterr().out
    pretrain(replace(recipe, epochs=EPOCHS + 1))  # the list was renewed
    newest = list_checkpoints(tmp_path / "run")[-1]
    listed = json.loads((newest / "training_state" / "files.json").read_text())
    (newest / "training_state" / "files.json").write_text(json.dumps({k: v for k, v in listed.items() if k != VIDEOS}))
    (newest / VIDEOS).unlink()  # as before there were lists
    pretrain(replace(recipe, epochs=EPOCHS + 2))
    assert "does not say which videos" in capsys.readouterr().out


def test_a_second_process_ends_at_once(videos, held, tmp_path) -> None:
    with pytest.raises(BlockingIOError, match=f"in use by process {held.pid} on"):
        pretrain(make_recipe(videos, tmp_path / "held"))


def test_epochs_that_leave_a_pair_of_orders_behind_are_noted(videos, tmp_path, capsys) -> None:
    pretrain(make_recipe(videos, tmp_path / "run", epochs=1))
    assert "1 epochs do not train the 4 pairs of derivative orders equally" in capsys.readouterr().out
