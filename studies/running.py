"""Executes runs, several at a time. Finished runs are skipped, killed ones continue, failed ones are recorded."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from studies.measuring import LABEL, LINEAR, Measurement, measure
from studies.runs import CONFIGURATION_JSON, FAILURE_JSON, NEIGHBORS_JSON, RESULT_JSON, Run, differences
from studies.tasks import train_tasks
from vididi_hf.evaluation.results import METRICS_JSON, dataset_name, report_of, versions, write_report
from vididi_hf.files import write_text
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.pretraining.logging import read_metrics
from vididi_hf.pretraining.loop import pretrain
from vididi_hf.pretraining.recipe import RECIPE_FILE
from vididi_hf.pretraining.setup import build_processor, save_untrained

LOCK = ".lock"
_BUSY = 75  # exit status of a process that finds its run locked


class BusyError(OSError):
    """Another process is working on the run."""


class RunError(ValueError):
    """A run has failed. Its folder holds the traceback in `failure.json`."""


@dataclass
class Outcome:
    """How a run ended: with the content of `result.json`, or with an error."""

    run: Run
    result: dict[str, Any] | None = None
    error: Exception | None = None


def run_one(run: Run) -> dict[str, Any]:
    """Trains and evaluates one encoder, continues or skips what is done, and returns the content of `result.json`.

    The folder then holds the encoder, the files of pretraining, `metrics.json` and `linear.json` (the reports of the
    evaluators), `neighbors.json`, and `result.json`, which is written last. An error is also written to `failure.json`.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run.folder / LOCK, timeout=0):
            return run.result() or _run_locked(run)
    except Timeout:
        raise BusyError(f"another process is working on {run.name}") from None


def _run_locked(run: Run) -> dict[str, Any]:
    (run.folder / FAILURE_JSON).unlink(missing_ok=True)
    try:
        start = time.monotonic()
        _claim(run)
        for other in (run.trainer.start, run.pretrained):
            if other is not None:
                other.folder.mkdir(parents=True, exist_ok=True)
                with FileLock(other.folder / LOCK):
                    _claim(other)
                    _train(other)
        if run.pretrained is None:
            _train(run)
        trained = time.monotonic()
        measurement = _evaluate(run)
    except Exception as error:
        _write_failure(run, f"{type(error).__name__}: {' '.join(str(error).split())}", traceback.format_exc())
        raise
    result = {
        "dataset": run.dataset,
        "arm": run.arm,
        "seed": run.seed,
        "configuration": run.configuration(),
        "protocol": asdict(run.protocol),
        "metrics": measurement.metrics,
        "chance": measurement.chance,
        "curve": [
            {name: row[name] for name in ("epoch", "loss", "R@1")} for row in read_metrics(run.folder) if "R@1" in row
        ],
        "versions": {**versions(), "commit": _commit()},
        "seconds": {"training": round(trained - start, 1), "evaluation": round(time.monotonic() - trained, 1)},
    }
    write_text(run.folder / RESULT_JSON, json.dumps(result, indent=2) + "\n")
    return result


def _claim(run: Run) -> None:
    """Checks that the folder belongs to this run, or marks it."""
    found = run.read(CONFIGURATION_JSON)
    if found is None and (recipe := run.read(RECIPE_FILE)) is not None:
        found = {**run.declared, "recipe": recipe}  # written by `vididi pretrain`
    if found is None:
        write_text(run.folder / CONFIGURATION_JSON, json.dumps(run.configuration(), indent=2) + "\n")
    elif changed := differences(found, run.configuration()):
        raise ValueError(
            f"{run.folder} holds a run of another configuration: {'; '.join(changed)}; "
            "remove it, or choose another output_dir"
        )


def _train(run: Run) -> None:
    # The recipe is the last file that pretraining writes.
    if not (run.folder / RECIPE_FILE).exists():
        (pretrain if run.trained else save_untrained)(run.recipe)


