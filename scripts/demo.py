#!/usr/bin/env python
"""Trains the same tiny network twice on the same videos, plain and with ViDiDi, and shows what the difference is.

python scripts/demo.py                                       # on generated videos whose label is their motion
python scripts/demo.py --dataset path/to/videos --seeds 0 1 2
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from transformers import HfArgumentParser
from transformers.hf_argparser import HfArg

from vididi_hf.comparison import format_table, plan, run_arms, summarise
from vididi_hf.comparison_plots import plot_comparison
from vididi_hf.pretraining.recipe import PretrainingRecipe, read_recipe_file

RECIPE = Path(__file__).parent / "recipes" / "motion-tiny.json"


@dataclass
class DemoArguments:
    """The demo's command line."""

    dataset: str = HfArg(default="motion", help="`motion`, or a folder or list of your own videos.")
    dataset_root: str | None = HfArg(default=None, help="Where `motion` shall be made.")
    leave_out: str | None = HfArg(
        default=None, help="For sets without a test split: leave out one value of this column."
    )
    config: str = HfArg(default=str(RECIPE), help="JSON file of the pretraining options that all runs share.")
    epochs: int | None = HfArg(default=None, help="Epochs of each run, instead of the file's.")
    seeds: list[int] = HfArg(default_factory=lambda: [0], help="One comparison for each seed.")
    num_clips: int = HfArg(default=4, help="Clips per video in the evaluation.")
    processes: int = HfArg(default=2, help="Runs at a time.")
    output_dir: str = HfArg(default="demo", help="Folder of the encoders, the table and the pictures.")


def main() -> None:
    """Runs the comparison and writes its table and pictures."""
    [arguments] = HfArgumentParser([DemoArguments], description=__doc__).parse_args_into_dataclasses()
    output_dir = Path(arguments.output_dir)
    try:
        recipe = replace(
            PretrainingRecipe(**read_recipe_file(arguments.config)),
            dataset=arguments.dataset,
            dataset_root=arguments.dataset_root,
            leave_out=arguments.leave_out,
        )
        if arguments.epochs is not None:
            recipe = replace(recipe, epochs=arguments.epochs)
        arms = plan(recipe, arguments.seeds, output_dir)
        results = run_arms(arms, arguments.num_clips, arguments.processes)
    except (ValueError, OSError) as error:
        sys.exit(f"demo.py: error: {error}")
    rows = summarise(results)
    table = format_table(rows)
    (output_dir / "results.json").write_text(json.dumps({"arguments": asdict(arguments), "rows": rows}, indent=2))
    (output_dir / "results.md").write_text(table + "\n")
    pictures = plot_comparison(arms, results, output_dir)
    if rows:
        print(
            f"\n{table}\n\nRetrieval of videos, in per cent: R@1 is the share whose nearest neighbour has their label."
        )
    else:
        print("\nThe videos have no labels, so there is no table; retrieval.png shows what each encoder finds alike.")
    for path in pictures:
        print(f"picture: {path}")
    for arm in arms:
        print(f"encoder: {arm.folder}  (ViDiDiModel.from_pretrained)")


if __name__ == "__main__":
    main()
