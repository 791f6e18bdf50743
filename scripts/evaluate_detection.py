#!/usr/bin/env python
"""Measures a trained detector of actions: frame-mAP, or AVA's mAP, at an IoU of 0.5.

python scripts/evaluate_detection.py --model runs/jhmdb --dataset jhmdb --dataset_root /data/jhmdb --output runs/test
python scripts/evaluate_detection.py --model runs/jhmdb --dataset jhmdb --boxes jittered --inputs frames ensemble
python scripts/evaluate_detection.py --model runs/ava --dataset ava --split validation --boxes detector

Writes metrics.json (with the entries for the model card), predictions-<input>.csv in AVA's format, detections.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vididi_hf.command_line import errors_in_one_line, option, parse_arguments
from vididi_hf.data.registry import ALL_ROWS
from vididi_hf.detection.recipe import BoxOptions
from vididi_hf.detection.results import build_evaluator, write_results
from vididi_hf.detection_vididi import ViDiDiForActionDetection
from vididi_hf.evaluation.arguments import EncoderArguments
from vididi_hf.evaluation.commands import format_table, print_failed
from vididi_hf.evaluation.inputs import CLASSIFIER_INPUTS
from vididi_hf.evaluation.results import dataset_name


@dataclass(kw_only=True)
class DetectionArguments(BoxOptions, EncoderArguments):
    """The command line."""

    dataset: str = option(help="jhmdb, ucf101-24, ava, or any data set with their columns of boxes.")
    dataset_root: str | None = option(default=None, help="Where a built-in set lies: docs/datasets.md.")
    split: str = option(default="test", help=f"The split that is tested; {ALL_ROWS!r} takes all rows.")
    inputs: list[str] | None = option(
        default=None,
        help=f"What the model is shown: some of {', '.join(CLASSIFIER_INPUTS)}; by default what it was trained with.",
    )
    batch_size: int = option(default=16, help="Key frames per forward pass.")
    output: str = option(default="detection", help="The folder of metrics.json, predictions and picture.")
    progress: bool = option(default=True, help="Show progress bars.")
    num_clips: int = field(default=1, init=False)  # one, around the key frame

    def __post_init__(self) -> None:
        BoxOptions.__post_init__(self)
        EncoderArguments.__post_init__(self)


def main(command_line: Sequence[str] | None = None) -> None:
    """Evaluates, writes the files and prints the table."""
    arguments = parse_arguments(DetectionArguments, command_line, __doc__)
    with errors_in_one_line("evaluate_detection.py"):
        model, processor = arguments.load(ViDiDiForActionDetection)
        evaluator = build_evaluator(
            arguments,
            arguments.load_test_rows(arguments.dataset, arguments.dataset_root, arguments.split),
            processor,
            Path(arguments.output),
            inputs=arguments.inputs,
            batch_size=arguments.batch_size,
            num_workers=arguments.num_workers,
            progress=arguments.progress,
            dataset=dataset_name(arguments.dataset),
            split=arguments.split,
        )
        result = evaluator(model)
        facts = {"random_init": arguments.random_init, "seed": arguments.seed, "source": arguments.dataset}
        write_results(Path(arguments.output), evaluator, result, arguments.model, facts)
    print(f"{result.protocol['key_frames']} key frames, {result.protocol['boxes']} boxes")
    print(format_table(result.metrics))
    print_failed(result)


if __name__ == "__main__":
    main()
