"""`vididi embed` and `vididi search` from the command line to their files; embed in two processes, too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vididi_hf.cli import main

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


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
    main(["embed", *flags, "--output_dir", str(folder), "--device", "cpu"])
    return folder


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}


def test_two_processes_write_what_one_writes(flags, embedded, tmp_path):
    """And each video once: together they do the four shards, of which one lies there already."""
    output = tmp_path / "embeddings"
    (output / "data").mkdir(parents=True)
    name = "train-00001-of-00004.parquet"
    (output / "data" / name).write_bytes((embedded / "data" / name).read_bytes())
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for variable in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT"):
        environment.pop(variable, None)
    more = ["--output_dir", str(output), "--progress", "--device", "cpu"]
    command = [*launcher, str(SCRIPTS / "embed.py"), *flags, *more]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    assert "1 of 2 processes" in run.stderr
    assert run.stdout.count("7 of 8 videos embedded, 32 dimensions, 4 shards") == 1
    assert shards(output) == shards(embedded)
    reports = [json.loads((folder / "embeddings.json").read_text()) for folder in (output, embedded)]
    assert reports[0] == reports[1]


def test_search_prints_tables_and_writes_json_and_a_picture(checkpoint, videos, embedded, tmp_path, capsys):
    queries = [str(videos / "run" / "0.mp4"), str(videos / "walk" / "1.mp4")]
    flags = ["--model", str(checkpoint), "--embeddings", str(embedded), "--num_workers", "0", "--k", "3"]
    main(["search", *flags, "--query", *queries, "--output_dir", str(tmp_path / "found")])
    report = json.loads((tmp_path / "found" / "search.json").read_text())
    assert [answer["query"] for answer in report["answers"]] == queries
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"most similar to {queries[0]} (run)"
    assert printed[1].split() == ["rank", "score", "label", "video"]
    first = report["answers"][0]["found"][0]
    assert printed[2].split() == ["1", f"{first['score']:.3f}", first["label"], first["video"]]
    assert len(printed) == 2 * (2 + 3)
    assert min(Image.open(tmp_path / "found" / "search.png").size) > 200


def test_a_folder_is_searched_without_a_checkpoint_or_network(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    flags = ["--num_clips", "1", "--num_workers", "0", "--pictured", "0", "--no_progress"]
    main(["search", str(videos), "--query", str(videos / "run" / "2.mp4"), *flags])
    assert [path.name for path in (tmp_path / "search").iterdir()] == ["search.json"]
    assert len(capsys.readouterr().out.splitlines()) == 2 + 6


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("embed", ["--dataset", "nowhere"], "no data set 'nowhere'"),
        (
            "embed",
            ["--dataset", "motion", "--inputs", "flow"],
            "inputs must be one of frames, derivative, both",
        ),
        ("search", ["--query", "a.mp4"], "give either dataset"),
        ("search", ["--query", "a.mp4", "--embeddings", "nowhere"], "nowhere is not a folder of embeddings"),
    ],
)
def test_mistakes_are_one_line(script, flags, message, checkpoint, capsys):
    with pytest.raises(SystemExit) as stop:
        main([script, "--model", str(checkpoint), *flags])
    assert stop.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert message in line
