from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vididi_hf.hub.tensor_files import read_tensors, write_tensors


@pytest.mark.parametrize("container", ["", "model", "state_dict", "model_state_dict"])
def test_tensors_are_taken_out_of_their_container(container: str, tmp_path: Path) -> None:
    tensors = {"x": torch.arange(3)}
    content = {container: tensors, "epoch": 3} if container else tensors
    write_tensors(tmp_path / "a.pth.tar", content)
    found, left_out = read_tensors(tmp_path / "a.pth.tar")
    assert torch.equal(found["x"], tensors["x"])
    assert left_out == ({"epoch": "state of the training"} if container else {})


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


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", {"x": torch.arange(3)})
    write_tensors(tmp_path / "a.pth", {"model": {"x": torch.arange(3)}})
    assert torch.equal(load_file(tmp_path / "a.safetensors")["x"], torch.arange(3))
    assert torch.equal(torch.load(tmp_path / "a.pth", weights_only=True)["model"]["x"], torch.arange(3))
    with pytest.raises(ValueError, match=r"\.pth\.tar"):
        write_tensors(tmp_path / "b.safetensors", {"model": {"x": torch.arange(3)}})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "a.safetensors"]
