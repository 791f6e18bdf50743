"""The scripts of k-NN and linear probe, from the command line to metrics.json."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor, load_video_dataset
from vididi_hf.evaluation.knn import KNNEvaluator
from vididi_hf.evaluation.linear import LinearEvaluator
from vididi_hf.evaluation.results import collect_eval_results, read_report

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
EVALUATORS = {"knn": KNNEvaluator, "linear": LinearEvaluator}


@pytest.fixture(scope="module", params=["knn", "linear"])
def script(request):
    spec = importlib.util.spec_from_file_location(f"evaluate_{request.param}", SCRIPTS / f"evaluate_{request.param}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    module.task = request.param
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(7)
    ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1))).save_pretrained(folder)
    ViDiDiVideoProcessor(num_frames=3, frame_stride=2, size=32, crop_size=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def evaluate(script, checkpoint, motion_root):
    def run(*flags):
        fixed = ["--num_clips", "2", "--num_workers", "0", "--device", "cpu", "--no_progress"]
        script.main(["--model", str(checkpoint), "--dataset", str(motion_root / "clips.csv"), *fixed, *map(str, flags)])

    return run


def test_numbers_protocol_and_card_entries(script, evaluate, checkpoint, motion_root, tmp_path, capsys):
    evaluate("--output", tmp_path / "new", "--inputs", "frames", "ensemble")
    report = read_report(tmp_path / "new")
    splits = [load_video_dataset(motion_root / "clips.csv", split=split) for split in ("train", "test")]
    processor = ViDiDiVideoProcessor.from_pretrained(checkpoint)
    model = ViDiDiModel.from_pretrained(checkpoint)
    expected = EVALUATORS[script.task](*splits, processor, inputs=("frames", "ensemble"), num_clips=2)(model)
    assert report["metrics"] == expected["metrics"]
    assert report["protocol"] == {**expected["protocol"], "gallery_split": "train", "query_split": "test"}
    assert (report["task"], report["dataset"], report["split"]) == (script.task, motion_root.name, "test")
    assert (report["model"], report["random_init"], report["seed"]) == (str(checkpoint), False, 0)
    values = [entry.metric_value for entry in collect_eval_results([report])]
    assert values == [value for numbers in report["metrics"].values() for value in numbers.values()]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "8 queries, 16 videos, 8 classes"
    assert printed[1].split() == ["input", "top-1", "top-5", "mean-class"]
    assert printed[3].split()[0] == "ensemble"


def test_leaving_out_and_random_weights(evaluate, tmp_path):
    flags = ("--inputs", "frames", "--group_column", "background", "--random_init", "--gallery_split", "all")
    evaluate("--output", tmp_path / "a.json", *flags)
    report = read_report(tmp_path / "a.json")
    assert report["random_init"] is True
    assert report["split"] == report["protocol"]["query_split"] == "all"
    assert (report["protocol"]["group_column"], report["protocol"]["query_videos"]) == ("background", 24)


def test_a_mistake_is_one_line(evaluate, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        evaluate("--output", tmp_path, "--inputs", "flow")
    assert stopped.value.code == 2
    *_, line = capsys.readouterr().err.strip().splitlines()  # after the bar of loading the weights
    assert "error: unknown input 'flow'; choose from frames, derivative, both, ensemble" in line
    assert not list(tmp_path.iterdir())
