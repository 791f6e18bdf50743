"""`vididi finetune` and `vididi evaluate classification`, from the command line to metrics.json."""

import pytest

from vididi_hf.cli import run_command
from vididi_hf.evaluation.results import read_report


def test_from_a_checkpoint_to_a_classifier_and_its_test(checkpoint, motion_root, tmp_path, capsys):
    data = ["--dataset", str(motion_root / "clips.csv"), "--num_workers", "0", "--no_progress"]
    run, test = str(tmp_path / "run"), str(tmp_path / "test")
    flags = ["--epochs", "1", "--batch_size", "8", "--test_clips", "2", "--train", "head"]
    flags += ["--inputs", "frames", "derivative"]
    run_command("finetune", ["--model", str(checkpoint), "--output_dir", run, *data, *flags])
    report = read_report(run)
    assert report["task"] == "classification"
    assert list(report["metrics"]) == ["frames", "derivative", "ensemble"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "8 test videos, 8 classes"
    assert printed[1].split() == ["input", "top-1", "top-5", "mean-class"]
    # The other command measures the same.
    flags = ["--num_clips", "2", "--device", "cpu", "--inputs", "frames", "ensemble"]
    run_command("evaluate classification", ["--model", run, "--output", test, *data, *flags])
    again = read_report(test)
    assert again["metrics"] == {name: report["metrics"][name] for name in ("frames", "ensemble")}
    assert again["model_index"][0]["name"] == "run"


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("finetune", ["--train", "stem"], "train must be one of all, last_stage, head, got 'stem'"),
        ("finetune", ["--train_split", "validation"], "has no split 'validation'"),
        ("evaluate classification", ["--device", "cpu"], "lacks 2 weights of the model, such as classifier.bias"),
    ],
)
def test_mistakes_are_one_line(command, flags, message, checkpoint, motion_root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run_command(command, ["--model", str(checkpoint), "--dataset", str(motion_root / "clips.csv"), *flags])
    assert stopped.value.code == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert message in line
