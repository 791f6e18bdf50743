#!/usr/bin/env python
"""Pretrains a ViDiDi encoder on unlabelled videos.

python scripts/pretrain.py --dataset path/to/videos --output_dir runs/mine
accelerate launch scripts/pretrain.py --dataset path/to/videos --output_dir runs/mine --resume
"""

from torch.distributed.elastic.multiprocessing.errors import record

from vididi_hf.command_line import errors_in_one_line
from vididi_hf.pretraining.launch import start_missing_processes
from vididi_hf.pretraining.loop import pretrain
from vididi_hf.pretraining.recipe import PretrainingRecipe, parse_recipe


@record  # where several processes run, their launcher's last words are then the error of the one that failed first
def train(recipe: PretrainingRecipe) -> None:
    """Trains."""
    pretrain(recipe)


def main() -> None:
    """Reads the command line and trains."""
    recipe = parse_recipe(description=__doc__)
    start_missing_processes()
    with errors_in_one_line("pretrain.py"):
        train(recipe)


if __name__ == "__main__":
    main()
