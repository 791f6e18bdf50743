#!/usr/bin/env python
"""Kills runs at random moments, resumes them, and compares their results with those of uninterrupted runs.

python benchmarks/kill_test.py --kills 20 --output kill_test.json
"""

import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tqdm.auto import tqdm

from vididi_hf.data.motion import generate_motion
from vididi_hf.evaluation.results import write_report
from vididi_hf.options import Options, option, parse_options
from vididi_hf.pretraining.checkpoints import list_checkpoints
from vididi_hf.pretraining.logging import RunLog, read_metrics
from vididi_hf.pretraining.loop import pretrain
from vididi_hf.pretraining.recipe import PretrainingRecipe

# Every objective, with and without worker processes, and every way to pass a batch.
RUNS: dict[str, dict[str, Any]] = {
    "vicreg": {"objective": "vicreg", "optimizer": "lars", "learning_rate": 4.0, "num_workers": 0},
    "vicreg, accumulated": {"objective": "vicreg", "gradient_accumulation": 2, "num_workers": 2},
    "byol": {"objective": "byol", "optimizer": "adamw", "learning_rate": 0.1, "num_workers": 2},
    "byol, cached": {"objective": "byol", "chunk_size": 2, "num_workers": 0},
    "simclr": {"objective": "simclr", "optimizer": "sgd", "learning_rate": 1.0, "num_workers": 0},
    "simclr, cached": {"objective": "simclr", "chunk_size": 2, "num_workers": 2},
}
EPOCHS, VIDEOS, BATCH = 2, 16, 4
STEPS = EPOCHS * VIDEOS // BATCH
FORK: Any = multiprocessing.get_context("fork")
SAVING = [{"save_steps": 1}, {"save_steps": 2}, {"save_epochs": 1}]


@dataclass(kw_only=True)
class KillTestOptions(Options):
    """The options of the test."""

    kills: int = option(default=20, at_least=1, help="Runs to kill.")
    seed: int = option(default=0, help="Seed of the moments.")
    output: str = option(default="kill_test.json", help="JSON file of the results.")


def recipe(folder: Path, name: str, run: str, **options: Any) -> PretrainingRecipe:
    return PretrainingRecipe(
        dataset=str(folder / "motion" / "clips.csv"),
        output_dir=str(folder / run),
        hidden_sizes=[4, 4, 8, 8],
        depths=[1, 1, 1, 1],
        projector_sizes=[8, 8],
        num_frames=4,
        frame_stride=1,
        image_size=32,
        epochs=EPOCHS,
        batch_size=BATCH,
        resume=True,
        progress=False,
        **RUNS[name],
        **options,
    )


def start(recipe: PretrainingRecipe, steps: Any = None) -> Any:
    """Trains in a forked process, which shares the imports of this one. `steps` counts its finished steps."""
    process = FORK.Process(target=_train, args=(recipe, steps))
    process.start()
    return process


def _train(recipe: PretrainingRecipe, steps: Any) -> None:
    torch.set_num_threads(1)
    report = RunLog.step

    def report_and_count(self: RunLog, *args: Any) -> None:
        report(self, *args)
        if steps is not None:
            steps.value = self.progress.total_steps

    RunLog.step = report_and_count  # type: ignore[method-assign]
    pretrain(recipe)


def kill_at(process: Any, steps: Any, step: int, delay: float) -> bool:
    """Kills a process `delay` seconds after a step. Returns False if it has ended before."""
    while process.is_alive() and steps.value < step:
        time.sleep(0.001)
    process.join(timeout=delay)
    alive = process.is_alive()
    if alive:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return alive


def state_of(run: Path) -> dict[str, Any]:
    """Returns everything that a finished run has learned: encoder, heads, target, optimizer, metrics."""
    newest = list_checkpoints(run)[-1]
    training = torch.load(newest / "training_state" / "optimizer.pt", weights_only=True)
    rows = [{k: v for k, v in row.items() if k != "videos_per_second"} for row in read_metrics(run)]
    return {
        "published": load_file(run / "model.safetensors"),
        "encoder": load_file(newest / "model.safetensors"),
        "objective": load_file(newest / "training_state" / "objective.safetensors"),
        "optimizer": training["optimizer"],
        "rows": rows,
    }


def is_same(left: Any, right: Any) -> bool:
    """Whether two nested structures agree bit by bit."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(is_same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(is_same, left, right))
    return left == right


def main() -> None:
    """Kills, resumes and compares."""
    arguments = parse_options(KillTestOptions, description=__doc__)
    draw = random.Random(arguments.seed)
    trials = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        generate_motion(folder / "motion", num_train=VIDEOS, num_test=8, progress=False)
        seconds = {}
        for name in tqdm(RUNS, desc="uninterrupted", unit="run"):
            steps = FORK.Value("i", 0)
            process = start(recipe(folder, name, name), steps)
            while process.is_alive() and steps.value < 1:
                time.sleep(0.001)
            before = time.perf_counter()
            process.join()
            if process.exitcode != 0:
                raise SystemExit(f"the run {name!r} failed with exit status {process.exitcode}")
            seconds[name] = (time.perf_counter() - before) / STEPS
        names = list(RUNS)
        bar = tqdm(total=arguments.kills, desc="killed", unit="run")
        while len(trials) < arguments.kills:
            number = len(trials)
            name = names[number % len(names)]
            killed = recipe(folder, name, f"killed-{number}", **SAVING[number // 2 % len(SAVING)])
            steps, step, delay = FORK.Value("i", 0), draw.randrange(STEPS), draw.uniform(0, 1) * seconds[name]
            if not kill_at(start(killed, steps), steps, step, delay):
                shutil.rmtree(killed.output_dir)  # it ended before the kill
                continue
            left = [path.name for path in list_checkpoints(killed.output_dir)]
            resumed = start(killed)
            resumed.join()
            same = resumed.exitcode == 0 and is_same(state_of(folder / name), state_of(Path(killed.output_dir)))
            trial = {
                "run": name,
                "save_steps": killed.save_steps,
                "killed_after_step": steps.value,
                "newest_checkpoint": left[-1] if left else None,
                "resumed_with": resumed.exitcode,
                "identical": same,
            }
            trials.append(trial)
            bar.update()
            identical = sum(trial["identical"] for trial in trials)
            write_report(arguments.output, {"identical": identical, "trials": trials})
    print(f"{identical} of {len(trials)} killed runs are bit-identical to the uninterrupted ones")
    if identical < len(trials):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
