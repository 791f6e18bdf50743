"""The script as users run it: killed in the middle, run again, on a folder with hostile files."""

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_dataset.py"
FLAGS = ["--videos_per_shard", "4", "--short_side", "32", "--no_progress"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_dataset_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shards(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "data").glob("*.parquet")}


def test_a_killed_run_continues_where_it_was(script: ModuleType, motion_root: Path, tmp_path: Path) -> None:
    """SIGKILL to the real process, whenever its second shard has appeared."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    dataset = ["--dataset", str(motion_root / "clips.csv")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *dataset, "--output_dir", str(killed), "--num_workers", "0", *FLAGS]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(shards(killed)) < 2:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in (killed / "data").glob("*.parquet")}
    assert 2 <= len(finished) <= 6

    script.main([*dataset, "--output_dir", str(killed), "--num_workers", "0", *FLAGS])
    script.main([*dataset, "--output_dir", str(whole), "--num_workers", "0", *FLAGS])
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # none of them was made again
    assert len(shards(whole)) == 6
    assert shards(killed) == shards(whole)
    assert sorted(path.name for path in (killed / "data").iterdir()) == sorted(shards(whole))
    assert (killed / "preparation.json").read_text() == (whole / "preparation.json").read_text()


def test_a_folder_with_hostile_files(
    script: ModuleType,
    motion_root: Path,
    broken_videos: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for index, path in enumerate(sorted((motion_root / "train").rglob("*.mp4"))[:4]):
        (videos / f"good-{index}.mp4").write_bytes(path.read_bytes())
    for kind in ("empty", "text", "truncated", "audio-only"):
        (videos / f"{kind}.mp4").write_bytes(broken_videos[kind].read_bytes())
    arguments = ["--dataset", str(videos), "--output_dir", str(tmp_path / "out"), "--num_workers", "0"]
    script.main([*arguments, "--no_progress"])
    assert "train: 4 of 8 videos in 1 shards" in capsys.readouterr().out
    dropped = json.loads((tmp_path / "out" / "preparation.json").read_text())["splits"]["train"]["dropped"]
    assert {video["video"] for video in dropped} == {"empty.mp4", "text.mp4", "truncated.mp4", "audio-only.mp4"}


def test_mistakes_end_with_one_line_that_names_them(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["--dataset", str(tmp_path / "nowhere")], "nowhere"),
        (["--dataset", "motion", "--crf", "60"], "crf must be at most 51, got 60"),
        (["--dataset", "motion", "--short", "60"], "unrecognized arguments: --short 60"),
    ):
        with pytest.raises(SystemExit) as end:
            script.main([*arguments, "--output_dir", str(tmp_path / "out"), "--num_workers", "0"])
        assert end.value.code == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]

        assert message in last
