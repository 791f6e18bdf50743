"""Encoders of a study are trained with labels as the grid says, on the run's own videos, and tested once."""

import json
from pathlib import Path

import pytest

from studies.running import run_one
from vididi_hf import ViDiDiModel
from vididi_hf.evaluation.results import read_report
from vididi_hf.pretraining.logging import read_metrics

RECOGNITION = {"epochs": 1, "batch_size": 8, "warmup_epochs": 0, "learning_rate": 0.0, "test_clips": 1}
DETECTION = {"epochs": 1, "every": 12, "test_every": 12, "learning_rate": 0.0}
EVALUATION = {"inputs": ["frames"], "num_clips": 1, "linear": False}


@pytest.fixture
def boxes_root(tmp_path: Path, write_video) -> Path:
    """JHMDB from tables, of one training and one test clip of each action, all the same video."""
    root = tmp_path / "boxes"
    video = write_video(root / "video.mp4", frames=12)
    clips, boxes = ["video,label,split,source,frames"], ["video,frame,x1,y1,x2,y2,label"]
    for action in (f"action{number}" for number in range(21)):
        for split in ("train", "test"):
            clip = root / "videos" / action / f"{split}_{action}_0.mp4"
            clip.parent.mkdir(parents=True, exist_ok=True)
            clip.symlink_to(video)
            name = clip.relative_to(root)
            clips.append(f"{name},{action},{split},{split},12")
            boxes.append(f"{name},0,0.25,0.25,0.75,0.75,{action}")
    (root / "clips.csv").write_text("\n".join(clips) + "\n")
    (root / "boxes.csv").write_text("\n".join(boxes) + "\n")
    return root


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


def test_a_detector_is_trained_where_the_set_lies(tiny_study, boxes_root: Path, tmp_path: Path) -> None:
    tiny_study.add_dataset("boxes", dataset="jhmdb", root=str(boxes_root), pretrained_on="clips")
    run = tiny_study.plan(tmp_path / "out", datasets=["boxes"], evaluation={**EVALUATION, "detection": DETECTION})[0]
    result = run_one(run)
    report = read_report(run.folder / "detection")
    assert result["metrics"]["label"]["frames"]["frame-mAP"] == report["metrics"]["frames"]["frame-mAP@0.5"]
    assert report["pretrained"] == str(tmp_path / "out" / "clips" / "untrained-seed0")
    assert (report["protocol"]["key_frames"], report["protocol"]["training_key_frames"]) == (21, 21)
    assert result["configuration"]["dataset"] == "jhmdb"
