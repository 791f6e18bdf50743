"""Fine-tuning to recognize actions: it learns, takes the labels of what it reads, and tests once."""

import json

import pytest
import torch
import torch.nn.functional as F
from transformers import pipeline

from vididi_hf import ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.data.folders import with_video_column
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.evaluation.classification import ClassificationEvaluator
from vididi_hf.evaluation.results import read_report
from vididi_hf.finetuning import recognition
from vididi_hf.finetuning.recognition import finetune
from vididi_hf.finetuning.trainer import FinetuningTrainer
from vididi_hf.pretraining.logging import read_metrics


def weights(folder):
    return ViDiDiForVideoClassification.from_pretrained(folder).state_dict()


def test_it_learns_and_leaves_a_classifier_with_its_results(recipe, videos, tmp_path):
    # Encoded files differ from machine to machine, so the numbers do; five seeds reached a tenth of the first loss.
    settings = {"epochs": 40, "batch_size": 12, "learning_rate": 0.3, "lr_milestones": [0.4, 0.7]}
    settings |= {"dropout": 0.0, "label_smoothing": 0.0}
    result = finetune(recipe(**settings, inputs=["frames", "derivative"]))
    log = read_metrics(tmp_path / "run")
    assert [row["epoch"] for row in log] == list(range(1, 41))
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert result["metrics"]["frames"]["top-1"] > 0.6
    assert list(result["metrics"]) == ["frames", "derivative", "ensemble"]
    report = read_report(tmp_path / "run")
    assert report["metrics"] == result["metrics"]
    assert report["protocol"]["trained_inputs"] == ["frames", "derivative"]
    assert (report["protocol"]["videos"], report["protocol"]["training_videos"]) == (6, 12)
    assert (report["task"], report["dataset"], report["split"]) == ("classification", videos.parent.name, "test")
    # The saved model gives the saved numbers, and the pipeline reads it.
    model = ViDiDiForVideoClassification.from_pretrained(tmp_path / "run")
    assert model.config.batch_norm == "per_order"  # frames and derivative took turns
    assert model.config.id2label == {0: "bright", 1: "dark", 2: "flicker"}
    processor = ViDiDiVideoProcessor.from_pretrained(tmp_path / "run")
    test = load_video_dataset(videos, split="test")
    inputs = ("frames", "derivative", "ensemble")
    assert ClassificationEvaluator(test, processor, inputs, num_clips=2)(model)["metrics"] == result["metrics"]
    answer = pipeline("video-classification", model=str(tmp_path / "run"))(str(videos.parent / "12.mp4"))
    assert {entry["label"] for entry in answer} == {"bright", "dark", "flicker"}


def test_random_weights_and_a_finetuned_model_as_the_beginning(recipe, checkpoint, tmp_path):
    finetune(recipe(random_init=True, train="head", epochs=1))
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["random_init"] is True
    encoder = ViDiDiModel.from_pretrained(checkpoint).state_dict()
    after = weights(tmp_path / "run")
    assert not torch.equal(
        after["vididi.backbone.layer1.0.conv1.0.weight"], encoder["backbone.layer1.0.conv1.0.weight"]
    )
    # A classifier of other classes gives its encoder, and gets a new head.
    finetune(recipe("next", model=str(tmp_path / "run"), inputs=["both"], train="head", epochs=1))
    assert weights(tmp_path / "next")["classifier.weight"].shape == (3, 64)


def test_a_substitute_has_its_own_label(recipe, videos, broken_videos, tmp_path, monkeypatch):
    rows = load_video_dataset(videos, split="train")
    paths = [str(videos.parent / f"{index}.mp4") for index in range(12)]
    paths[4] = str(broken_videos["empty"])
    names = rows.features["label"].int2str(rows["label"])
    test = load_video_dataset(videos, split="test")
    monkeypatch.setattr(recognition, "load_splits", lambda _: (with_video_column(paths, names), test))
    targets, batches = [], []
    cross_entropy, compute_loss = F.cross_entropy, FinetuningTrainer.compute_loss
    monkeypatch.setattr(recognition.F, "cross_entropy", lambda x, y, **k: targets.append(y) or cross_entropy(x, y, **k))
    monkeypatch.setattr(
        FinetuningTrainer,
        "compute_loss",
        lambda self, model, batch, **k: batches.append(batch) or compute_loss(self, model, batch, **k),
    )
    result = finetune(recipe(epochs=1))
    assert result["protocol"]["failed_training_videos"] == [str(broken_videos["empty"])]
    for batch, target in zip(batches, targets):
        assert 4 not in batch["rows"].tolist()
        assert target.tolist() == [row % 3 for row in batch["rows"].tolist()]


def test_what_does_not_fit_is_named(recipe, videos, tmp_path):
    unlabeled = tmp_path / "list.csv"
    unlabeled.write_text(f"video,split\n{videos.parent}/0.mp4,train\n{videos.parent}/1.mp4,test\n")
    with pytest.raises(ValueError, match=r"the split 'train' .* has none"):
        finetune(recipe(dataset=str(unlabeled)))
    with pytest.raises(FileNotFoundError, match="no folder"):
        finetune(recipe(model=str(tmp_path / "nowhere")))
