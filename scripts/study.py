#!/usr/bin/env python
"""Trains and evaluates every encoder of a grid, and records the results. Runs from a checkout.

python scripts/study.py studies/main.json --data path/to/data   # continues; finished runs are skipped
python scripts/study.py studies/main.json --data path/to/data --only 'motion/*seed0'
python scripts/study.py --report                                # renders the tables from the results
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the package `studies`

from vididi_hf.options import Options, errors_in_one_line, option, parse_options

ROOT = Path(__file__).resolve().parents[1]


@dataclass(kw_only=True)
class StudyOptions(Options):
    """The options of a study."""

    grid: str | None = option(default=None, positional=True, help="JSON file of the grid, such as studies/main.json.")
    output_dir: str = option(default="runs/study", help="Folder of the runs. Grids of one folder can share it.")
    results: str = option(default=str(ROOT / "studies" / "results"), help="Folder of the results.")
    data: str | None = option(default=None, help="Folder of the data sets that are not built in.")
    only: list[str] = option(
        default_factory=list, help="Execute only these data sets, or patterns of <data set>/<arm>-seed<seed>."
    )
    jobs: int = option(default=1, at_least=1, help="Runs at a time. They share the cores.")
    num_workers: int | None = option(default=None, at_least=0, help="Decoding processes of each run.")
    report: bool = option(default=False, help="Only render the tables and figures of all results.")
    page: str = option(default=str(ROOT / "docs" / "study.md"), help="The page with the table of the main results.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid is None and not self.report:
            raise ValueError("name a grid, such as studies/main.json, or pass --report")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study. The exit status is 1 if a run failed."""
    options = parse_options(StudyOptions, arguments, prog="study.py", description=__doc__)
    with errors_in_one_line("study.py"):
        from studies.commands import report, run_study

        if options.report:
            for path in report(options.results, options.page, ROOT / "README.md", ROOT / "docs" / "any-encoder.md"):
                print(f"written: {path}")
            return
        assert options.grid is not None
        failed = run_study(
            options.grid,
            output_dir=options.output_dir,
            results=options.results,
            data=options.data,
            only=options.only,
            jobs=options.jobs,
            num_workers=options.num_workers,
        )
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
