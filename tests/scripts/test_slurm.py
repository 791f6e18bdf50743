"""The batch script, with a scheduler and a training run that only record their calls."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm" / "pretrain.sbatch"
SRUN = """#!/bin/bash
echo "srun $1" >> "$LOG"
shift
for task in 0 1 2 3; do
    SLURM_PROCID=$task SLURM_LOCALID=$((task % 2)) "$@" || status=$?
done
exit ${status:-0}
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf 'node7\\nnode9\\n'; else echo "scontrol $*" >> "$LOG"; fi
"""
PYTHON = """#!/bin/bash
echo "$MASTER_ADDR:$MASTER_PORT $RANK/$WORLD_SIZE $LOCAL_RANK $(printf '[%s]' "$@")" >> "$LOG"
exit "$STATUS"
"""


def run(folder: Path, status: int, *arguments: str) -> tuple[int, list[str]]:
    """Returns the exit status of the script and the recorded calls."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "python": PYTHON}.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
    environment = {
        **{"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(folder / "log"), "STATUS": str(status)},
        **{"SLURM_JOB_ID": "40017", "SLURM_JOB_NODELIST": "node[7,9]", "SLURM_NTASKS": "4"},
    }
    done = subprocess.run(["bash", str(SCRIPT), *arguments], env=environment, timeout=30)
    return done.returncode, (folder / "log").read_text(encoding="utf-8").splitlines()


def test_every_process_learns_its_place_and_gets_the_arguments(tmp_path: Path) -> None:
    status, (srun, *calls) = run(tmp_path, 0, "--output_dir", "a folder")
    assert (status, srun) == (0, "srun --kill-on-bad-exit=0")
    arguments = "[-m][vididi_hf][pretrain][--output_dir][a folder][--resume]"
    assert calls == [f"node7:20017 {rank}/4 {rank % 2} {arguments}" for rank in range(4)]


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (143, True), (1, False), (137, False)])
def test_only_a_run_that_was_asked_to_stop_goes_back_into_the_queue(status, requeued, tmp_path) -> None:
    returned, calls = run(tmp_path, status)
    assert returned == status
    assert ("scontrol requeue 40017" in calls) == requeued


def test_the_scheduler_asks_the_processes_and_not_the_shell() -> None:
    options = [
        line.split()[1] for line in SCRIPT.read_text(encoding="utf-8").splitlines() if line.startswith("#SBATCH ")
    ]
    assert "--signal=TERM@180" in options  # with B: in front, the shell would get the signal instead
    assert "--requeue" in options
