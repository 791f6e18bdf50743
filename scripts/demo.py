#!/usr/bin/env python
"""Trains the same tiny network twice on the same videos, plain and with ViDiDi, and shows what the difference is.

python scripts/demo.py                                       # on generated videos whose label is their motion
python scripts/demo.py --dataset path/to/videos --seeds 0 1 2
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from studies.demonstration import plot_comparison
from studies.grid import Arm, Grid, StudyDataset
from studies.report import format_table
from studies.running import run_all
from studies.runs import Protocol
from studies.statistics import scores_of, summarize
from vididi_hf.files import write_text
from vididi_hf.options import errors_in_one_line, option, parse_arguments
from vididi_hf.pretraining.recipe import PretrainingRecipe

RECIPE = Path(__file__).parent / "recipes" / "motion-tiny.json"
DATASET = "videos"
ARMS = {
    "untrained": Arm({"order_schedule": "baseline"}, train=False),
    "baseline": Arm({"order_schedule": "baseline"}),
    "ViDiDi": Arm({"order_schedule": "paper"}),
}


@dataclass
class DemoArguments:
    """The demo's command line."""

    dataset: str = option(default="motion", help="`motion`, or a folder or list of your own videos.")
    dataset_root: str | None = option(default=None, help="Where `motion` shall be made.")
    split: str = option(default="train", help="The split to train on and to search; `all` takes all rows.")
    group_column: str | None = option(
        default=None, help="For sets without a test split: compare videos that differ in this column only."
    )
    config: str = option(default=str(RECIPE), help="JSON file of the pretraining options that all runs share.")
    epochs: int | None = option(default=None, help="Epochs of each run, instead of the file's.")
    seeds: list[int] = option(default_factory=lambda: [0], help="One comparison for each seed.")
    num_clips: int = option(default=4, help="Clips per video in the evaluation.")
    processes: int = option(default=2, help="Runs at a time.")
    output_dir: str = option(default="demo", help="Folder of the encoders, the table and the pictures.")


def declare(arguments: DemoArguments) -> Grid:
    """The demo is a study of one data set, whose recipe is that of the file and the command line."""
    recipe = {
        **{name: value for name, value in PretrainingRecipe.read_values(arguments.config).items() if name != "dataset"},
        "split": arguments.split,
        "group_column": arguments.group_column,
    }
    if arguments.epochs is not None:
        recipe["epochs"] = arguments.epochs
    return Grid(
        about="The same tiny network on the same videos, plain and with ViDiDi",
        datasets={DATASET: StudyDataset(arguments.dataset, recipe)},
        arms=ARMS,
        seeds=arguments.seeds,
        evaluation=Protocol(num_clips=arguments.num_clips, linear=False),
    )


def run(arguments: DemoArguments) -> None:
    """Trains, evaluates, and writes the table and the pictures."""
    output_dir = Path(arguments.output_dir)
    grid = declare(arguments)
    runs = grid.runs_on(DATASET, arguments.dataset, output_dir, root=arguments.dataset_root)
    outcomes = run_all(runs, arguments.processes)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    rows = summarize(score for outcome in outcomes if outcome.result for score in scores_of(outcome.result))
    written = [{name: value for name, value in asdict(row).items() if name not in ("dataset", "about")} for row in rows]
    write_text(
        output_dir / "results.json", json.dumps({"arguments": asdict(arguments), "rows": written}, indent=2) + "\n"
    )
    if rows:
        table = format_table(rows)
        write_text(output_dir / "results.md", table + "\n")
        print(f"\n{table}\n\nIn per cent. R@1: the share of videos whose nearest neighbor has their label.")
    else:
        print("\nThe videos have no labels, so there is no table; retrieval.png shows what each encoder finds alike.")
    for path in plot_comparison(runs, output_dir):
        print(f"picture: {path}")
    for each in runs:
        print(f"encoder: {each.folder}  (ViDiDiModel.from_pretrained)")


def main(command_line: Sequence[str] | None = None) -> None:
    """Reads the command line and runs the comparison."""
    arguments = parse_arguments(DemoArguments, command_line, __doc__)
    with errors_in_one_line("demo.py"):
        run(arguments)


if __name__ == "__main__":
    main()
