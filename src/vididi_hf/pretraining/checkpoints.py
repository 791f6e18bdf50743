"""Checkpoints: written atomically, verified when loaded, and never unpickled.

A checkpoint is a folder that `from_pretrained` loads, with `recipe.json` and all else of the run in `training_state/`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers.utils import CONFIG_NAME, logging

from vididi_hf.data.inventory import VideoList
from vididi_hf.files import atomic_files, atomic_write, remove_folder, remove_unfinished
from vididi_hf.pretraining.adaptation import is_adapted, merged_state
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.pretraining.recipe import RECIPE_FILE, PretrainingRecipe
from vididi_hf.reading import check_file, read_json, reading
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

CHECKPOINTS = "checkpoints"
_STATE = "training_state"
_FILES = f"{_STATE}/files.json"
_ENCODER = "model.safetensors"
_OBJECTIVE = f"{_STATE}/objective.safetensors"
_TRAINING = f"{_STATE}/optimizer.pt"
_PROGRESS = f"{_STATE}/progress.json"
VIDEOS = f"{_STATE}/videos.json.gz"
_ENCODER_PREFIX = "vididi."


class DamagedCheckpointError(ValueError):
    """A file of a checkpoint is missing, or differs from what was written."""


@dataclass
class Progress:
    """The place in a run: the next thing to do is step `step` of epoch `epoch`."""

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    steps_per_epoch: int = 0
    num_processes: int = 0  # unknown
    broken: dict[str, str] = field(default_factory=dict)  # videos that could not be decoded, with the reasons
    best_score: float | None = None  # of the evaluations so far
    best_step: int | None = None  # its checkpoint is kept

    def __post_init__(self) -> None:
        for name in ("epoch", "step", "total_steps", "steps_per_epoch", "num_processes"):
            if type(number := getattr(self, name)) is not int or not 0 <= number < 2**53:
                raise ValueError(f"{name} must be a whole number, got {number!r}")
        if self.step > self.steps_per_epoch:
            raise ValueError(f"step {self.step} is beyond the {self.steps_per_epoch} steps of an epoch")
        if not isinstance(self.broken, dict) or not all(isinstance(reason, str) for reason in self.broken.values()):
            raise ValueError("broken must map videos to reasons")
        if not isinstance(self.best_score, int | float | None) or not isinstance(self.best_step, int | None):
            raise ValueError(f"best_score and best_step must be numbers, got {self.best_score!r}, {self.best_step!r}")

    def note_score(self, score: float) -> bool:
        """Records an evaluation, and returns whether it is the best one so far."""
        if self.best_score is not None and score <= self.best_score:
            return False
        self.best_score, self.best_step = score, self.total_steps
        return True


def save_encoder(
    folder: Path, model: ViDiDiForPreTraining, processor: ViDiDiVideoProcessor, recipe: PretrainingRecipe
) -> None:
    """Writes what users load: encoder, configuration, processor and recipe."""
    has_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # it would break up the bar of the run
    try:
        with atomic_files(folder, last=CONFIG_NAME) as unfinished:
            model.vididi.save_pretrained(unfinished, state_dict=merged_state(model.vididi))
            processor.save_pretrained(unfinished)
            (unfinished / RECIPE_FILE).write_text(recipe.to_json(), encoding="utf-8")
    finally:
        if has_bar:
            logging.enable_progress_bar()


@contextmanager
def named_disk_errors(what: str) -> Iterator[None]:
    """Turns the errors of a full disk, of which safetensors and torch have their own, into an OSError of one line."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        advice = "free some space and continue with --resume; earlier checkpoints are intact"
        raise OSError(f"{what} ({error}): {advice}") from error


