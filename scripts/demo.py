#!/usr/bin/env python
"""Trains the same tiny network on the same videos, without and with ViDiDi, and compares the encoders.

python scripts/demo.py                                       # on generated videos whose label is their motion
python scripts/demo.py --dataset path/to/videos --seeds 0 1 2
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the package `studies`

from vididi_hf.options import Options, errors_in_one_line, option, parse_options

if TYPE_CHECKING:
    from studies.grid import Grid

RECIPE = Path(__file__).parent / "recipes" / "motion-tiny.json"
DATASET = "videos"
PLACES = ("dataset_root", "recipe", "output_dir")  # which the results do not tell
ARMS = {
    "untrained": {"order_schedule": "baseline"},
    "baseline": {"order_schedule": "baseline"},
    "ViDiDi": {"order_schedule": "paper-per-step"},
}


@dataclass(kw_only=True)
class DemoOptions(Options):
    """The options of the demo."""

    dataset: str = option(default="motion", help="`motion`, or a folder or list of your own videos.")
    dataset_root: str | None = option(default=None, help="Folder for the generated `motion` videos.")
    split: str = option(default="train", help="The split to train on and to search; `all` takes all rows.")
    group_column: str | None = option(
        default=None,
        old_names=("leave_out",),
        help="For sets without a test split: compare only videos that differ in this column.",
    )
    recipe: str = option(default=str(RECIPE), help="JSON file of the pretraining options that all runs share.")
    epochs: int | None = option(default=None, at_least=1, help="Epochs of each run, instead of the recipe's.")
    seeds: list[int] = option(default_factory=lambda: [0], help="One comparison per seed.")
    arms: list[str] = option(default_factory=lambda: list(ARMS), choices=tuple(ARMS), help="The encoders to compare.")
    num_clips: int = option(default=4, at_least=1, help="Clips per video in the evaluation.")
    processes: int = option(default=3, at_least=1, help="Runs at a time.")
    output_dir: str = option(default="demo", help="Folder of the encoders, the table and the figures.")


def declare(options: DemoOptions) -> Grid:
    """Declares the demo as a study of one data set."""
    from studies.grid import Arm, Grid, StudyDataset
    from studies.runs import Protocol
    from vididi_hf.pretraining.recipe import PretrainingRecipe

    recipe = PretrainingRecipe.read_values(options.recipe)
    recipe |= {"split": options.split, "group_column": options.group_column}
    recipe.pop("dataset", None)
    if options.epochs is not None:
        recipe["epochs"] = options.epochs
    return Grid(
        about="The same tiny network on the same videos, without and with ViDiDi",
        datasets={DATASET: StudyDataset(options.dataset, recipe)},
        arms={name: Arm(ARMS[name], train=name != "untrained") for name in options.arms},
        seeds=options.seeds,
        evaluation=Protocol(num_clips=options.num_clips, linear=False),
    )


def run(options: DemoOptions) -> None:
    """Trains, evaluates, and writes the table and the figures."""
    from studies.demonstration import plot_comparison
    from studies.records import score_table
    from studies.running import Outcome, prepare, run_all, threads_of
    from studies.tables import format_scores, summarize
    from vididi_hf.files import write_text

    output_dir, start = Path(options.output_dir), time.monotonic()
    runs = declare(options).runs_on(DATASET, options.dataset, output_dir, root=options.dataset_root)
    print(f"{len(runs)} runs, {options.processes} at a time: prepares the videos, trains, evaluates", flush=True)
    prepare(runs)
    seconds = {"videos": round(time.monotonic() - start, 1)}

    def finished(outcome: Outcome) -> None:
        state = f"failed: {outcome.error}" if outcome.error else "done"
        print(f"{time.monotonic() - start:4.0f} s: {outcome.run.folder.name}: {state}", flush=True)

    outcomes = run_all(runs, options.processes, finished)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    results = [outcome.result for outcome in outcomes if outcome.result]
    if results[0]["metrics"]:
        table = format_scores(summarize(score_table(results)))
        write_text(output_dir / "results.md", table + "\n")
        print(f"\n{table}\n\nIn percent. R@1: the share of videos whose nearest neighbor has their label.")
    else:
        print("\nThe videos have no labels, so there is no table. retrieval.png shows the nearest neighbors.")
    for path in plot_comparison(runs, output_dir):
        print(f"figure: {path}")
    seconds["all"] = round(time.monotonic() - start, 1)
    content = {
        "arguments": {name: value for name, value in asdict(options).items() if name not in PLACES},
        "threads": threads_of(options.processes),
        "seconds": seconds,
        "runs": [{name: one[name] for name in ("arm", "seed", "metrics", "seconds", "versions")} for one in results],
    }
    write_text(output_dir / "results.json", json.dumps(content, indent=2) + "\n")
    for each in runs:
        print(f"encoder: {each.folder}  (load it with ViDiDiModel.from_pretrained)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options and runs the comparison."""
    options = parse_options(DemoOptions, arguments, prog="demo.py", description=__doc__)
    with errors_in_one_line("demo.py"):
        run(options)


if __name__ == "__main__":
    main()
