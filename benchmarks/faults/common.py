"""What the fault scripts share: tiny videos, the commands, and processes that start at once because they are forked."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

import vididi_hf  # noqa: F401  # imports once what all forked commands need
from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.cli import COMMANDS, _load, main
from vididi_hf.data.motion import generate_motion

FORK: Any = multiprocessing.get_context("fork")
TINY = "--num_frames 4 --frame_stride 1 --batch_size 4 --num_workers 2 --progress False"
# How each command is called. The first two take --resume.
CALLS = {
    "pretrain": f"pretrain --output_dir OUTPUT --hidden_sizes 4 4 8 8 --depths 1 1 1 1 --projector_sizes 8 8 {TINY} "
    "--image_size 32 --epochs 3 --save_epochs 2",
    "finetune": f"finetune --model ENCODER --output_dir OUTPUT --epochs 2 --test_clips 1 {TINY}",
    "evaluate": f"evaluate knn --model ENCODER --output OUTPUT --num_clips 4 {TINY}",
    "embed": f"embed --model ENCODER --output_dir OUTPUT --num_clips 4 --videos_per_shard 8 {TINY}",
    "prepare": "prepare --output_dir OUTPUT --videos_per_shard 4 --short_side 32 --num_workers 2 --progress False",
}


def make_inputs(folder: Path) -> None:
    """Writes the `motion` set and an encoder, and imports what the commands import."""
    torch.set_num_threads(1)
    generate_motion(folder / "motion", num_train=64, num_test=8, progress=False)
    ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1))).save_pretrained(folder / "encoder")
    ViDiDiVideoProcessor(num_frames=4, frame_stride=1, size=32, crop_size=32).save_pretrained(folder / "encoder")
    for command in COMMANDS.values():
        _load(command.run)


def start(name: str, output: Path, resume: bool = False, **environment: str) -> Any:
    """Starts a command in a process group of its own, as a terminal does. `output` gets a log with the same name."""
    places = {"OUTPUT": str(output), "ENCODER": str(output.parent / "encoder")}
    words = [places.get(word, word) for word in CALLS[name].split()]
    words += ["--dataset", str(output.parent / "motion" / "clips.csv")]
    words += ["--resume"] if resume and name in ("pretrain", "finetune") else []
    process = FORK.Process(target=_run, args=(words, output.with_suffix(".log"), environment))
    process.start()
    return process


def _run(words: list[str], log: Path, environment: dict[str, str]) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["vididi", *words]
    os.environ |= environment
    main(words)


def log_of(output: Path) -> list[str]:
    """Returns what a command printed."""
    return output.with_suffix(".log").read_text(encoding="utf-8").splitlines()


def family(process: Any) -> list[psutil.Process]:
    """Returns the descendants of a process."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def alive_after(processes: list[psutil.Process], seconds: float) -> int:
    """Counts the processes that are still there after some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(map(_runs, processes)):
        time.sleep(0.1)
    return sum(map(_runs, processes))


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