def save_checkpoint(
    output_dir: str | Path,
    model: ViDiDiForPreTraining,
    processor: ViDiDiVideoProcessor,
    recipe: PretrainingRecipe,
    progress: Progress,
    training: dict[str, Any],
    videos: VideoList | None = None,
) -> Path:
    """Writes `output_dir/checkpoints/step-N`, and removes all but the newest `recipe.keep_checkpoints` and the best.

    `training` is the state of the optimizer, the log and the loss scaler. A full disk (an OSError) or a kill leaves the
    earlier checkpoints as they were.
    """
    parent = Path(output_dir) / CHECKPOINTS
    final = parent / f"step-{progress.total_steps:08d}"
    remove_unfinished(parent)
    with named_disk_errors(f"cannot write checkpoint {final}"), atomic_write(final) as unfinished:
        (unfinished / _STATE).mkdir(parents=True)
        save_encoder(unfinished, model, processor, recipe)
        rest = {
            name: tensor.contiguous()
            for name, tensor in model.state_dict().items()
            if not name.startswith(_ENCODER_PREFIX) or is_adapted(name)
        }
        save_file(rest, unfinished / _OBJECTIVE)
        torch.save(training, unfinished / _TRAINING)
        (unfinished / _PROGRESS).write_text(json.dumps(asdict(progress), indent=2), encoding="utf-8")
        if videos is not None:
            videos.write(unfinished / VIDEOS)
        (unfinished / _FILES).write_text(json.dumps(_fingerprints(unfinished), indent=2), encoding="utf-8")
    for old in list_checkpoints(output_dir)[: -recipe.keep_checkpoints]:
        if old != final and _step_of(old) != progress.best_step:
            remove_folder(old)
    return final


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Returns the finished checkpoints of a run, oldest first."""
    folders = Path(output_dir, CHECKPOINTS).glob("step-*")
    return sorted((path for path in folders if re.fullmatch(r"step-\d+", path.name)), key=_step_of)


def load_checkpoint(
    folder: str | Path, model: ViDiDiForPreTraining, recipe: PretrainingRecipe
) -> tuple[Progress, dict[str, Any]]:
    """Verifies a checkpoint, loads its weights into a model, and returns the progress and the `training` state.

    Raises:
        DamagedCheckpointError: If a file is missing, changed or unreadable. The model is then unchanged.
        ValueError: If the checkpoint belongs to another run or network.
    """
    folder = Path(folder)
    written = _read(folder, _FILES, _read_fingerprints)
    for name, fingerprint in written.items():
        if _read(folder, name, partial(_fingerprint, expected_size=int(fingerprint[0]))) != fingerprint:
            raise DamagedCheckpointError(f"{folder} is damaged: {name} has changed")
    saved_recipe = _read(folder, RECIPE_FILE, PretrainingRecipe.read_values)
    encoder, rest = (_read(folder, name, load_file) for name in (_ENCODER, _OBJECTIVE))
    training = _read(folder, _TRAINING, _read_training)
    progress = _read(folder, _PROGRESS, lambda path: Progress(**read_json(path)))
    recipe.check_resumes(saved_recipe)
    # Merged weights are for users. Beside adapters, `rest` has what they were merged from.
    adapted = {name.replace(".base_layer.", ".") for name in rest}
    saved = {_ENCODER_PREFIX + name: tensor for name, tensor in encoder.items()}
    try:
        model.load_state_dict({name: tensor for name, tensor in saved.items() if name not in adapted} | rest)
    except RuntimeError as error:
        raise ValueError(f"{folder} has the weights of another network: {error}") from None
    return progress, training


def _read(folder: Path, name: str, read: Callable[[Path], Any]) -> Any:
    try:
        with reading(folder / name):
            return read(check_file(folder / name))
    except FileNotFoundError:
        raise DamagedCheckpointError(f"{folder} is damaged: {name} is missing") from None
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(f"{folder} is damaged: {name} cannot be read: {error}") from error


def _fingerprint(path: Path, expected_size: int | None = None) -> list[int | str]:
    digest, size = hashlib.sha256(), path.stat().st_size
    if expected_size not in (None, size):
        return [size, ""]  # it has changed, so there is no need to read it
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
        return [file.tell(), digest.hexdigest()]


def _fingerprints(folder: Path) -> dict[str, list[int | str]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _fingerprint(path) for path in files}


def _read_fingerprints(path: Path) -> dict[str, list[int | str]]:
    written = read_json(path)
    if not {RECIPE_FILE, _ENCODER, _OBJECTIVE, _TRAINING, _PROGRESS} <= set(written):
        raise ValueError("it does not list all files")
    for name, noted in written.items():
        if PurePath(name).is_absolute() or not (parts := PurePath(name).parts) or ".." in parts:
            raise ValueError(f"it lists {name!r}, which is not in the checkpoint")
        if not isinstance(noted, list) or len(noted) != 2:
            raise ValueError(f"it notes no size and hash of {name}")
    return written


def _read_training(path: Path) -> dict[str, Any]:
    training = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(training, dict) or not isinstance(training.get("optimizer"), dict):
        raise ValueError("it lacks the state of the optimizer")
    return training


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))
