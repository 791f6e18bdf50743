"""`vididi detect` and `vididi evaluate detection`: flags, files, errors in one line."""

import json

import pytest
import torch
from torchcodec.encoders import VideoEncoder

from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.cli import run_command
from vididi_hf.data.folders import with_video_column
from vididi_hf.data.readers.detection import box_features
from vididi_hf.evaluation.metrics.ava_map import read_ava_csv


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of an encoder, and a saved data set of two videos with boxes, without splits."""
    folder = tmp_path_factory.mktemp("detection")
    paths = []
    for index in range(2):
        frames = torch.randint(256, (6, 3, 36, 48), generator=torch.Generator().manual_seed(index)).to(torch.uint8)
        VideoEncoder(frames, frame_rate=10).to_file(folder / f"{index}.mp4", extra_options={"threads": "1"})
        paths.append(str(folder / f"{index}.mp4"))
    with_video_column(
        paths,
        features=box_features(["sit", "stand"]),
        num_frames=[6, 6],
        frames=[[0, 2, 4]] * 2,
        boxes=[[[0.2, 0.2, 0.6, 0.9]] * 3] * 2,
        box_labels=[[[index]] * 3 for index in range(2)],
        persons=[[0] * 3] * 2,
    ).save_to_disk(str(folder / "data"))
    ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 4, 4), depths=(1, 1, 1, 1))).save_pretrained(folder / "encoder")
    ViDiDiVideoProcessor(num_frames=2, frame_stride=1, size=32, crop_size=32).save_pretrained(folder / "encoder")
    return folder


def test_training_and_then_another_test(folder, capsys):
    common = ["--dataset", str(folder / "data"), "--num_workers", "0", "--progress", "False"]
    options = ["--epochs", "1", "--every", "2", "--batch_size", "2", "--train_split", "all", "--test_split", "all"]
    run_command("detect", ["--model", str(folder / "encoder"), "--output_dir", str(folder / "run"), *common, *options])
    shown = capsys.readouterr().out
    assert "6 key frames, 6 boxes" in shown
    assert "frame-mAP@0.5" in shown
    options = ["--split", "all", "--inputs", "frames", "ensemble", "--test_every", "4"]
    options += ["--boxes", "jittered", "--jitter", "0.05"]
    run_command(
        "evaluate detection", ["--model", str(folder / "run"), "--output", str(folder / "test"), *common, *options]
    )
    assert "4 key frames, 4 boxes" in capsys.readouterr().out
    report = json.loads((folder / "test" / "metrics.json").read_text(encoding="utf-8"))
    assert list(report["metrics"]) == ["frames", "ensemble"]
    assert report["protocol"]["box_source"] == "ground truth, jittered by 0.05"
    files = {"detections.png", "metrics.json", "predictions-ensemble.csv", "predictions-frames.csv"}
    assert {path.name for path in (folder / "test").iterdir()} == files
    assert len(read_ava_csv(folder / "test" / "predictions-frames.csv")) == 4


def test_errors_are_one_line(folder, capsys):
    for command, flags, message in (
        (
            "evaluate detection",
            ["--model", str(folder / "encoder"), "--dataset", str(folder / "data")],
            "lacks 2 weights of the model, such as classifier.bias",
        ),
        ("detect", ["--model", "m", "--boxes", "file"], "boxes from a file need its path"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run_command(command, flags)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