def _evaluate(run: Run) -> Measurement:
    """Evaluates the encoder, frozen and then fine-tuned, and writes the reports."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    encoder = run.trainer.folder
    model: Any = ViDiDiModel.from_pretrained(encoder)
    model.to(device, memory_format=torch.channels_last_3d)
    splits = run.source.load()
    measurement = measure(
        model,
        build_processor(run.recipe),
        splits,
        run.protocol,
        num_workers=run.recipe.num_workers,
        dataset=dataset_name(run.declared["dataset"]),
        split=run.source.split if splits.group_column else "test",
    )
    facts = {"random_init": not run.trained, "seed": run.seed, "source": run.source.dataset}
    files = {"retrieval": METRICS_JSON, LINEAR: f"{LINEAR}.json"}
    for name, result in measurement.results.items():
        write_report(run.folder / files[name], report_of(result, str(encoder), **facts))
    write_text(run.folder / NEIGHBORS_JSON, json.dumps(measurement.neighbors))
    for shown, numbers in train_tasks(run, encoder).items():
        measurement.metrics[LABEL].setdefault(shown, {}).update(numbers)
    return measurement


def _write_failure(run: Run, error: str, trace: str | None = None) -> None:
    write_text(run.folder / FAILURE_JSON, json.dumps({"error": error, "traceback": trace}, indent=2) + "\n")


def _commit() -> str | None:
    """Returns the commit of the code, with "-dirty" if files differ; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def run_all(
    runs: Sequence[Run], jobs: int, finished: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """Executes runs, whose videos `prepare` has made, in processes of their own, each with a progress bar.

    On a few cores, several processes of one thread train small networks faster than one process of several threads.
    A run that fails, or whose process dies, does not stop the others. `finished` is called when a run ends, except for
    runs that were finished before. Returns how each run ended, in the order of `runs`.
    """
    threads = threads_of(jobs)
    outcomes = {run.name: Outcome(run, result) for run in runs if (result := run.result()) is not None}
    waiting = [run for run in runs if run.name not in outcomes]
    waiting.sort(key=lambda run: not run.trained)  # the longest first
    active: dict[int, _Job] = {}
    try:
        while waiting or active:
            for place in range(jobs):
                if waiting and place not in active:
                    active[place] = _Job(waiting.pop(0), place, threads)
            time.sleep(0.2)
            for place, job in list(active.items()):
                job.show_progress()
                if not job.process.is_alive():
                    del active[place]
                    outcomes[job.run.name] = job.end()
                    finished(outcomes[job.run.name])
    finally:
        for job in active.values():
            job.process.terminate()
    return [outcomes[run.name] for run in runs]


def threads_of(jobs: int) -> int:
    """Returns the threads of each of several processes."""
    return max(1, torch.get_num_threads() // jobs)


def prepare(runs: Sequence[Run]) -> None:
    """Creates data sets and selections before several processes need them, while those import the package."""
    _processes()
    for selection in dict.fromkeys(selection for run in runs for selection in run.selections):
        selection.write()
    for source in dict.fromkeys(each.source for run in runs for each in (run, run.trainer, run.trainer.start or run)):
        source.load()


@dataclass
class _Job:
    """A run in a process of its own, with its progress bar."""

    run: Run
    place: int
    threads: int
    process: BaseProcess = field(init=False)

    def __post_init__(self) -> None:
        self.process = start_process(self.run, self.threads)
        epochs = self.run.recipe.epochs if self.run.trained else 0
        self.bar = tqdm(total=epochs, desc=f"{self.run.name}: starts", unit="epoch", position=self.place, leave=False)

    def show_progress(self) -> None:
        rows = read_metrics(self.run.trainer.folder) if self.run.trained else []
        epoch = rows[-1]["epoch"] if rows else 0
        if rows:
            self.bar.set_postfix(loss=rows[-1]["loss"], refresh=False)
        trained = (self.run.trainer.folder / RECIPE_FILE).exists()
        self.bar.set_description(f"{self.run.name}: {'evaluates' if trained else 'trains'}", refresh=False)
        self.bar.update(epoch - self.bar.n)
        if self.bar.fp.isatty():
            self.bar.refresh()  # the elapsed time

    def end(self) -> Outcome:
        self.bar.close()
        if (result := self.run.result()) is not None and self.process.exitcode == 0:
            return Outcome(self.run, result)
        if self.process.exitcode == _BUSY:
            return Outcome(self.run, error=BusyError(f"another process is working on {self.run.name}"))
        if (failure := self.run.read(FAILURE_JSON)) is None:  # the process could not write it
            failure = {"error": f"its process died with exit status {self.process.exitcode}, perhaps out of memory"}
            _write_failure(self.run, failure["error"])
        return Outcome(self.run, error=RunError(failure["error"]))


def start_process(run: Run, threads: int) -> BaseProcess:
    """Starts a process that executes one run."""
    process = _processes().Process(target=_execute, args=(run, threads))
    process.start()
    return process


def _processes() -> BaseContext:
    """Forks processes from one that has imported the package but computed nothing; spawns them on Windows."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vididi_hf.pretraining.loop", "vididi_hf.evaluation.retrieval"])
    forkserver.ensure_running()
    return context


def _execute(run: Run, threads: int) -> None:
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        # Otherwise the run would outlive a killed study. Pretraining writes a checkpoint on this signal.
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        run_one(run)
    except BusyError:
        os._exit(_BUSY)
    except Exception:
        os._exit(1)  # `failure.json` says why
