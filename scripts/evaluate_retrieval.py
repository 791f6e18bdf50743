#!/usr/bin/env python
"""Measures an encoder by retrieval: does the nearest training video show the same action?

python scripts/evaluate_retrieval.py --model runs/mine --dataset path/to/clips.csv --output runs/mine/retrieval
python scripts/evaluate_retrieval.py --model runs/mine --dataset clips.csv --gallery_split all --leave_out source

Writes metrics.json (the numbers, the protocol, the entries for the model card) and retrieval.png (a few queries with
what was found for them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets

from vididi_hf.command_line import errors_in_one_line, option, parse_arguments
from vididi_hf.evaluation.commands import FrozenArguments, format_table, json_path, print_failed
from vididi_hf.evaluation.results import METRICS_JSON, write_report
from vididi_hf.evaluation.retrieval import RetrievalEvaluator, RetrievalResult
from vididi_hf.visualization import choose_queries, plot_retrieval, save_figure

PICTURE = "retrieval.png"


@dataclass(kw_only=True)
class RetrievalArguments(FrozenArguments):
    """The command line."""

    output: str = option(
        default="retrieval",
        help="A folder, for metrics.json and retrieval.png; or the .json file itself, beside which the picture lies.",
    )
    gallery_queries: int = option(default=4, help="Queries shown in the picture; 0 draws none.")


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
        output = json_path(arguments.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        model, processor = arguments.load()
        gallery, queries = arguments.datasets()
        evaluator = RetrievalEvaluator(gallery, queries, processor, **arguments.settings())
        result = evaluator(model)
        write_report(output, arguments.report(result))
        if arguments.gallery_queries > 0:
            picture = output.with_name(PICTURE) if output.name == METRICS_JSON else output.with_suffix(".png")
            draw(arguments, result, evaluator.queries, evaluator.gallery, picture)
    searched, asked = result.protocol["gallery_videos"], result.protocol["query_videos"]
    print(f"{asked} queries, {searched} videos searched, {result.protocol['classes']} classes")
    print(format_table(result.metrics))
    print_failed(result)


if __name__ == "__main__":
    main()
