"""The command line of the conversion."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torchvision.models import get_model

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_checkpoint.py"


def test_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = get_model("mc3_18", weights=None).state_dict()
    main = runpy.run_path(str(SCRIPT))["main"]
    torch.save(tensors, "mc3.pth")

    main(["mc3.pth", "model"])
    assert "2 dropped, such as fc.weight: classifier" in capsys.readouterr().out
    main(["model", "back.safetensors", "--to", "torchvision"])
    with pytest.raises(SystemExit, match="2"):
        main(["absent.pth", "other"])

    assert capsys.readouterr().err == "convert_checkpoint.py: error: there is no file absent.pth\n"
    report = json.loads(Path("model/conversion.json").read_text())
    assert {*report["used"], *report["dropped"]} == set(tensors)
    back = load_file("back.safetensors")
    assert all(torch.equal(back[name], tensors[name]) for name in back)
