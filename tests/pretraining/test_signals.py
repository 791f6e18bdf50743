"""Runs that are killed, or asked to stop, and resumed: real processes. This file is also their program."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from tests.pretraining.runs import assert_same, final_state, make_recipe, without_speed, write_videos
from vididi_hf.pretraining.checkpoints import list_checkpoints
from vididi_hf.pretraining.logging import RunLog, read_metrics
from vididi_hf.pretraining.loop import pretrain
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.run_state import StopRequest

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, dict[str, Any]] = {
    "vicreg": {"gradient_accumulation": 2},
    "byol": {"num_workers": 2},
    "simclr": {"num_workers": 2, "chunk_size": 2},
}
# How a run of two epochs of three steps ends: its objective, how often it saves, the signal, the step it comes after,
# the checkpoint it leaves behind.
ENDS: dict[str, tuple[str, dict[str, int], int, int, str]] = {
    "killed-within": ("vicreg", {"save_steps": 2}, signal.SIGKILL, 5, "step-00000004"),
    "killed-after-edge": ("byol", {"save_epochs": 1}, signal.SIGKILL, 4, "step-00000003"),
    "asked-within": ("simclr", {}, signal.SIGTERM, 2, "step-00000002"),
    "asked-at-edge": ("vicreg", {}, signal.SIGTERM, 3, "step-00000003"),
    "interrupted": ("byol", {}, signal.SIGINT, 2, "step-00000002"),
}


def train(recipe: PretrainingRecipe, number: int = 0, after: int = 0) -> None:
    """Trains in a process group of its own, which gets a signal after a step."""
    os.setpgid(0, 0)
    report = RunLog.step

    def report_and_signal(self: RunLog, *args: Any) -> None:
        report(self, *args)
        if self.progress.total_steps == after:
            if number == signal.SIGKILL:
                os.kill(os.getpid(), number)
            os.killpg(0, number)  # the loader's workers get it too, if they are in the group

    RunLog.step = report_and_signal  # type: ignore[method-assign]
    pretrain(recipe)


def in_a_process(*arguments: Any) -> int | None:
    """Forked from the program, which has imported everything once and computed nothing yet."""
    process = multiprocessing.get_context("fork").Process(target=train, args=arguments)
    process.start()
    process.join(timeout=200)
    return process.exitcode


def main(folder: Path) -> None:
    videos = write_videos(folder / "videos")
    recipes = {name: make_recipe(videos, folder / name, name, **options) for name, options in OPTIONS.items()}
    codes: dict[str, Any] = {name: in_a_process(recipe) for name, recipe in recipes.items()}
    for end, (name, options, number, after, _) in ENDS.items():
        recipe = replace(recipes[name], output_dir=str(folder / end), **options)
        code = in_a_process(recipe, number, after)
        left = [path.name for path in list_checkpoints(recipe.output_dir)]
        codes[end] = [code, left, in_a_process(replace(recipe, resume=True))]
    (folder / "codes.json").write_text(json.dumps(codes))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of all runs, and how their processes ended."""
    folder = tmp_path_factory.mktemp("runs")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    program = subprocess.run(
        [sys.executable, __file__, str(folder)], env=environment, capture_output=True, text=True, timeout=500
    )
    assert program.returncode == 0, program.stderr[-4000:]
    codes = json.loads((folder / "codes.json").read_text())
    assert [codes[name] for name in OPTIONS] == [0, 0, 0], program.stderr[-4000:]
    return folder, codes


@pytest.mark.parametrize("end", ENDS)
def test_a_run_that_was_ended_and_resumed_is_bit_by_bit_the_one_that_was_not(end, runs) -> None:
    folder, codes = runs
    name, _, number, _, newest = ENDS[end]
    code, left, resumed = codes[end]
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    assert left[-1] == newest
    assert resumed == 0
    assert_same(final_state(folder / end), final_state(folder / name))
    assert without_speed(read_metrics(folder / end)) == without_speed(read_metrics(folder / name))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_second_means_what_it_meant_before(number: int) -> None:
    seen = []
    previous = signal.signal(number, lambda *args: seen.append("before"))
    try:
        with StopRequest(Accelerator(cpu=True)) as stop:
            assert not stop.agreed()
            os.kill(os.getpid(), number)
            assert stop.agreed() == number
            assert stop.agreed() == number  # it stays
            assert seen == []
            os.kill(os.getpid(), number)
            assert seen == ["before"]
        os.kill(os.getpid(), number)
        assert seen == ["before", "before"]
    finally:
        signal.signal(number, previous)


def test_a_thread_leaves_signals_alone() -> None:
    handlers: list[Any] = []

    def run() -> None:
        with StopRequest(Accelerator(cpu=True)) as stop:
            handlers.extend([signal.getsignal(signal.SIGTERM), stop.agreed()])

    before: Callable[..., Any] | int | None = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [before, 0]
    assert signal.getsignal(signal.SIGTERM) == before


if __name__ == "__main__":
    main(Path(sys.argv[1]))
