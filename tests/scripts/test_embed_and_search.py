"""Both scripts from the command line to their files; embed.py as users launch it in two processes, too."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load_script(name):
    spec = importlib.util.spec_from_file_location(f"{name}_script", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(7)
    ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1))).save_pretrained(folder)
    ViDiDiVideoProcessor(num_frames=3, frame_stride=2, size=36, crop_size=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video):
    """Seven videos in folders of two classes, and a broken one."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(7):
        write_video(folder / ("run", "walk")[number % 2] / f"{number}.mp4", frames=9, seed=number)
    (folder / "run" / "broken.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def flags(checkpoint, videos):
    small = ["--num_clips", "2", "--num_workers", "0", "--no_progress", "--videos_per_shard", "2"]
    return ["--model", str(checkpoint), "--dataset", str(videos), *small]


@pytest.fixture(scope="module")
def embedded(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded") / "new"
    load_script("embed").main([*flags, "--output", str(folder), "--device", "cpu"])
    return folder


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}


def test_two_processes_write_what_one_writes(flags, embedded, tmp_path):
    """And each video once: together they do the four shards, of which one lies there already."""
    output = tmp_path / "embeddings"
    (output / "data").mkdir(parents=True)
    name = "train-00001-of-00004.parquet"
    (output / "data" / name).write_bytes((embedded / "data" / name).read_bytes())
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes", "2", "--cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for variable in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT"):
        environment.pop(variable, None)
    command = [*launcher, str(SCRIPTS / "embed.py"), *flags, "--output", str(output)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    assert "1 of 2 processes" in run.stdout
    assert run.stdout.count("7 of 8 videos embedded, 8 dimensions, 4 shards") == 1
    assert shards(output) == shards(embedded)
    reports = [json.loads((folder / "embeddings.json").read_text()) for folder in (output, embedded)]
    assert reports[0] == reports[1]


def test_search_prints_tables_and_writes_json_and_a_picture(checkpoint, videos, embedded, tmp_path, capsys):
    queries = [str(videos / "run" / "0.mp4"), str(videos / "walk" / "1.mp4")]
    flags = ["--model", str(checkpoint), "--embeddings", str(embedded), "--num_workers", "0", "--k", "3"]
    load_script("search").main([*flags, "--query", *queries, "--output", str(tmp_path / "found")])
    report = json.loads((tmp_path / "found" / "search.json").read_text())
    assert [answer["query"] for answer in report["answers"]] == queries
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"most like {queries[0]} (run)"
    assert printed[1].split() == ["rank", "score", "label", "video"]
    first = report["answers"][0]["found"][0]
    assert printed[2].split() == ["1", f"{first['score']:.3f}", first["label"], first["video"]]
    assert len(printed) == 2 * (2 + 3)
    assert min(Image.open(tmp_path / "found" / "search.png").size) > 200


def test_a_folder_of_videos_is_searched_with_one_command(checkpoint, videos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--model", str(checkpoint), "--dataset", str(videos), "--num_clips", "1", "--num_workers", "0"]
    load_script("search").main([*flags, "--query", str(videos / "run" / "2.mp4"), "--pictured", "0", "--no_progress"])
    assert [path.name for path in (tmp_path / "search").iterdir()] == ["search.json"]
    assert len(capsys.readouterr().out.splitlines()) == 2 + 6


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("embed", ["--dataset", "nowhere"], "no data set 'nowhere'"),
        ("embed", ["--dataset", "motion", "--inputs", "flow"], "unknown input 'flow'"),
        ("search", ["--query", "a.mp4"], "give either embeddings"),
        ("search", ["--query", "a.mp4", "--embeddings", "nowhere"], "nowhere is no folder of embeddings"),
    ],
)
def test_mistakes_are_one_line(script, flags, message, checkpoint, capsys):
    with pytest.raises(SystemExit) as stop:
        load_script(script).main(["--model", str(checkpoint), *flags])
    assert stop.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert message in line
