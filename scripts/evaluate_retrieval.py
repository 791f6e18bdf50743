#!/usr/bin/env python
"""Measures an encoder by retrieval: does the nearest training video show the same action?

python scripts/evaluate_retrieval.py --model runs/mine --dataset path/to/clips.csv --output runs/mine/retrieval
python scripts/evaluate_retrieval.py --model runs/mine --dataset clips.csv --gallery_split all --leave_out source

Writes the numbers (JSON) and a picture of a few queries with what was found for them (PNG).
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

import vididi_hf
from vididi_hf.data.registry import ALL_ROWS, load_video_dataset
from vididi_hf.evaluation.arguments import EncoderArguments, errors_in_one_line, option, parse_arguments
from vididi_hf.evaluation.retrieval import INPUTS, RetrievalEvaluator, RetrievalResult
from vididi_hf.visualization import choose_queries, plot_retrieval, save_figure


@dataclass(kw_only=True)
class RetrievalArguments(EncoderArguments):
    """The command line."""

    dataset: str = option(
        help="A built-in set (motion), a folder of videos, a CSV or Parquet list, a saved data set, or a Hub id."
    )
    dataset_root: str | None = option(default=None, help="Where a built-in set lies, or shall be made.")
    gallery_split: str = option(default="train", help=f"The split that is searched; {ALL_ROWS!r} takes all rows.")
    query_split: str = option(default="test", help="The split that is asked with.")
    leave_out: str | None = option(
        default=None,
        help="A column, such as the recording a video was cut from. Then every video of gallery_split is a query and "
        "is compared with those that differ from it in this column; query_split is not used.",
    )
    inputs: list[str] = option(
        default_factory=lambda: list(INPUTS), help=f"What the encoder is shown: some of {', '.join(INPUTS)}."
    )
    output: str = option(
        default="retrieval", help="A folder, for retrieval.json and retrieval.png; or the .json file itself."
    )
    gallery_queries: int = option(default=4, help="Queries shown in the picture; 0 draws none.")
    progress: bool = option(default=True, help="Show progress bars.")


def report(arguments: RetrievalArguments, result: RetrievalResult) -> dict[str, Any]:
    """Collects what the JSON file holds: the numbers, and all that is needed to measure them again."""
    splits = {"gallery_split": arguments.gallery_split}
    splits["query_split"] = arguments.gallery_split if arguments.leave_out else arguments.query_split
    return {
        "metrics": result.metrics,
        "protocol": {**result.protocol, **splits},
        "model": arguments.model,
        "random_init": arguments.random_init,
        "seed": arguments.seed,
        "dataset": arguments.dataset,
        "versions": {
            "vididi_hf": vididi_hf.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def format_table(metrics: dict[str, dict[str, float]]) -> str:
    """Formats metrics as an aligned table, one line per input."""
    names = list(next(iter(metrics.values())))
    width = max(map(len, ["input", *metrics]))
    lines = [f"{'input':<{width}}" + "".join(f"{name:>8}" for name in names)]
    for name, values in metrics.items():
        lines.append(f"{name:<{width}}" + "".join(f"{value:>8.3f}" for value in values.values()))
    return "\n".join(lines)


def draw(
    arguments: RetrievalArguments,
    result: RetrievalResult,
    queries: datasets.Dataset,
    gallery: datasets.Dataset,
    path: Path,
) -> None:
    """Writes the picture of a few queries with their neighbours, one line per input."""
    shown = choose_queries(result.queries.labels(queries), arguments.gallery_queries, arguments.seed)
    figure = plot_retrieval(
        queries,
        result.queries.rows[shown],
        gallery,
        {name: neighbours[shown] for name, neighbours in result.neighbours.items()},
        title=f"{Path(arguments.model).name}{' (random weights)' if arguments.random_init else ''}: nearest videos",
    )
    save_figure(figure, path)


def main(command_line: Sequence[str] | None = None) -> None:
    """Evaluates, writes the files and prints the table."""
    arguments = parse_arguments(RetrievalArguments, command_line, __doc__)
    with errors_in_one_line("evaluate_retrieval.py"):
        output = Path(arguments.output)
        output = output if output.suffix == ".json" else output / "retrieval.json"
        output.parent.mkdir(parents=True, exist_ok=True)
        model, processor = arguments.load()
        gallery = load_video_dataset(arguments.dataset, root=arguments.dataset_root, split=arguments.gallery_split)
        queries = gallery
        if not arguments.leave_out:
            queries = load_video_dataset(arguments.dataset, root=arguments.dataset_root, split=arguments.query_split)
        result = RetrievalEvaluator(
            gallery=gallery,
            queries=queries,
            processor=processor,
            inputs=arguments.inputs,
            num_clips=arguments.num_clips,
            batch_size=arguments.batch_size,
            num_workers=arguments.num_workers,
            progress=arguments.progress,
            leave_out=arguments.leave_out,
        )(model)
        output.write_text(json.dumps(report(arguments, result), indent=2) + "\n")
        if arguments.gallery_queries > 0:
            draw(arguments, result, queries, gallery, output.with_suffix(".png"))
    searched, asked = result.protocol["gallery_videos"], result.protocol["query_videos"]
    print(f"{asked} queries, {searched} videos searched, {result.protocol['classes']} classes")
    print(format_table(result.metrics))
    if failed := result.protocol["failed_videos"]:
        print(f"{len(failed)} videos could not be decoded and are left out: {', '.join(failed)}")


if __name__ == "__main__":
    main()
