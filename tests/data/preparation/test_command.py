"""`vididi prepare` as users run it: killed in the middle, run again, on a folder with hostile files."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vididi_hf.cli import main
from vididi_hf.data.preparation.options import PreparationOptions
from vididi_hf.data.preparation.prepare import run


def shards(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "data").glob("*.parquet")}


def test_a_killed_run_continues_where_it_was(motion_root, tmp_path):
    """SIGKILL to the real process, whenever its second shard has appeared."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    arguments = ["prepare", str(motion_root / "clips.csv"), "--videos_per_shard", "4", "--short_side", "32"]
    arguments += ["--no_progress", "--num_workers", "0", "--output_dir"]
    command = [sys.executable, "-m", "vididi_hf", *arguments, str(killed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
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

    for folder in (killed, whole):
        main([*arguments, str(folder)])
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # none of them was made again
    assert len(shards(whole)) == 6
    assert shards(killed) == shards(whole)
    assert sorted(path.name for path in (killed / "data").iterdir()) == sorted(shards(whole))
    assert (killed / "preparation.json").read_text() == (whole / "preparation.json").read_text()


def test_a_folder_with_hostile_files(motion_root, broken_videos, tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    for index, path in enumerate(sorted((motion_root / "train").rglob("*.mp4"))[:4]):
        (videos / f"good-{index}.mp4").write_bytes(path.read_bytes())
    for kind in ("empty", "text", "truncated", "audio-only"):
        (videos / f"{kind}.mp4").write_bytes(broken_videos[kind].read_bytes())
    run(PreparationOptions(dataset=str(videos), output_dir=str(tmp_path / "out"), num_workers=0, progress=False))
    assert "train: 4 of 8 videos in 1 shards" in capsys.readouterr().out
    dropped = json.loads((tmp_path / "out" / "preparation.json").read_text())["splits"]["train"]["dropped"]
    assert {video["video"] for video in dropped} == {"empty.mp4", "text.mp4", "truncated.mp4", "audio-only.mp4"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no data set 'nowhere'"),
        (["motion", "--crf", "60"], "crf must be at least 0 and at most 51, got 60"),
        (["motion", "--short", "60"], "unknown option '--short'"),
    ],
)
def test_mistakes_end_with_one_line_that_names_them(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["prepare", *arguments, "--output_dir", "out", "--num_workers", "0"])
    assert end.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
