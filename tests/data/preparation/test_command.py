"""`vididi prepare` as users run it: killed in the middle, run again, on a folder with hostile files."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vididi_hf.cli import main


def shards(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "data").glob("*.parquet")}


@pytest.mark.slow  # two processes
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
