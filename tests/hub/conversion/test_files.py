"""Whole checkpoints: files of the authors' training, folders of our runs."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.hub.conversion import convert_file, convert_folder
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

Build = Callable[..., nn.Module]


def _exclude(tensor: torch.Tensor) -> bool:
    return tensor.ndim == 1


def test_training_file_of_the_authors_is_read_without_running_code(
    mc3: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their optimizer keeps a function of the training script in its groups."""
    _exclude.__module__, _exclude.__qualname__ = "__main__", "exclude_bias_and_norm"
    monkeypatch.setattr(sys.modules["__main__"], "exclude_bias_and_norm", _exclude, raising=False)
    model = {f"module.encoder.net.{name}": tensor for name, tensor in mc3.state_dict().items()}
    optimizer = {"state": {0: {"mu": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "weight_decay_filter": _exclude}]}
    torch.save({"model": model, "optimizer": optimizer}, tmp_path / "net3d_epoch400.pth.tar")

    report = convert_file(tmp_path / "net3d_epoch400.pth.tar", tmp_path / "converted", num_frames=4, image_size=56)

    assert report.dropped["optimizer"] == "state of the training"
    loaded = ViDiDiModel.from_pretrained(tmp_path / "converted")
    assert torch.equal(loaded.backbone.stem[0].weight, mc3.stem[0].weight)
    processor = ViDiDiVideoProcessor.from_pretrained(tmp_path / "converted")
    assert processor(torch.zeros(9, 3, 70, 80, dtype=torch.uint8))["pixel_values"].shape == (1, 4, 3, 56, 56)
    with pytest.raises(ValueError, match="is no empty folder"):
        convert_file(tmp_path / "net3d_epoch400.pth.tar", tmp_path / "converted")


def test_heads_come_from_a_checkpoint_of_a_run(tmp_path: Path, randomize: Build) -> None:
    config = ViDiDiConfig(backbone="mc3_18", objective_options={"projector_sizes": (16, 8)})
    model = randomize(ViDiDiForPreTraining(config))
    model.vididi.save_pretrained(tmp_path / "run")
    with pytest.raises(ValueError, match="holds no heads"):
        convert_folder(tmp_path / "run", tmp_path / "out.pth.tar", "authors_training")
    (tmp_path / "run" / "training_state").mkdir()
    heads = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("objective.")}
    save_file(heads, tmp_path / "run" / "training_state" / "objective.safetensors")

    convert_folder(tmp_path / "run", tmp_path / "out.pth.tar", "authors_training")

    written = torch.load(tmp_path / "out.pth.tar", weights_only=True)["model"]
    assert torch.equal(written["module.projector.net.0.weight"], model.objective.projector[0].weight)
    with pytest.raises(ValueError, match="the layout must be vididi, torchvision"):
        convert_folder(tmp_path / "run", tmp_path / "out.pth", "keras")
