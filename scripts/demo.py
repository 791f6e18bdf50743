#!/usr/bin/env python
"""Trains the same tiny network twice on the same videos, plain and with ViDiDi, and shows what the difference is.

python scripts/demo.py                                       # on generated videos whose label is their motion
python scripts/demo.py --dataset path/to/videos --seeds 0 1 2
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vididi_hf.command_line import errors_in_one_line, option, parse_arguments
from vididi_hf.comparison import format_table, plan, run_arms, summarise
from vididi_hf.comparison_plots import plot_comparison
from vididi_hf.pretraining.recipe import PretrainingRecipe, read_recipe_file

RECIPE = Path(__file__).parent / "recipes" / "motion-tiny.json"


@dataclass
class DemoArguments:
    """The demo's command line."""

    dataset: str = option(default="motion", help="`motion`, or a folder or list of your own videos.")
    dataset_root: str | None = option(default=None, help="Where `motion` shall be made.")
    split: str = option(default="train", help="The split to train on and to search; `all` takes all rows.")
    leave_out: str | None = option(
        default=None, help="For sets without a test split: compare videos that differ in this column only."
    )
    config: str = option(default=str(RECIPE), help="JSON file of the pretraining options that all runs share.")
    epochs: int | None = option(default=None, help="Epochs of each run, instead of the file's.")
    seeds: list[int] = option(default_factory=lambda: [0], help="One comparison for each seed.")
    num_clips: int = option(default=4, help="Clips per video in the evaluation.")
    processes: int = option(default=2, help="Runs at a time.")
    output_dir: str = option(default="demo", help="Folder of the encoders, the table and the pictures.")


def run(arguments: DemoArguments) -> None:
    """Trains, evaluates, and writes the table and the pictures."""
    output_dir = Path(arguments.output_dir)
    recipe = replace(
        PretrainingRecipe(**read_recipe_file(arguments.config)),
        dataset=arguments.dataset,
        dataset_root=arguments.dataset_root,
        split=arguments.split,
        leave_out=arguments.leave_out,
    )
    if arguments.epochs is not None:
        recipe = replace(recipe, epochs=arguments.epochs)
    arms = plan(recipe, arguments.seeds, output_dir)
    results = run_arms(arms, arguments.num_clips, arguments.processes)
    rows = summarise(results)
    table = format_table(rows)
    (output_dir / "results.json").write_text(json.dumps({"arguments": asdict(arguments), "rows": rows}, indent=2))
    if rows:
        (output_dir / "results.md").write_text(table + "\n")
        print(f"\n{table}\n\nIn per cent. R@1: the share of videos whose nearest neighbour has their label.")
    else:
        print("\nThe videos have no labels, so there is no table; retrieval.png shows what each encoder finds alike.")
    for path in plot_comparison(arms, results, output_dir):
        print(f"picture: {path}")
    for arm in arms:
        print(f"encoder: {arm.folder}  (ViDiDiModel.from_pretrained)")


def main(command_line: Sequence[str] | None = None) -> None:
    """Reads the command line and runs the comparison."""
    arguments = parse_arguments(DemoArguments, command_line, __doc__)
    with errors_in_one_line("demo.py"):
        run(arguments)


if __name__ == "__main__":
    main()
