"""Runs of a study, several at a time: skipped when done, continued when killed, written down when failed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from studies.measuring import LABEL, LINEAR, Measurement, measure
from studies.runs import (
    CONFIGURATION_JSON,
    FAILURE_JSON,
    NEIGHBOURS_JSON,
    RESULT_JSON,
    Run,
    differences,
)
from studies.tasks import train_tasks
from vididi_hf.evaluation.results import METRICS_JSON, dataset_name, report_of, versions, write_report
from vididi_hf.files import write_text
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.pretraining.logging import read_metrics
from vididi_hf.pretraining.loop import pretrain
from vididi_hf.pretraining.recipe import RECIPE_FILE
from vididi_hf.pretraining.setup import build_processor, save_untrained

LOCK = ".lock"


class BusyError(OSError):
    """Another process is working on the run."""


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        run: The run.
        result: What `result.json` holds, if it is finished.
        error: Why it is not.
    """

    run: Run
    result: dict[str, Any] | None = None
    error: BaseException | None = None


def run_one(run: Run) -> dict[str, Any]:
    """Trains and evaluates one encoder, continuing or skipping what an earlier call has done.

    An encoder that is pretrained on another data set is trained in the folder of that run, and not evaluated there.

    In the run's folder there are then the encoder, what pretraining writes, `metrics.json` and `linear.json` (the
    reports of the evaluators), `neighbors.json`, and `result.json`, which is written last.

    Args:
        run: The run; its `selections` are written already.

    Returns:
        What `result.json` holds: `dataset`, `arm`, `seed`, `configuration`, `protocol`, `metrics` by what was asked
        about and by input, R@1 by `chance`, the `curve` of pretraining, `versions`.

    Raises:
        BusyError: If another process is working on it. One that trains the encoder on another data set is waited for.
        ValueError: If the folder holds a run of another configuration.
        Exception: Whatever training or evaluation raises; it is written to `failure.json`.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run.folder / LOCK, timeout=0):
            return _run_locked(run)
    except Timeout:
        raise BusyError(f"another process is working on {run.name}") from None


def _run_locked(run: Run) -> dict[str, Any]:
    if (found := run.result()) is not None:
        return found
    (run.folder / FAILURE_JSON).unlink(missing_ok=True)
    try:
        _claim(run)
        if run.pretrained is None:
            _train(run)
        else:
            run.pretrained.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(run.pretrained.folder / LOCK):
                _claim(run.pretrained)
                _train(run.pretrained)
        measurement = _evaluate(run)
    except Exception as error:
        failure = {"error": describe(error), "traceback": traceback.format_exc()}
        write_text(run.folder / FAILURE_JSON, json.dumps(failure, indent=2) + "\n")
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
            {key: row[key] for key in ("epoch", "loss", "R@1")} for row in read_metrics(run.folder) if "R@1" in row
        ],
        "versions": {**versions(), "commit": commit()},
    }
    write_text(run.folder / RESULT_JSON, json.dumps(result, indent=2) + "\n")
    return result


def _claim(run: Run) -> None:
    """Notes what the folder is for, or checks that it is for this run."""
    found = run.read(CONFIGURATION_JSON)
    if found is None and (recipe := run.read(RECIPE_FILE)) is not None:
        found = {**run.declared, "recipe": recipe}  # pretrained otherwise, by the script for one run
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
    """Evaluates a finished encoder, frozen and then trained for tasks, and writes the reports."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    encoder = run.trainer.folder
    model: Any = ViDiDiModel.from_pretrained(encoder)
    model.to(device, memory_format=torch.channels_last_3d)
    processor = build_processor(run.recipe)
    splits = run.source.load()
    measurement = measure(
        model,
        processor,
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
    write_text(run.folder / NEIGHBOURS_JSON, json.dumps(measurement.neighbors))
    for shown, numbers in train_tasks(run, encoder).items():
        measurement.metrics[LABEL].setdefault(shown, {}).update(numbers)
    return measurement


def describe(error: BaseException) -> str:
    """Says in one line what went wrong."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def commit() -> str | None:
    """Returns the commit of the code that runs, with "-dirty" behind it where files differ; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def run_all(
    runs: Sequence[Run], jobs: int, finished: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """Runs several processes at a time, each with a progress bar.

    On a few cores, several processes of one thread each train small networks faster than one process of several
    threads. A run that fails, or whose process dies, does not keep the others from being finished.

    Args:
        runs: The runs.
        jobs: How many run at a time; they share the cores.
        finished: Is told of each run when it ends; not of those that were done already.

    Returns:
        How each ended, in the order of `runs`.

    Raises:
        ValueError: If the videos cannot be opened or selected.
    """
    prepare(runs)
    threads = max(1, torch.get_num_threads() // jobs)
    # No process is needed to see what is done already.
    outcomes = {number: Outcome(run, result) for number, run in enumerate(runs) if (result := run.result()) is not None}
    waiting = [(number, run) for number, run in enumerate(runs) if number not in outcomes]
    lanes = [_Lane(place, threads) for place in range(min(jobs, len(waiting)))]
    try:
        while waiting or any(lane.future for lane in lanes):
            for lane in lanes:
                if lane.future is None and waiting:
                    lane.start(*waiting.pop(0))
            wait([lane.future for lane in lanes if lane.future], timeout=1.0, return_when=FIRST_COMPLETED)
            for lane in lanes:
                lane.show_progress()
                if lane.future is not None and lane.future.done():
                    number, outcome = lane.end()
                    outcomes[number] = outcome
                    finished(outcome)
    finally:
        for lane in lanes:
            lane.close()
    return [outcomes[number] for number in range(len(runs))]


def prepare(runs: Sequence[Run]) -> None:
    """Makes or downloads the data sets, and writes the selections, before several processes want them."""
    for selection in dict.fromkeys(selection for run in runs for selection in run.selections):
        selection.write()
    for source in dict.fromkeys(each.source for run in runs for each in (run, run.trainer)):
        source.load()


class _Lane:
    """A process that takes one run after the other: if it dies, it is known which run it died of."""

    def __init__(self, place: int, threads: int):
        self.place = place
        self.threads = threads
        self.future: Future | None = None
        self._pool: ProcessPoolExecutor | None = None

    def start(self, number: int, run: Run) -> None:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, context, initializer=_begin_process, initargs=(self.threads,))
        self.number, self.run = number, run
        self.bar = tqdm(
            total=run.recipe.epochs,
            desc=f"{run.dataset} · {run.arm} · seed {run.seed}",
            unit="epoch",
            position=self.place,
            disable=not run.trained,
        )
        self.future = self._pool.submit(_run_or_exit, run)

    def show_progress(self) -> None:
        if self.future is None:
            return
        rows = read_metrics(self.run.trainer.folder)
        if rows and rows[-1]["epoch"] > self.bar.n:
            latest = {key: rows[-1][key] for key in ("loss", "videos_per_second")}
            recalls = [row["R@1"] for row in rows if "R@1" in row]
            self.bar.set_postfix({**latest, **({"R@1": recalls[-1]} if recalls else {})}, refresh=False)
            self.bar.update(rows[-1]["epoch"] - self.bar.n)

    def end(self) -> tuple[int, Outcome]:
        assert self.future is not None
        error = self.future.exception()
        if isinstance(error, BrokenProcessPool):
            # Nobody in the process could write this down.
            error = RuntimeError("its process died: killed, perhaps for want of memory")
            failure = {"error": describe(error), "traceback": None}
            write_text(self.run.folder / FAILURE_JSON, json.dumps(failure, indent=2) + "\n")
            self.close()
        outcome = Outcome(self.run, None if error else self.future.result(), error)
        self.future = None
        self.bar.close()
        return self.number, outcome

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def _begin_process(threads: int) -> None:
    """Prepares a process that runs are run in."""
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        # Else a study that is killed would go on training unseen. Pretraining writes a checkpoint when it gets this.
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _run_or_exit(run: Run) -> dict[str, Any]:
    """Runs one in such a process; a request to stop ends the process, which would wait for the next run otherwise."""
    try:
        return run_one(run)
    except SystemExit as stop:
        os._exit(int(stop.code or 0))
