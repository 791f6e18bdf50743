"""Whole files: those of the authors' training, files that are no state dicts, and the command."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vididi_hf.cli import run_command
from vididi_hf.hub.conversion import convert_file
from vididi_hf.hub.conversion import read_tensors
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


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

    assert report.dropped["optimizer"] == "training state"
    loaded = ViDiDiModel.from_pretrained(tmp_path / "converted")
    assert torch.equal(loaded.backbone.stem[0].weight, mc3.stem[0].weight)
    processor = ViDiDiVideoProcessor.from_pretrained(tmp_path / "converted")
    assert processor(torch.zeros(9, 3, 70, 80, dtype=torch.uint8))["pixel_values"].shape == (1, 4, 3, 56, 56)
    with pytest.raises(ValueError, match="is not an empty folder"):
        convert_file(tmp_path / "net3d_epoch400.pth.tar", tmp_path / "converted")


@pytest.mark.parametrize("container", ["", "model", "state_dict", "model_state_dict"])
def test_tensors_are_taken_out_of_their_container(container: str, tmp_path: Path) -> None:
    tensors = {"x": torch.arange(3)}
    torch.save({container: tensors, "epoch": 3} if container else tensors, tmp_path / "a.pth.tar")
    found, left_out = read_tensors(tmp_path / "a.pth.tar")
    assert torch.equal(found["x"], tensors["x"])
    assert left_out == ({"epoch": "training state"} if container else {})


class _Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def test_files_that_are_no_state_dict_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"stem.0.weight": _Malicious()}}, "bad.pth")
    torch.save([1, 2], "list.pth")
    Path("text.pth").write_text("no checkpoint")
    Path("text.safetensors").write_text("no checkpoint")
    for name in ("bad.pth", "list.pth", "text.pth", "text.safetensors"):
        with pytest.raises(ValueError, match=name):
            read_tensors(name)
    assert not Path("touched").exists()
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        read_tensors("absent.pth")


@pytest.mark.parametrize("name", ["back.safetensors", "back.pth"])
def test_command_there_and_back(
    name: str, mc3: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = mc3.state_dict()
    torch.save(tensors, "mc3.pth")

    run_command("convert", ["mc3.pth", "model"])
    assert "2 dropped, such as fc.weight: classifier" in capsys.readouterr().out
    run_command("convert", ["model", name, "--to", "torchvision"])
    with pytest.raises(SystemExit, match="2"):
        run_command("convert", ["absent.pth", "other"])

    assert capsys.readouterr().err == "vididi convert: error: absent.pth does not exist, or is not a file\n"
    report = json.loads(Path("model/conversion.json").read_text())
    assert {*report["used"], *report["dropped"]} == set(tensors)
    back = load_file(name) if name.endswith("safetensors") else torch.load(name, weights_only=True)
    assert all(torch.equal(back[key], tensors[key]) for key in back)
