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
def flags(checkpoint, videos):
    small = ["--num_clips", "2", "--num_workers", "0", "--no_progress", "--videos_per_shard", "3", "--device", "cpu"]
    return ["--model", str(checkpoint), "--dataset", str(videos), *small]


@pytest.fixture(scope="module")
def embedded(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded") / "new"
    main(["embed", *flags, "--output_dir", str(folder)])
    return folder


@pytest.mark.slow  # two processes
def test_two_processes_write_what_one_writes(flags, embedded, tmp_path):
    """And each video once: together they do the four shards, of which one lies there already."""
    output = tmp_path / "embeddings"
    (output / "data").mkdir(parents=True)
    name = "train-00001-of-00004.parquet"
    (output / "data" / name).write_bytes((embedded / "data" / name).read_bytes())
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    of_a_launcher = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in of_a_launcher}
    command = [*launcher, str(SCRIPTS / "embed.py"), *flags, "--output_dir", str(output), "--progress"]
    settings = {"env": {**environment, "OMP_NUM_THREADS": "1"}, "capture_output": True, "text": True, "timeout": 300}
    run = subprocess.run(command, **settings, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    assert "1 of 2 processes" in run.stderr
    assert run.stdout.count("10 of 11 videos embedded, 8 dimensions, 4 shards") == 1
    for path in [*(embedded / "data").iterdir(), embedded / "embeddings.json"]:
        assert (output / path.relative_to(embedded)).read_bytes() == path.read_bytes()


def test_search_prints_tables_and_writes_json_and_a_picture(checkpoint, videos, embedded, tmp_path, capsys):
    queries = [str(videos.parent / "0.mp4"), str(videos.parent / "1.mp4")]
    flags = ["--model", str(checkpoint), "--embeddings", str(embedded), "--num_workers", "0", "--k", "3"]
    main(["search", *flags, "--query", *queries, "--output_dir", str(tmp_path / "found")])
    report = json.loads((tmp_path / "found" / "search.json").read_text())
    assert [answer["query"] for answer in report["answers"]] == queries
    assert (report["embeddings"], report["index"], report["videos"]) == (str(embedded), "exact", 10)
    assert report["protocol"] == json.loads((embedded / "embeddings.json").read_text())["protocol"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"most similar to {queries[0]} (c)"
    assert printed[1].split() == ["rank", "score", "label", "video"]
    first = report["answers"][0]["found"][0]
    assert printed[2].split() == ["1", f"{first['score']:.3f}", first["label"], first["video"]]
    assert len(printed) == 2 * (2 + 3)
    assert min(Image.open(tmp_path / "found" / "search.png").size) > 200


def test_a_data_set_is_searched_without_a_checkpoint_or_network(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    flags = ["--num_clips", "1", "--num_workers", "0", "--pictured", "0", "--no_progress"]
    main(["search", str(videos), "--query", str(videos.parent / "2.mp4"), *flags])
    assert [path.name for path in (tmp_path / "search").iterdir()] == ["search.json"]
    assert len(capsys.readouterr().out.splitlines()) == 2 + 9


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["embed", "--dataset", "nowhere"], "no data set 'nowhere'"),
        (["search", "--query", "a.mp4"], "give either dataset"),
        (["search", "--query", "a.mp4", "--dataset", "a", "--embeddings", "b"], "give either dataset"),
        (["search", "--query", __file__, "--embeddings", "nowhere"], "nowhere is not a folder of embeddings"),
        (["search", "--query", "a.mp4", "--dataset", "nowhere"], "there is no query video 'a.mp4'"),
    ],
)
def test_mistakes_are_one_line(command, message, checkpoint, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--model", str(checkpoint)])
    assert stop.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert message in line
