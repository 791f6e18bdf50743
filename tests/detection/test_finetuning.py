"""Training a detector from a checkpoint to its files, on data that can be learnt, in JHMDB's manner and in AVA's."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.tiny_encoders import save_encoder
from vididi_hf.cli import run_command
from vididi_hf.detection.key_frames import load_key_frames
from vididi_hf.detection_vididi import ViDiDiForActionDetection
from vididi_hf.evaluation.metrics.ava_map import ava_mean_ap, read_ava_csv, read_ava_excluded
from vididi_hf.evaluation.results import read_report
from vididi_hf.finetuning.detection import finetune_detection, problem_type
from vididi_hf.finetuning.recipe import DetectionRecipe
from vididi_hf.finetuning.trainer import SaveEpochs
from vididi_hf.pretraining.logging import read_metrics


@pytest.fixture
def recipe(dataset, checkpoint, tmp_path):
    def make(name="run", **changes):
        settings = {"epochs": 2, "every": 3, "test_every": 5, "batch_size": 6, "warmup_epochs": 0}
        settings |= {"color_probability": 0.0, "num_workers": 0, "progress": False}
        settings |= {"model": str(checkpoint), "dataset": str(dataset), "output_dir": str(tmp_path / name)}
        return DetectionRecipe(**(settings | changes))

    return make


def weights(folder):
    return ViDiDiForActionDetection.from_pretrained(folder).state_dict()


def test_it_learns_and_leaves_a_detector_with_its_results(recipe, dataset, tmp_path, capsys):
    result = finetune_detection(
        recipe(epochs=8, learning_rate=0.8, dropout=0.1, inputs=["frames", "derivative"], crop_area=[0.6, 1.0])
    )
    log = read_metrics(tmp_path / "run")
    assert [row["epoch"] for row in log] == list(range(1, 9))
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]
    assert list(result["metrics"]) == ["frames", "derivative", "ensemble"]
    assert result["metrics"]["frames"]["frame-mAP@0.5"] > 0.6  # chance is a third
    report = read_report(tmp_path / "run")
    assert report["metrics"] == result["metrics"]
    assert (report["task"], report["protocol"]["box_source"]) == ("detection", "ground truth")
    assert (report["protocol"]["key_frames"], report["protocol"]["training_key_frames"]) == (12, 36)
    assert set(report["average_precisions"]["frames"]) == {"bright", "dark", "flicker"}
    assert report["model_index"][0]["results"][0]["task"]["type"] == "object-detection"
    model = ViDiDiForActionDetection.from_pretrained(tmp_path / "run")
    assert model.config.id2label == {0: "bright", 1: "dark", 2: "flicker"}
    assert model.config.problem_type == "single_label_classification"
    assert model.config.batch_norm == "per_order"  # frames and derivatives take turns
    predictions = read_ava_csv(tmp_path / "run" / "predictions-ensemble.csv")
    assert [sorted(frame["labels"]) for frame in predictions.values()] == [[1, 2, 3]] * 12
    with Image.open(tmp_path / "run" / "detections.png") as picture:
        assert picture.width > 900
    assert json.loads((tmp_path / "run" / "finetuning.json").read_text())["boxes"] == "ground_truth"
    # The other command measures the same.
    flags = ["--model", str(tmp_path / "run"), "--dataset", str(dataset), "--output", str(tmp_path / "test")]
    flags += ["--test_every", "5", "--inputs", "frames", "ensemble", "--num_workers", "0", "--no_progress"]
    run_command("evaluate detection", flags)
    assert "12 key frames, 12 boxes" in capsys.readouterr().out
    again = read_report(tmp_path / "test")
    for name in ("frames", "ensemble"):
        assert again["metrics"][name] == pytest.approx(report["metrics"][name])
    files = {"detections.png", "metrics.json", "predictions-ensemble.csv", "predictions-frames.csv"}
    assert {path.name for path in (tmp_path / "test").iterdir()} == files


def test_a_run_that_is_stopped_resumes_exactly(recipe, monkeypatch):
    straight, stopped = recipe("straight"), recipe("stopped")
    finetune_detection(straight)

    def interrupt(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SaveEpochs, "on_save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            finetune_detection(stopped)
    finetune_detection(recipe("stopped", resume=True))
    expected, found = weights(straight.output_dir), weights(stopped.output_dir)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert read_metrics(stopped.output_dir) == read_metrics(straight.output_dir)


def test_jittered_boxes_and_frozen_parts(recipe, checkpoint, tmp_path, capsys):
    path = tmp_path / "recipe.json"
    path.write_text(recipe(boxes="jittered", jitter=0.3, epochs=1, detection_stride=8).to_json(), encoding="utf-8")
    run_command("detect", ["--config", str(path), "--train", "head"])
    shown = capsys.readouterr().out
    assert "12 key frames, 12 boxes" in shown
    assert "frame-mAP@0.5" in shown
    protocol = read_report(tmp_path / "run")["protocol"]
    assert protocol["box_source"] == "ground truth, jittered by 0.3"
    assert protocol["detection_stride"] == 8
    before, after = weights(checkpoint), weights(tmp_path / "run")
    encoder = [name for name in after if name.startswith("vididi.")]
    assert all(torch.equal(before[name], after[name]) for name in encoder)


def test_ava_end_to_end_with_its_own_files(recipe, ava_root, tmp_path):
    """Lists of lines for boxes and actions, names, excluded key frames, persons from a file; back to AVA's format."""
    persons = tmp_path / "persons.csv"
    truth = [line.split(",") for line in (ava_root / "ava_val_v2.2.csv").read_text().splitlines()]
    lines = [f"{','.join(line[:6])},,0.95\n" for line in truth]
    # Somebody where nobody is annotated, which is a mistake, and somebody of whom the detector is not sure.
    lines += ["three,0905,0.100,0.100,0.500,0.900,,0.95\n", "three,0903,0.1,0.1,0.2,0.2,,0.5\n"]
    persons.write_text("".join(lines))
    data = {"dataset": "ava", "dataset_root": str(ava_root), "test_split": "validation"}
    run = recipe(**data, batch_size=5, epochs=3, boxes="file", detections=str(persons))
    result = finetune_detection(run)
    folder = Path(run.output_dir)
    model = ViDiDiForActionDetection.from_pretrained(folder)
    assert (model.config.problem_type, model.config.num_labels) == ("multi_label_classification", 80)
    assert result["protocol"]["key_frames"] == 896  # seconds 902 to 1798, annotated or not, but the excluded one
    assert result["protocol"]["boxes"] == 4
    assert result["protocol"]["scores"] == "sigmoid"
    # The number is that of the official files and the prediction file, read anew.
    predictions = read_ava_csv(folder / "predictions-frames.csv")
    references = read_ava_csv(ava_root / "ava_val_v2.2.csv")
    excluded = read_ava_excluded(ava_root / "ava_val_excluded_timestamps_v2.2.csv")
    assert set(predictions) == {("three", 902), ("three", 903), ("three", 905)}
    assert len(predictions["three", 903]["boxes"]) == 2 * 80
    mean, each = ava_mean_ap(predictions, references, [12, 79, 80], excluded)
    assert result["metrics"]["frames"]["mAP@0.5"] == pytest.approx(mean)
    report = read_report(folder)
    assert report["primary_metric"]["name"] == "mAP@0.5"
    shown = report["average_precisions"]["frames"]
    assert len(shown) == 60
    expected = {"stand": each[12], "talk to": each[79], "action 80": each[80]}
    assert {name: value for name, value in shown.items() if value is not None} == pytest.approx(expected)


