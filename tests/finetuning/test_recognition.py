"""Fine-tuning to recognize actions: it learns, takes the labels of what it reads, and what is frozen stays."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from transformers import pipeline

from vididi_hf import ViDiDiConfig, ViDiDiForVideoClassification, ViDiDiModel
from vididi_hf.cli import run_command
from vididi_hf.data.folders import with_video_column
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.evaluation.results import read_report
from vididi_hf.finetuning import recognition
from vididi_hf.finetuning.models import separate_statistics
from vididi_hf.finetuning.recognition import finetune
from vididi_hf.finetuning.trainer import FinetuningTrainer
from vididi_hf.pretraining.logging import read_metrics


def weights(folder):
    return ViDiDiForVideoClassification.from_pretrained(folder).state_dict()


def test_it_learns_and_leaves_a_classifier_with_its_results(recipe, videos, tmp_path, capsys):
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
    # The other command measures the same, and the pipeline reads the model.
    model = ViDiDiForVideoClassification.from_pretrained(tmp_path / "run")
    assert model.config.batch_norm == "per_order"  # frames and derivative took turns
    assert model.config.id2label == {0: "bright", 1: "dark", 2: "flicker"}
    flags = ["--model", str(tmp_path / "run"), "--dataset", str(videos), "--output", str(tmp_path / "test")]
    flags += ["--num_clips", "2", "--inputs", "frames", "ensemble", "--num_workers", "0", "--no_progress"]
    run_command("evaluate classification", flags)
    again = read_report(tmp_path / "test")
    assert again["metrics"] == {name: report["metrics"][name] for name in ("frames", "ensemble")}
    assert again["model_index"][0]["name"] == "run"
    assert capsys.readouterr().out.startswith("6 videos, 3 classes")
    answer = pipeline("video-classification", model=str(tmp_path / "run"))(str(videos.parent / "12.mp4"))
    assert {entry["label"] for entry in answer} == {"bright", "dark", "flicker"}


def test_random_weights_and_a_finetuned_model_as_the_beginning(recipe, checkpoint, tmp_path, capsys):
    path = tmp_path / "recipe.json"
    path.write_text(recipe(random_init=True, epochs=1).to_json(), encoding="utf-8")
    run_command("finetune", ["--config", str(path), "--train", "head"])
    counts, columns, *_ = capsys.readouterr().out.splitlines()
    assert (counts, columns.split()) == ("6 test videos, 3 classes", ["input", "top-1", "top-5", "mean-class"])
    assert read_report(tmp_path / "run")["random_init"] is True
    name = "backbone.layer1.0.conv1.0.weight"
    encoder = ViDiDiModel.from_pretrained(checkpoint).state_dict()
    assert not torch.equal(weights(tmp_path / "run")[f"vididi.{name}"], encoder[name])
    # A classifier of other classes gives its encoder, and gets a new head.
    finetune(recipe("next", model=str(tmp_path / "run"), inputs=["both"], train="head", epochs=1))
    assert weights(tmp_path / "next")["classifier.weight"].shape == (3, 64)


def test_a_substitute_has_its_own_label(recipe, videos, broken_videos, tmp_path, monkeypatch):
    rows = load_video_dataset(videos, split="train")
    paths = [str(videos.parent / f"{index}.mp4") for index in range(12)]
    paths[4] = str(broken_videos["empty"])
    names = rows.features["label"].int2str(rows["label"])
    test = load_video_dataset(videos, split="test")
    monkeypatch.setattr(recognition, "load_splits", lambda *_: (with_video_column(paths, names), test))
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


@pytest.mark.parametrize("part", ["head", "last_stage"])
def test_frozen_parts_do_not_move(part, recipe, checkpoint):
    run = recipe(train=part, learning_rate=1.0)
    finetune(run)
    after = weights(run.output_dir)
    encoder = ViDiDiModel.from_pretrained(checkpoint).state_dict()
    moved = {name for name, tensor in encoder.items() if not torch.equal(after[f"vididi.{name}"], tensor)}
    if part == "head":
        assert moved == set()
    else:
        assert {name.split(".")[1] for name in moved} == {"layer4"}
        assert any("running_var" in name for name in moved)


def test_statistics_are_separated_without_changing_what_the_model_computes(checkpoint):
    model = ViDiDiForVideoClassification.from_pretrained(checkpoint)
    model.train()(torch.randn(2, 6, 3, 32, 32))  # statistics that are not those of a new network
    model.eval()
    clips = torch.randn(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = [model(clips, derivative_orders=(order,)).logits for order in (0, 1)]
    model = separate_statistics(model, (0, 1)).eval()
    for order in (0, 1):
        torch.testing.assert_close(model(clips, derivative_orders=(order,)).logits, expected[order])
    model.train()(clips, derivative_orders=(1,))
    model.eval()
    torch.testing.assert_close(model(clips).logits, expected[0])  # only the derivative's statistics have moved
    assert not torch.allclose(model(clips, derivative_orders=(1,)).logits, expected[1])


@pytest.mark.parametrize(
    ("pretrained", "inputs"),
    [
        ({"batch_norm": "shared"}, ["frames", "derivative"]),
        ({"batch_norm": "shared"}, ["both"]),
        # The baseline of the comparison: statistics per order, and frames are all that it has seen.
        ({"batch_norm": "per_order", "derivative_orders": (0,)}, ["frames", "derivative"]),
    ],
)
def test_frames_and_derivatives_have_statistics_of_their_own(pretrained, inputs, recipe, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "encoder")
    config = ViDiDiConfig.from_pretrained(checkpoint)
    encoder = ViDiDiModel(ViDiDiConfig(**{**config.to_dict(), **pretrained}))
    encoder.train()(torch.randn(2, 4, 3, 32, 32))  # statistics that are not those of a new network
    encoder.save_pretrained(folder)
    before = encoder.backbone.stem[1].running_var.flatten()
    run = recipe(model=str(folder), inputs=inputs, epochs=1)
    finetune(run)
    model = ViDiDiForVideoClassification.from_pretrained(run.output_dir)
    assert (model.config.batch_norm, {0, 1} <= set(model.config.derivative_orders)) == ("per_order", True)
    frames, derivative = model.vididi.backbone.stem[1].running_var[:2]
    pairs = ((frames, before), (derivative, before), (frames, derivative))
    assert not any(torch.allclose(one, other, rtol=1e-3) for one, other in pairs)
