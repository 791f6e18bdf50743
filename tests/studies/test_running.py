"""Runs are trained as the recipe says, skipped when done, continued when killed, and written down when failed."""

import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from studies.running import run_all, run_one
from studies.runs import Run, differences
from vididi_hf import ViDiDiModel
from vididi_hf.evaluation.results import read_report
from vididi_hf.pretraining.checkpoints import list_checkpoints
from vididi_hf.pretraining.modeling import build_model
from vididi_hf.pretraining.setup import save_untrained


def files_of(run: Run) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in run.folder.glob("[!.]*.*") if path.is_file()}


def test_a_run_leaves_an_encoder_reports_and_a_result_and_is_not_done_again(tiny_study, tmp_path: Path) -> None:
    evaluation = {"inputs": ["frames", "both"], "num_clips": 1}
    run = tiny_study.plan(tmp_path / "out", evaluation=evaluation)[2]
    result = run_one(run)
    assert result == run.result() == json.loads((run.folder / "result.json").read_text())
    assert (result["dataset"], result["arm"], result["seed"]) == ("clips", "VICReg + ViDiDi", 0)
    assert set(result["metrics"]) == {"label", "background"}
    for inputs in result["metrics"].values():
        assert set(inputs) == {"frames", "both"}
        assert all({"R@1", "R@5", "20-NN", "linear"} <= set(numbers) for numbers in inputs.values())
    assert result["chance"]["label"] == pytest.approx(1 / 8)
    assert result["configuration"]["dataset"] == "clips.csv"
    assert str(tiny_study.data) not in json.dumps(result)
    [row] = result["curve"]
    assert row["epoch"] == 1
    assert ViDiDiModel.from_pretrained(run.folder).config.hidden_sizes == (4, 4, 8, 8)
    report = read_report(run.folder)
    assert (report["random_init"], report["seed"], report["split"]) == (False, 0, "test")
    assert report["metrics"]["frames"]["R@1"] == result["metrics"]["label"]["frames"]["R@1"]
    linear = read_report(run.folder / "linear.json")
    assert linear["metrics"]["both"]["top-1"] == result["metrics"]["label"]["both"]["linear"]

    before = files_of(run)
    assert run_one(run) == result
    assert files_of(run) == before
    # Another protocol looks again, and does not train again.
    again = run_one(replace(run, protocol=replace(run.protocol, linear=False, probes=[])))
    assert set(again["metrics"]) == {"label"}
    assert files_of(run)["model.safetensors"] == before["model.safetensors"]
    assert files_of(run)["result.json"] > before["result.json"]


def test_the_untrained_arm_is_what_training_starts_from(tiny_study, tmp_path: Path) -> None:
    untrained, baseline, _ = tiny_study.plan(tmp_path, seeds=[4])
    found = ViDiDiModel.from_pretrained(save_untrained(untrained.recipe)).state_dict()

    class OnCPU:
        num_processes, device = 1, torch.device("cpu")

    torch.manual_seed(4)
    started = build_model(baseline.recipe, OnCPU()).vididi.state_dict()
    assert all(torch.equal(found[name], started[name]) for name in started)


