"""What `scripts/study.py` does: run what is not done, write down what is, render the page."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from tqdm.auto import tqdm

from studies.grid import read_grid
from studies.plots import write_plots
from studies.records import Records, collect, read_all_records, read_records, write_records
from studies.report import render, update_page
from studies.running import BusyError, Outcome, describe, run_all
from studies.runs import Run
from vididi_hf.data.registry import DATASETS


def run_study(
    path: str | Path,
    *,
    output_dir: str | Path,
    results: str | Path,
    data: str | Path | None = None,
    only: Sequence[str] = (),
    jobs: int = 1,
    num_workers: int | None = None,
) -> list[Outcome]:
    """Runs what a grid lacks, and writes its results after every run.

    A run is done if its folder says so, or if the results of some grid hold it already, perhaps from another machine,
    with the same configuration.

    Args:
        path: The grid.
        output_dir: Folder of the runs.
        results: Folder of the results, `<grid>.csv` and `<grid>.json`.
        data: The folder of the data sets that are not built in.
        only: Patterns of the names of the runs that shall be run; none runs all.
        jobs: Runs at a time.
        num_workers: Processes that decode, for each run; None leaves it to the grid.

    Returns:
        The runs that have failed.

    Raises:
        ValueError: If the grid is wrong, no run has such a name, or `data` is needed and missing.
        FileNotFoundError: If there is no such grid, or a data set is not there.
    """
    path = Path(path)
    grid = read_grid(path)
    overrides = {} if num_workers is None else {"num_workers": num_workers}
    runs = grid.plan(output_dir, data, **overrides)
    chosen = choose_runs(runs, only)
    command = f"python scripts/study.py studies/{path.name} --data DATA"

    def write() -> Records:
        records = collect(grid, runs, read_all_records(results, path.stem), command)
        write_records(records, results, path.stem)
        return records

    known = read_all_records(results, path.stem)
    waiting = [run for run in chosen if run.result() is None and not any(records.holds(run) for records in known)]
    print(f"{path.stem}: {len(runs)} runs, {len(chosen)} chosen, {len(chosen) - len(waiting)} of them done already")
    for run in waiting:
        if data is None and (declared := run.declared["dataset"]) not in DATASETS:
            raise ValueError(f"{run.dataset} is no built-in data set: say with --data which folder holds {declared}")
    failed = []

    def finished(outcome: Outcome) -> None:
        if outcome.error is None:
            tqdm.write(f"done: {outcome.run.name}")
        elif isinstance(outcome.error, BusyError):
            tqdm.write(f"left alone: {outcome.error}")
        else:
            failed.append(outcome)
            tqdm.write(f"failed: {outcome.run.name}: {describe(outcome.error)}")
        write()

    if waiting:
        run_all(waiting, jobs, finished)
    missing = write().missing()
    print(f"{path.stem}: {len(runs) - len(missing)} of {len(runs)} runs are in {Path(results) / path.stem}.csv")
    return failed


def choose_runs(runs: Sequence[Run], only: Sequence[str]) -> list[Run]:
    """Chooses the runs whose names match one of some patterns; all for no pattern.

    Raises:
        ValueError: If a pattern matches nothing.
    """
    for pattern in only:
        if not any(_matches(run, pattern) for run in runs):
            names = ", ".join(dict.fromkeys(run.name for run in runs))
            raise ValueError(f"no run is called {pattern!r}; there are {names}")
    return [run for run in runs if not only or any(_matches(run, pattern) for pattern in only)]


def _matches(run: Run, pattern: str) -> bool:
    return fnmatchcase(run.name, pattern) or run.dataset == pattern


def report(path: str | Path, results: str | Path, page: str | Path) -> list[Path]:
    """Renders the results of a grid into a page, with its pictures in `images/` beside the page.

    Args:
        path: The grid.
        results: Folder of the results.
        page: The page; it has the markers of the grid.

    Returns:
        What was written.
    """
    name = Path(path).stem
    records = read_records(results, name)
    written = [update_page(page, {name: render(records, name)})]
    if records is not None:
        written += write_plots(records, name, Path(page).parent / "images")
    return written
