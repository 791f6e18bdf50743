"""Every command that loads a model says in one line what is wrong with its files."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_encoders import save_encoder
from vididi_hf import ViDiDiForVideoClassification
from vididi_hf.evaluation.loading import load_encoder
from vididi_hf.evaluation.options import EncoderOptions
from vididi_hf.finetuning.models import load_classifier
from vididi_hf.finetuning.recipe import FinetuningRecipe
from vididi_hf.hub.publishing import load_checkpoint_model
from vididi_hf.pretraining.modeling import initial_model
from vididi_hf.pretraining.recipe import PretrainingRecipe


def finetuned(model: str) -> Any:
    return load_classifier(ViDiDiForVideoClassification, FinetuningRecipe(model=model, dataset="d"), ["a", "b"])


LOADERS: dict[str, Callable[[str], Any]] = {
    "evaluate": lambda model: load_encoder(EncoderOptions(model=model)),
    "finetune": finetuned,
    "pretrain": lambda model: initial_model(PretrainingRecipe(encoder=model, projector_sizes=[8]).completed()),
    "publish": load_checkpoint_model,
}


@pytest.mark.parametrize("damage", ["bytes", "fifo", "config"])
@pytest.mark.parametrize("kind", ["ours", "videomae"])
@pytest.mark.parametrize("command", LOADERS)
def test_damaged_files(command: str, kind: str, damage: str, checkpoint: Path, tmp_path: Path) -> None:
    if command == "publish" and kind != "ours":
        pytest.skip("only checkpoints of ours can be published")
    folder = tmp_path / "model"
    if kind == "ours":
        shutil.copytree(checkpoint, folder)
    else:
        save_encoder(folder, kind)
    weights = folder / "model.safetensors"
    if damage == "config":
        (folder / "config.json").write_text("[1, 2]")
    elif damage == "bytes":
        weights.write_bytes(b"damaged")
    else:
        weights.unlink()
        os.mkfifo(weights)
    expected = {"bytes": "model cannot be read", "fifo": "is not a regular file", "config": "must hold a JSON object"}
    with pytest.raises(ValueError, match=expected[damage]) as caught:
        LOADERS[command](str(folder))
    assert "\n" not in str(caught.value)
