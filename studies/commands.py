"""Runs a grid, records its results, and renders tables and figures."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from tqdm.auto import tqdm

from studies.grid import read_grid
from studies.plots import figure_files, write_figures
from studies.records import Records, collect, read_all_records
from studies.running import BusyError, Outcome, prepare, run_all
from studies.runs import Run
from studies.tables import render_demo, render_evidence, render_motion, render_study, update_page
from vididi_hf.data.registry import DATASETS
from vididi_hf.files import write_text


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
    """Executes the runs of a grid that have no result, and records the results after every run.

    A run is done if its folder says so, or if the results of any grid hold it with the same configuration. Returns the
    runs that failed. The arguments are those of `scripts/study.py`.
    """
    path = Path(path)
    grid = read_grid(path)
    runs = grid.plan(output_dir, data, **({} if num_workers is None else {"num_workers": num_workers}))
    chosen = choose_runs(runs, only)

    def record() -> Records:
        records = collect(grid, runs, list(read_all_records(results, path.stem).values()))
        records.write(results, path.stem)
        return records

    known = read_all_records(results, path.stem).values()
    waiting = [run for run in chosen if run.result() is None and not any(records.holds(run) for records in known)]
    print(f"{path.stem}: {len(runs)} runs, {len(chosen)} chosen, {len(chosen) - len(waiting)} of them done already")
    for run in waiting:
        if data is None and (declared := run.declared["dataset"]) not in DATASETS:
            raise ValueError(f"{run.dataset} is not a built-in data set: pass the folder of {declared} as --data")
    failed = []
    start = time.monotonic()

    def finished(outcome: Outcome) -> None:
        after = f"{(time.monotonic() - start) / 60:.1f} min"
        if outcome.error is None:
            tqdm.write(f"{after}: done: {outcome.run.name}")
        elif isinstance(outcome.error, BusyError):
            tqdm.write(f"{after}: skipped: {outcome.error}")
        else:
            failed.append(outcome)
            tqdm.write(f"{after}: failed: {outcome.run.name}: {outcome.error}")
        record()

    if waiting:
        prepare(waiting)
        run_all(waiting, jobs, finished)
    missing = record().missing()
    print(f"{path.stem}: {len(runs) - len(missing)} of {len(runs)} runs are in {Path(results) / path.stem}.csv")
    return failed


def choose_runs(runs: Sequence[Run], only: Sequence[str]) -> list[Run]:
    """Returns the runs whose data set or name matches a pattern; all if there is no pattern."""

    def matches(run: Run, pattern: str) -> bool:
        return fnmatchcase(run.name, pattern) or run.dataset == pattern

    for pattern in only:
        if not any(matches(run, pattern) for run in runs):
            raise ValueError(f"no run matches {pattern!r}; runs: {', '.join(dict.fromkeys(run.name for run in runs))}")
    return [run for run in runs if not only or any(matches(run, pattern) for pattern in only)]


def report(results: str | Path, page: str | Path, readme: str | Path, encoders: str | Path) -> list[Path]:
    """Renders all results: `tables/<grid>.md` and `figures/` beside the results, and the tables of the three pages."""
    folder, page = Path(results), Path(page)
    known = read_all_records(folder)
    written = []
    for name, records in known.items():
        figures = write_figures(records, name, folder / "figures")
        text = render_study(records, name, [f"../figures/{file}" for file in figure_files(records, name)])
        written += [write_text(folder / "tables" / f"{name}.md", text), *figures]
    (page.parent / "images").mkdir(exist_ok=True)
    written.append(Path(shutil.copy(folder / "figures" / "main.png", page.parent / "images" / "study.png")))
    tables = {
        page: render_evidence(known),
        Path(readme): render_demo(folder / "demo"),
        Path(encoders): render_motion(folder / "motion_benchmark" / "encoders.json"),
    }
    return [*written, *(update_page(path, table) for path, table in tables.items())]
