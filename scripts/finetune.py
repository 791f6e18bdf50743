#!/usr/bin/env python
"""Fine-tunes a pretrained encoder to recognise actions, and tests it.

python scripts/finetune.py --model runs/mine --dataset path/to/clips.csv --output_dir runs/classifier
python scripts/finetune.py --model owner/name --dataset clips.csv --preset paper --inputs frames derivative
accelerate launch scripts/finetune.py --model runs/mine --dataset clips.csv --resume

Writes the classifier, metrics.json (the test, with the entries for the model card) and metrics.jsonl (the training).
"""

from __future__ import annotations

from collections.abc import Sequence

from accelerate import PartialState
from torch.distributed.elastic.multiprocessing.errors import record

from vididi_hf.command_line import errors_in_one_line, parse_arguments
from vididi_hf.evaluation.commands import format_table, print_failed
from vididi_hf.finetuning.recipe import FinetuningRecipe
from vididi_hf.finetuning.recognition import finetune
from vididi_hf.pretraining.launch import start_missing_processes


@record  # where several processes run, their launcher's last words are then the error of the one that failed first
def train(recipe: FinetuningRecipe) -> None:
    """Trains, tests, and prints the table."""
    result = finetune(recipe)
    if PartialState().is_main_process:
        print(f"{result.protocol['videos']} test videos, {result.protocol['classes']} classes")
        print(format_table(result.metrics))
        print_failed(result)


def main(command_line: Sequence[str] | None = None) -> None:
    """Reads the command line and trains."""
    recipe = parse_arguments(FinetuningRecipe, command_line, __doc__)
    start_missing_processes()
    with errors_in_one_line("finetune.py"):
        train(recipe)


if __name__ == "__main__":
    main()