def test_a_failure_and_a_kill_stop_no_other_run_and_the_killed_one_continues(tiny_study, tmp_path: Path) -> None:
    """Three runs in one process after another: the first fails, the second is killed in the middle, the third ends."""
    recipe = {"save_epochs": 1, "evaluate_epochs": 0}
    arms = {"wrong": {}, "killed": {"recipe": {"epochs": 10}}, "fine": {}}
    evaluation = {"inputs": ["frames"], "num_clips": 1, "linear": False}
    declared = {"recipe": recipe, "arms": arms, "comparisons": [], "evaluation": evaluation}
    wrong, killed, fine = runs = tiny_study.plan(tmp_path / "out", **declared)
    wrong.folder.mkdir(parents=True)
    (wrong.folder / "configuration.json").write_text(json.dumps({**wrong.configuration(), "train_share": 0.5}))

    def kill() -> None:
        while len(list_checkpoints(killed.folder)) < 2:
            time.sleep(0.01)
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)

    ended = []
    killer = threading.Thread(target=kill)
    killer.start()
    outcomes = run_all(runs, jobs=1, finished=lambda outcome: ended.append(outcome.run.arm))
    killer.join()
    assert ended == ["wrong", "killed", "fine"]
    assert "train_share was 0.5 and is 1.0" in str(outcomes[0].error)
    assert "its process died" in str(outcomes[1].error)
    assert outcomes[2].error is None
    assert fine.result() == outcomes[2].result
    assert [run.read("failure.json") is None for run in runs] == [False, False, True]
    assert killed.result() is None
    steps = int(list_checkpoints(killed.folder)[-1].name.removeprefix("step-"))
    assert 4 <= steps < 20  # of 2 in each of 10 epochs

    continued = run_one(killed)
    assert killed.read("failure.json") is None
    [whole] = tiny_study.plan(tmp_path / "whole", **{**declared, "arms": {"killed": arms["killed"]}})
    assert run_one(whole)["metrics"] == continued["metrics"]
    weights, expected = (ViDiDiModel.from_pretrained(run.folder).state_dict() for run in (killed, whole))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.slow  # two processes
def test_no_process_outlives_a_killed_study_and_its_run_is_saved(tiny_study, tmp_path: Path) -> None:
    declared = {
        "recipe": {"epochs": 1000, "save_epochs": 1000, "save_steps": 1, "evaluate_epochs": 0},
        "arms": {"long": {}},
        "comparisons": [],
        "evaluation": {"inputs": ["frames"], "num_clips": 1, "linear": False},
    }
    runs = tiny_study.plan(tmp_path / "out", **declared)
    study = multiprocessing.get_context("spawn").Process(target=run_all, args=(runs, 1))
    study.start()
    while len(list_checkpoints(runs[0].folder)) < 1:
        assert study.is_alive()
        time.sleep(0.05)
    processes = psutil.Process(study.pid).children(recursive=True)
    study.kill()
    study.join()
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive
    assert list_checkpoints(runs[0].folder)
    assert runs[0].result() is None


def test_encoders_are_trained_further_on_another_set_and_evaluated_on_a_third(tiny_study, tmp_path: Path) -> None:
    sets = json.loads(tiny_study.path.with_name("datasets.json").read_text())
    idle = {**sets["clips"]["recipe"], "learning_rate": 0.0}
    sets["further"] = {"dataset": "clips.csv", "starts_from": "clips", "recipe": idle}
    sets["seen"] = {"dataset": "clips.csv", "pretrained_on": "further"}
    tiny_study.path.with_name("datasets.json").write_text(json.dumps(sets))
    evaluation = {"inputs": ["frames"], "num_clips": 1, "linear": False}
    arms = {"ViDiDi": {"recipe": {"order_schedule": "paper"}}}
    declared = {"arms": arms, "comparisons": [], "evaluation": evaluation, "datasets": ["seen"]}
    [run] = tiny_study.plan(tmp_path / "out", **declared)
    result = run_one(run)
    assert run.result() == result
    assert "R@1" in result["metrics"]["label"]["frames"]
    assert str(tmp_path) not in json.dumps(result["configuration"])
    assert (result["configuration"]["starts_from"], result["configuration"]["pretrained_on"]) == ("clips", "further")
    first, further = (
        ViDiDiModel.from_pretrained(tmp_path / "out" / name / "vididi-seed0") for name in ("clips", "further")
    )
    weights = dict(first.named_parameters())
    assert all(torch.equal(weights[name], weight) for name, weight in further.named_parameters())

    # Another start is another run.
    sets["clips"]["recipe"]["epochs"] = 2
    tiny_study.path.with_name("datasets.json").write_text(json.dumps(sets))
    [changed] = tiny_study.plan(tmp_path / "out", **declared)
    assert changed.result() is None
    assert differences(result["configuration"], changed.configuration()) == ["start: epochs was 1 and is 2"]
    sets["clips"]["starts_from"] = "further"
    tiny_study.path.with_name("datasets.json").write_text(json.dumps(sets))
    with pytest.raises(ValueError, match="'further': starts_from must name a data set that starts from random weights"):
        tiny_study.plan(tmp_path / "out", **declared)
