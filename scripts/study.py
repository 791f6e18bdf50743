#!/usr/bin/env python
"""Runs a declared study: trains and evaluates every encoder of a grid, and writes down what each reaches.

python scripts/study.py studies/main.json --data path/to/data           # continues where it was; done runs are skipped
python scripts/study.py studies/main.json --data path/to/data --only 'motion/*seed0'
python scripts/study.py studies/main.json --report                      # renders docs/study.md from the results
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studies.commands import report, run_study
from vididi_hf.options import build_parser, errors_in_one_line, option

ROOT = Path(__file__).parents[1]


@dataclass
class StudyArguments:
    """The study's command line."""

    output_dir: str = option(default="runs/study", help="Folder of the runs, one each; grids can share it.")
    results: str = option(default=str(ROOT / "studies" / "results"), help="Folder of the tables of results.")
    data: str | None = option(default=None, help="Folder that holds the data sets that are not built in.")
    only: list[str] = option(
        default_factory=list,
        help="Run only these: data sets, or patterns of <data set>/<arm>-seed<seed> with * and ?.",
    )
    jobs: int = option(default=1, help="Runs at a time; they share the cores.")
    num_workers: int | None = option(default=None, help="Processes that decode, for each run, instead of the grid's.")
    report: bool = option(default=False, help="Train nothing: render the results into docs/study.md and docs/images.")
    page: str = option(default=str(ROOT / "docs" / "study.md"), help="The page that --report renders into.")

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {self.jobs}")


def main(command_line: Sequence[str] | None = None) -> None:
    """Reads the command line and runs the study; the exit status is 1 if a run has failed."""
    parser = build_parser(StudyArguments, __doc__)
    parser.add_argument("grid", help="The JSON file that declares the study, such as studies/main.json.")
    values = vars(parser.parse_args(command_line))
    grid = values.pop("grid")
    with errors_in_one_line("study.py"):
        arguments = StudyArguments(**values)
        if arguments.report:
            for path in report(grid, arguments.results, arguments.page):
                print(f"written: {path}")
            return
        failed = run_study(
            grid,
            output_dir=arguments.output_dir,
            results=arguments.results,
            data=arguments.data,
            only=arguments.only,
            jobs=arguments.jobs,
            num_workers=arguments.num_workers,
        )
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
