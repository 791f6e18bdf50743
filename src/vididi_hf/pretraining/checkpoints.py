"""Checkpoints: written whole or not at all, loaded without unpickling anything.

A checkpoint is a folder that `ViDiDiModel.from_pretrained` and `AutoVideoProcessor.from_pretrained` load, with `recipe.json`
beside the weights and, in `training_state/`, what only a resumed run needs: the objective's heads (and BYOL's target), the
optimiser and the place in the run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

CHECKPOINTS = "checkpoints"
_STATE = "training_state"
_ENCODER_PREFIX = "vididi."


@dataclass
class Progress:
    """The place in a run: the next thing to do is step `step` of epoch `epoch`.

    Attributes:
        epoch: Epochs that are finished.
        step: Steps of the current epoch that are finished.
        total_steps: Optimiser steps since the beginning of the run.
        broken: Videos that could not be decoded so far, with the reasons.
    """

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    broken: dict[str, str] | None = None


def save_encoder(
    folder: Path, model: ViDiDiForPreTraining, processor: ViDiDiVideoProcessor, recipe: PretrainingRecipe
) -> None:
    """Writes what users load: encoder weights, configuration, processor, and the recipe that made them."""
    model.vididi.save_pretrained(folder)
    processor.save_pretrained(folder)
    recipe.save(folder)


def save_checkpoint(
    output_dir: str | Path,
    model: ViDiDiForPreTraining,
    processor: ViDiDiVideoProcessor,
    recipe: PretrainingRecipe,
    progress: Progress,
    training: dict[str, Any],
) -> Path:
    """Writes a checkpoint and removes all but the newest `recipe.keep_checkpoints`.

    Everything goes to a hidden folder first, is flushed to the disk and then renamed: whoever sees the folder sees all of
    it, and a full disk or a kill leaves the earlier checkpoints as they were.

    Args:
        output_dir: The run's folder.
        model: The model, unwrapped.
        processor: Its processor.
        recipe: What the run was started with.
        progress: The place in the run.
        training: State of the optimiser and its like: nested dictionaries and lists of tensors and numbers.

    Returns:
        The checkpoint's folder, `output_dir/checkpoints/step-<total steps>`.

    Raises:
        OSError: If it cannot be written; nothing half-written stays behind.
    """
    parent = Path(output_dir) / CHECKPOINTS
    final = parent / f"step-{progress.total_steps:08d}"
    unfinished = parent / f".{final.name}.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        (unfinished / _STATE).mkdir(parents=True)
        save_encoder(unfinished, model, processor, recipe)
        rest = {
            name: tensor.contiguous()
            for name, tensor in model.state_dict().items()
            if not name.startswith(_ENCODER_PREFIX)
        }
        save_file(rest, unfinished / _STATE / "objective.safetensors")
        torch.save(training, unfinished / _STATE / "optimizer.pt")
        (unfinished / _STATE / "progress.json").write_text(json.dumps(asdict(progress), indent=2))
        _flush(unfinished)
        # Saving one step twice (a run resumed where it ended) replaces the same contents.
        shutil.rmtree(final, ignore_errors=True)
        os.replace(unfinished, final)
        _flush_folder(parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for old in list_checkpoints(output_dir)[: -recipe.keep_checkpoints]:
        shutil.rmtree(old)
    return final


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Returns the finished checkpoints of a run, oldest first."""
    folder = Path(output_dir) / CHECKPOINTS
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d{8,}", path.name))


def load_checkpoint(folder: str | Path, model: nn.Module) -> tuple[Progress, dict[str, Any]]:
    """Loads the weights of a checkpoint into a model and returns the rest.

    Args:
        folder: A folder that `save_checkpoint` wrote.
        model: The unwrapped `ViDiDiForPreTraining` of the same recipe.

    Returns:
        The place in the run, and the `training` state that was saved.

    Raises:
        ValueError: If the folder is no complete checkpoint, or belongs to another network.
    """
    folder = Path(folder)
    files = [
        folder / "model.safetensors",
        *(folder / _STATE / name for name in ("objective.safetensors", "optimizer.pt")),
    ]
    for file in [*files, folder / _STATE / "progress.json"]:
        if not file.is_file():
            raise ValueError(f"{folder} is no checkpoint of a run: {file.relative_to(folder)} is missing")
    encoder = {_ENCODER_PREFIX + name: tensor for name, tensor in load_file(files[0]).items()}
    try:
        model.load_state_dict(encoder | load_file(files[1]))
    except RuntimeError as error:
        raise ValueError(f"{folder} holds the weights of another network than this recipe's: {error}") from None
    training = torch.load(files[2], map_location="cpu", weights_only=True)
    return Progress(**json.loads((folder / _STATE / "progress.json").read_text())), training


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _flush_folder(path)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