def test_the_kind_of_problem(dataset, ava_root):
    squares, movies = load_key_frames(dataset), load_key_frames("ava", root=ava_root)
    assert problem_type("auto", squares) == "single_label_classification"
    assert problem_type("auto", movies) == "multi_label_classification"
    assert problem_type("multi", squares) == "multi_label_classification"


def test_what_does_not_fit_is_named(recipe, checkpoint, dataset, capsys):
    with pytest.raises(ValueError, match="detection_stride of backbone 'r3d_18' must be 16 or 8"):
        finetune_detection(recipe(detection_stride=32))
    with pytest.raises(SystemExit):
        run_command("evaluate detection", ["--model", str(checkpoint), "--dataset", str(dataset)])
    assert "lacks 2 weights of the model, such as classifier.bias" in capsys.readouterr().err


def test_it_starts_from_an_encoder_of_transformers(recipe, tmp_path):
    """A fixed one: the frames of the test, which are not square, are squeezed."""
    encoder = save_encoder(tmp_path / "encoder", "videomae")
    result = finetune_detection(recipe(model=str(encoder), epochs=1, learning_rate=0.01))
    assert result["protocol"]["crop"] == "none, squeezed to a square"
    assert ViDiDiForActionDetection.from_pretrained(tmp_path / "run").config.backbone_name == "videomae"
