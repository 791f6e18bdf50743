"""The scripts of fine-tuning and of testing a classifier, from the command line to metrics.json."""

import importlib.util
import sys
from pathlib import Path

import pytest

from vididi_hf.evaluation.results import read_report

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_from_a_checkpoint_to_a_classifier_and_its_test(checkpoint, motion_root, tmp_path, capsys):
    data = ["--dataset", str(motion_root / "clips.csv"), "--num_workers", "0", "--no_progress"]
    run = tmp_path / "run"
    flags = [
        "--epochs",
        "1",
        "--batch_size",
        "8",
        "--test_clips",
        "2",
        "--train",
        "head",
        "--inputs",
        "frames",
        "derivative",
    ]
    load("finetune").main(["--model", str(checkpoint), "--output_dir", str(run), *data, *flags])
    report = read_report(run)
    assert report["task"] == "classification"
    assert list(report["metrics"]) == ["frames", "derivative", "ensemble"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "8 test videos, 8 classes"
    assert printed[1].split() == ["input", "top-1", "top-5", "mean-class"]
    # The other script measures the same.
    flags = [
        "--num_clips",
        "2",
        "--device",
        "cpu",
        "--output",
        str(tmp_path / "test"),
        "--inputs",
        "frames",
        "ensemble",
    ]
    load("evaluate_classification").main(["--model", str(run), *data, *flags])
    again = read_report(tmp_path / "test")
    assert again["metrics"] == {name: report["metrics"][name] for name in ("frames", "ensemble")}
    assert again["model_index"][0]["name"] == "run"


def test_mistakes_are_one_line(checkpoint, motion_root, tmp_path, capsys):
    data = ["--model", str(checkpoint), "--dataset", str(motion_root / "clips.csv")]
    for script, flags, message in (
        ("finetune", ["--train", "stem"], "train must be one of all, last_stage, head, got 'stem'"),
        ("finetune", ["--train_split", "validation", "--output_dir", str(tmp_path)], "has no split 'validation'"),
        ("evaluate_classification", ["--device", "cpu"], "lacks 2 weights of the model, such as classifier.bias"),
    ):
        with pytest.raises(SystemExit) as stopped:
            load(script).main([*data, *flags])
        assert stopped.value.code == 2
        *_, line = capsys.readouterr().err.strip().splitlines()
        assert message in line
