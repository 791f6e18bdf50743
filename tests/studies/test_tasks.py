"""Encoders of a study are trained with labels as the grid says, on the run's own videos, and tested once."""

import json

from studies.running import run_one
from vididi_hf import ViDiDiModel
from vididi_hf.evaluation.results import read_report
from vididi_hf.pretraining.logging import read_metrics

RECOGNITION = {"epochs": 1, "batch_size": 8, "warmup_epochs": 0, "learning_rate": 0.0, "test_clips": 1}
EVALUATION = {"inputs": ["frames"], "num_clips": 1, "linear": False}


def test_a_classifier_is_trained_on_the_encoder_and_its_accuracy_stands_among_the_numbers(tiny_study, tmp_path) -> None:
    evaluation = {**EVALUATION, "recognition": RECOGNITION}
    run = tiny_study.plan(tmp_path / "out", evaluation=evaluation, seeds=[3])[2]
    result = run_one(run)
    report = read_report(run.folder / "recognition")
    assert result["metrics"]["label"]["frames"]["fine-tuned"] == report["metrics"]["frames"]["top-1"]
    assert "fine-tuned" not in result["metrics"]["background"]["frames"]
    assert (report["pretrained"], report["seed"]) == (str(run.folder), 3)
    assert (report["protocol"]["training_videos"], report["protocol"]["videos"]) == (16, 8)
    recipe = json.loads((run.folder / "recognition" / "finetuning.json").read_text())
    assert (recipe["image_size"], recipe["frame_stride"], recipe["num_frames"], recipe["epochs"]) == (32, 1, 4, 1)
    # It started from the encoder: with a rate of 0 that is what it still has.
    before, after = (ViDiDiModel.from_pretrained(run.folder / name).state_dict() for name in (".", "recognition"))
    weights = [name for name in before if name.endswith("weight")]
    assert weights
    assert all(before[name].equal(after[name]) for name in weights)

    trained = read_metrics(run.folder / "recognition")
    (run.folder / "result.json").unlink()
    assert run_one(run)["metrics"] == result["metrics"]
    assert read_metrics(run.folder / "recognition") == trained
