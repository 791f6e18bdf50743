"""What a fine-tuning run needs to go on from the last finished epoch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer

from vididi_hf.classification_vididi import ViDiDiClassifier
from vididi_hf.files import atomic_write
from vididi_hf.finetuning.recipe import FinetuningRecipe

STATE_FILE = "training_state.pt"


def save_state(
    folder: Path,
    recipe: FinetuningRecipe,
    accelerator: Accelerator,
    model: ViDiDiClassifier,
    optimizer: AcceleratedOptimizer,
    epoch: int,
) -> None:
    """Writes all that a resumed run needs, whole or not at all, from the main process while the others wait.

    Args:
        folder: The run's.
        recipe: Its choices.
        accelerator: Knows the processes and the scaler of the loss.
        model: The model, unwrapped.
        optimizer: Its optimizer.
        epoch: The epochs that are done.
    """
    if accelerator.is_main_process:
        state = {"recipe": asdict(recipe), "epoch": epoch, "model": model.state_dict()}
        state["optimizer"] = optimizer.state_dict()
        if accelerator.scaler is not None:
            state["scaler"] = accelerator.scaler.state_dict()
        with atomic_write(folder / STATE_FILE) as unfinished:
            torch.save(state, unfinished)
    accelerator.wait_for_everyone()


def load_state(
    folder: Path,
    recipe: FinetuningRecipe,
    accelerator: Accelerator,
    model: ViDiDiClassifier,
    optimizer: AcceleratedOptimizer,
) -> int:
    """Restores what `save_state` wrote, if there is something.

    Returns:
        The epochs that are done.

    Raises:
        ValueError: If the state belongs to another run or cannot be read.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read; remove it to start again: {error}") from error
    recipe.check_continues(state["recipe"])
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if accelerator.scaler is not None and "scaler" in state:
        accelerator.scaler.load_state_dict(state["scaler"])
    accelerator.print(f"resumed from {path}: {state['epoch']} epochs are done")
    return state["epoch"]
