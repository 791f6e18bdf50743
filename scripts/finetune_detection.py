#!/usr/bin/env python
"""Trains a detector of actions on a pretrained encoder, and tests it.

python scripts/finetune_detection.py --model runs/mine --dataset jhmdb --dataset_root /data/jhmdb --output_dir runs/two
python scripts/finetune_detection.py --model runs/mine --dataset jhmdb --boxes jittered --jitter 0.1
python scripts/finetune_detection.py --model owner/name --dataset ava --boxes file --detections ava_val_persons.csv
accelerate launch scripts/finetune_detection.py --model runs/mine --dataset ucf101-24 --resume

Writes the detector, metrics.json (the test, with the entries for the model card), predictions-<input>.csv in AVA's
format, detections.png (a picture of some) and metrics.jsonl (the training).
"""

from __future__ import annotations

from collections.abc import Sequence

from accelerate import PartialState
from torch.distributed.elastic.multiprocessing.errors import record

from vididi_hf.command_line import errors_in_one_line, parse_arguments
from vididi_hf.detection.recipe import DetectionRecipe
from vididi_hf.detection.training import finetune_detection
from vididi_hf.evaluation.commands import format_table, print_failed
from vididi_hf.pretraining.launch import start_missing_processes


@record  # where several processes run, their launcher's last words are then the error of the one that failed first
def train(recipe: DetectionRecipe) -> None:
    """Trains, tests, and prints the table."""
    result = finetune_detection(recipe)
    if PartialState().is_main_process:
        print(f"{result.protocol['key_frames']} key frames, {result.protocol['boxes']} boxes")
        print(format_table(result.metrics))
        print_failed(result)


def main(command_line: Sequence[str] | None = None) -> None:
    """Reads the command line and trains."""
    recipe = parse_arguments(DetectionRecipe, command_line, __doc__)
    start_missing_processes()
    with errors_in_one_line("finetune_detection.py"):
        train(recipe)


if __name__ == "__main__":
    main()
