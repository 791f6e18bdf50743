#!/usr/bin/env python
"""Measures a fine-tuned classifier: several clips a video, the mean of their probabilities.

python scripts/evaluate_classification.py --model runs/classifier --dataset path/to/clips.csv --output runs/test
python scripts/evaluate_classification.py --model runs/classifier --dataset clips.csv --inputs frames ensemble

Writes metrics.json: the numbers, the protocol, and the entries for the model card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.command_line import errors_in_one_line, option, parse_arguments
from vididi_hf.data.registry import ALL_ROWS, load_video_dataset
from vididi_hf.evaluation.arguments import EncoderArguments
from vididi_hf.evaluation.classification import ClassificationEvaluator
from vididi_hf.evaluation.commands import format_table, json_path, print_failed
from vididi_hf.evaluation.inputs import CLASSIFIER_INPUTS
from vididi_hf.evaluation.results import dataset_name, report_of, write_report


@dataclass(kw_only=True)
class ClassificationArguments(EncoderArguments):
    """The command line."""

    dataset: str = option(
        help="A set in docs/datasets.md, a folder of videos, a CSV or Parquet list, a saved data set, or a Hub id."
    )
    dataset_root: str | None = option(default=None, help="Where a built-in set lies or is made: docs/datasets.md.")
    split: str = option(default="test", help=f"The split that is classified; {ALL_ROWS!r} takes all rows.")
    inputs: list[str] | None = option(
        default=None,
        help=f"What the model is shown: some of {', '.join(CLASSIFIER_INPUTS)}; by default what it was trained with.",
    )
    output: str = option(default="classification", help="A folder, for metrics.json; or the .json file itself.")
    progress: bool = option(default=True, help="Show progress bars.")


def main(command_line: Sequence[str] | None = None) -> None:
    """Evaluates, writes the file and prints the table."""
    arguments = parse_arguments(ClassificationArguments, command_line, __doc__)
    with errors_in_one_line("evaluate_classification.py"):
        model, processor = arguments.load(ViDiDiForVideoClassification)
        evaluator = ClassificationEvaluator(
            load_video_dataset(arguments.dataset, root=arguments.dataset_root, split=arguments.split),
            processor,
            inputs=arguments.inputs,
            num_clips=arguments.num_clips,
            batch_size=arguments.batch_size,
            num_workers=arguments.num_workers,
            progress=arguments.progress,
            dataset=dataset_name(arguments.dataset),
            split=arguments.split,
        )
        result = evaluator(model)
        facts = {"random_init": arguments.random_init, "seed": arguments.seed, "source": arguments.dataset}
        write_report(json_path(arguments.output), report_of(result, arguments.model, **facts))
    print(f"{result.protocol['videos']} videos, {result.protocol['classes']} classes")
    print(format_table(result.metrics))
    print_failed(result)


if __name__ == "__main__":
    main()
