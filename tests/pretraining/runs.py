"""Whole runs on a dozen tiny videos: what several test files share."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torchcodec.encoders import VideoEncoder

from vididi_hf.pretraining.checkpoints import list_checkpoints
from vididi_hf.pretraining.logging import RunLog
from vididi_hf.pretraining.loop import pretrain
from vididi_hf.pretraining.recipe import PretrainingRecipe

VIDEOS, BATCH, EPOCHS = 12, 4, 2
STEPS = VIDEOS // BATCH
TOTAL = EPOCHS * STEPS
OPTIMIZERS = {"vicreg": ("lars", 4.0), "byol": ("adamw", 0.1), "simclr": ("sgd", 1.0)}


class Interrupted(Exception):
    """Stands for whatever ends a run before its time."""


def write_videos(folder: Path) -> Path:
    """Twelve videos to train on and four to ask with, of two classes, 12 frames of 48 × 48 pixels."""
    for index in range(VIDEOS + 4):
        path = folder / ("train" if index < VIDEOS else "test") / "ab"[index % 2] / f"{index:02}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(index)
        blocks = torch.randint(256, (12, 3, 6, 6), dtype=torch.uint8, generator=generator)
        frames = blocks.repeat_interleave(8, -1).repeat_interleave(8, -2)
        VideoEncoder(frames, frame_rate=12).to_file(path, extra_options={"threads": "1"})
    return folder


def make_recipe(videos: Path, output_dir: Path, objective: str = "vicreg", **options: Any) -> PretrainingRecipe:
    optimizer, learning_rate = OPTIMIZERS[objective]
    defaults = {"hidden_sizes": [4, 4, 8, 8], "depths": [1, 1, 1, 1], "projector_sizes": [8, 8], "objective": objective}
    defaults |= {"num_frames": 4, "frame_stride": 1, "image_size": 32, "num_workers": 0, "progress": False}
    defaults |= {"epochs": EPOCHS, "batch_size": BATCH, "warmup_epochs": 0}
    defaults |= {"optimizer": optimizer, "learning_rate": learning_rate}
    return PretrainingRecipe(**{**defaults, "dataset": str(videos), "output_dir": str(output_dir), **options})


def final_state(folder: Path) -> dict[str, Any]:
    """Everything that a finished run has learnt: encoder, heads, target, optimizer."""
    newest = list_checkpoints(folder)[-1]
    state = newest / "training_state"
    progress = json.loads((state / "progress.json").read_text())
    return {
        "published": load_file(folder / "model.safetensors"),
        "encoder": load_file(newest / "model.safetensors"),
        "objective": load_file(state / "objective.safetensors"),
        "optimizer": torch.load(state / "optimizer.pt", weights_only=True),
        "progress": [progress["epoch"], progress["step"], progress["total_steps"]],
    }


def assert_same(left: Any, right: Any) -> None:
    """Bit by bit."""
    torch.testing.assert_close(left, right, rtol=0, atol=0)


def stop_after(step: int, patch: pytest.MonkeyPatch, what: str = "step") -> None:
    """Interrupts a run when it has reported so many steps, or the epoch that ends with them."""
    report = getattr(RunLog, what)

    def report_and_stop(self: RunLog, *args: Any) -> None:
        report(self, *args)
        if self.progress.total_steps == step:
            raise Interrupted

    patch.setattr(RunLog, what, report_and_stop)


def interrupt(recipe: PretrainingRecipe, step: int, what: str = "step") -> None:
    """Runs a recipe until `stop_after` stops it."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(step, patch, what)
        with pytest.raises(Interrupted):
            pretrain(recipe)


def without_speed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "videos_per_second"} for row in rows]
