#!/usr/bin/env python
"""Pretrains a ViDiDi encoder on unlabelled videos.

python scripts/pretrain.py --dataset path/to/videos --output_dir runs/mine
accelerate launch scripts/pretrain.py --dataset path/to/videos --output_dir runs/mine --resume
"""

from vididi_hf.pretraining.loop import pretrain
from vididi_hf.pretraining.recipe import parse_recipe

if __name__ == "__main__":
    pretrain(parse_recipe(description=__doc__))
