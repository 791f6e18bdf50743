"""Torchvision's networks come in and go out, with every tensor accounted for and the same outputs."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import get_model

from vididi_hf.batch_norm_vididi import PerOrderBatchNorm3d
from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.cli import run_command
from vididi_hf.configuration_vididi import BACKBONE_NAMES, ViDiDiConfig
from vididi_hf.hub.conversion import (
    backbone_of,
    compare,
    from_tensors,
    read_tensors,
    to_torchvision,
    torchvision_network,
)
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

CLIPS = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def randomize(model: nn.Module, seed: int = 11) -> nn.Module:
    """Gives every BatchNorm statistics and weights of its own, in every channel and row."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.rand(module.running_mean.shape, generator=generator) - 0.7)
            module.num_batches_tracked.fill_(3)
            for tensor in (module.running_var, module.weight.data, module.bias.data):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.3)
    return model.eval()


def reference(name: str = "mc3_18", seed: int = 0) -> nn.Module:
    """A network of torchvision with five classes, ready for clips of any size."""
    torch.manual_seed(seed)
    with torch.device("meta"):  # its own initialization would take seconds
        network = get_model(name, weights=None, num_classes=5)
    network.to_empty(device="cpu")
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1)
    if name == "s3d":
        network.avgpool = nn.AdaptiveAvgPool3d(1)
    return randomize(network, seed)


@pytest.fixture(scope="module")
def mc3() -> nn.Module:
    return reference()


def prefixed(prefix: str, network: nn.Module) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in network.state_dict().items()}


@torch.no_grad()
def assert_same_outputs(found: torch.Tensor, network: nn.Module) -> None:
    expected = network(CLIPS.transpose(1, 2))
    assert expected.std(dim=1).min() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BACKBONE_NAMES)
def test_torchvision_there_and_back(name: str) -> None:
    network, head = reference(name), "classifier" if name == "s3d" else "fc"
    tensors = network.state_dict()
    assert backbone_of(tensors, "") == name
    with torch.no_grad():
        clips = CLIPS.transpose(1, 2)
        assert torch.equal(torchvision_network(name, tensors, True)(clips), network(clips))

    model, report = from_tensors(tensors, num_frames=16)
    assert (model.config.backbone, model.config.num_frames, model.config.batch_norm) == (name, 16, "shared")
    assert {*report.used, *report.dropped} == set(tensors)
    assert set(report.dropped.values()) == {"classifier"}
    assert set(report.used.values()) == set(model.state_dict())
    assert not report.added
    setattr(network, head, nn.Identity())
    with torch.no_grad():
        assert_same_outputs(model(CLIPS).pooler_output, network)

    back, back_report = to_torchvision(model)
    assert set(back_report.used) == set(model.state_dict())
    assert set(back) == {key for key in tensors if not key.startswith(head)}
    assert all(torch.equal(back[key], tensors[key]) for key in back)


@pytest.mark.parametrize("name", ["s3d", "mc3_18"])
def test_classifier_there_and_back(name: str) -> None:
    network = reference(name)
    model, report = from_tensors(network.state_dict(), with_classifier=True)
    assert isinstance(model, ViDiDiForVideoClassification)
    assert not report.dropped
    with torch.no_grad():
        assert_same_outputs(model(CLIPS).logits, network)
    back, _ = to_torchvision(model)
    network.load_state_dict(back)  # strictly: names and shapes are torchvision's


@pytest.mark.parametrize("wrapper", ["", "module.", "module.encoder.net."])
def test_prefixes_heads_and_old_files(mc3: nn.Module, wrapper: str) -> None:
    tensors = {name: tensor for name, tensor in prefixed(wrapper, mc3).items() if not name.endswith("tracked")}
    tensors |= {f"module.projector.net.{i}.weight": torch.ones(2, 2) for i in (0, 3)}
    tensors["module.predictor.0.bias"] = torch.ones(2)
    model, report = from_tensors(tensors)
    assert torch.equal(model.backbone.stem[0].weight, mc3.stem[0].weight)
    assert {*report.used, *report.dropped} == set(tensors)
    assert list(report.dropped.values()).count("head of the objective") == 3
    assert model.backbone.stem[1].num_batches_tracked == 0  # counters of old files start at zero
    assert "backbone.stem.1.num_batches_tracked" in report.added


def test_byol_of_the_authors_holds_the_network_three_times(mc3: nn.Module) -> None:
    tensors = prefixed("module.net.", mc3) | prefixed("module.online_encoder.net.", mc3)
    tensors |= prefixed("module.target_encoder.net.", reference(seed=1))
    tensors["module.target_encoder.projector.net.0.weight"] = torch.ones(2, 2)
    model, report = from_tensors(tensors)
    assert torch.equal(model.backbone.stem[0].weight, mc3.stem[0].weight)
    assert {*report.used, *report.dropped} == set(tensors)
    assert all(name.startswith("module.online_encoder.net.") for name in report.used)
    assert "EMA" in report.dropped["module.target_encoder.net.stem.0.weight"]
    assert "the same network" in report.dropped["module.net.stem.0.weight"]


def test_several_networks_need_a_prefix(mc3: nn.Module) -> None:
    other = reference(seed=1)
    tensors = prefixed("encoder.", mc3) | prefixed("encoder2.", other)
    with pytest.raises(ValueError, match=r"'encoder\.', 'encoder2\.'"):
        from_tensors(tensors)
    model, report = from_tensors(tensors, prefix="encoder2.")
    assert torch.equal(model.backbone.stem[0].weight, other.stem[0].weight)
    assert {*report.used, *report.dropped} == set(tensors)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_one_order_of_several_goes_out(order: int) -> None:
    model = randomize(ViDiDiModel(ViDiDiConfig(backbone="mc3_18", batch_norm="per_order")))
    for wrong in (None, 3):
        with pytest.raises(ValueError, match=rf"choose one of \(0, 1, 2\), got {wrong}"):
            to_torchvision(model, order=wrong)
    state, report = to_torchvision(model, order=order)
    network = get_model("mc3_18", weights=None)
    network.fc = nn.Identity()
    network.load_state_dict(state)
    with torch.no_grad():
        assert_same_outputs(model(CLIPS, derivative_order=order).pooler_output, network.eval())
    norms = sum(isinstance(module, PerOrderBatchNorm3d) for module in model.modules())
    assert len(report.dropped) == 2 * 2 * norms  # mean and variance of the two other orders
    assert {name.partition("[")[0] for name in (*report.used, *report.dropped)} == set(model.state_dict())


@pytest.mark.parametrize(
    ("kind", "config", "order", "message"),
    [
        (ViDiDiModel, {"hidden_sizes": (4, 4, 8, 8), "depths": (1, 1, 1, 1)}, None, "torchvision's r3d_18: size mis"),
        (
            ViDiDiForVideoClassification,
            {"backbone": "mc3_18", "classifier_orders": (0, 1)},
            None,
            "the derivative orders",
        ),
        (ViDiDiModel, {"backbone": "mc3_18", "derivative_scale": "unit"}, 1, "derivative_scale 'unit': convert order"),
        (ViDiDiForVideoClassification, {"derivative_scale": "unit", "classifier_orders": (2,)}, None, "convert order"),
        (
            ViDiDiForVideoClassification,
            {"backbone": "mc3_18", "classifier_orders": (0,)},
            1,
            "the derivative orders",
        ),
    ],
)
def test_networks_that_torchvision_lacks_do_not_go_out(kind, config, order, message) -> None:
    with pytest.raises(ValueError, match=message):
        to_torchvision(kind(ViDiDiConfig(batch_norm="shared", **config)), order)


def test_compare_notices_another_network(mc3: nn.Module) -> None:
    model, _ = from_tensors(mc3.state_dict())
    model.backbone.layer4[1].conv2[1].eps = 1.0
    with pytest.raises(ValueError, match="computes other outputs"):
        compare(torchvision_network("mc3_18", mc3.state_dict(), False), model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("layer3.0.conv1.0.weight"), r"layer3\.0\.conv1\.0\.weight of mc3_18 is missing"),
        (lambda tensors: tensors.pop("layer2.0.conv1.0.weight"), r"below the prefix '': layer2\.0\.conv1 is missing"),
        (lambda tensors: tensors.pop("stem.0.weight"), "no video network of torchvision found"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "the tensor extra is not part of a known network"),
        (lambda tensors: tensors.update({"stem.1.bias": torch.zeros(3)}), r"mc3_18: size mismatch for stem\.1\.bias"),
        (lambda tensors: tensors["stem.0.weight"].fill_(float("nan")), "computes other outputs"),
        (lambda tensors: tensors.pop("fc.weight"), "has no classifier"),
    ],
)
def test_every_tensor_is_accounted_for(mc3: nn.Module, change, message: str) -> None:
    tensors = {name: tensor.clone() for name, tensor in mc3.state_dict().items()}
    change(tensors)
    with pytest.raises(ValueError, match=message):
        from_tensors(tensors, with_classifier="classifier" in message)


def _exclude(tensor: torch.Tensor) -> bool:
    return tensor.ndim == 1


def test_training_file_of_the_authors_is_read_without_running_code(mc3, tmp_path, monkeypatch) -> None:
    """Their optimizer keeps a function of the training script in its groups."""
    monkeypatch.chdir(tmp_path)
    _exclude.__module__, _exclude.__qualname__ = "__main__", "exclude_bias_and_norm"
    monkeypatch.setattr(sys.modules["__main__"], "exclude_bias_and_norm", _exclude, raising=False)
    optimizer = {"state": {0: {"mu": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "weight_decay_filter": _exclude}]}
    torch.save({"model": prefixed("module.encoder.net.", mc3), "optimizer": optimizer}, "net3d_epoch400.pth.tar")
    run_command("convert", ["net3d_epoch400.pth.tar", "converted", "--num_frames", "4", "--image_size", "56"])
    assert json.loads(Path("converted/conversion.json").read_text())["dropped"]["optimizer"] == "training state"
    assert torch.equal(ViDiDiModel.from_pretrained("converted").backbone.stem[0].weight, mc3.stem[0].weight)
    processor = ViDiDiVideoProcessor.from_pretrained("converted")
    assert processor(torch.zeros(9, 3, 70, 80, dtype=torch.uint8))["pixel_values"].shape == (1, 4, 3, 56, 56)


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
    Path("hello.pth").write_text("hello\n")  # a KeyError of torch
    Path("text.safetensors").write_text("no checkpoint")
    for name in ("bad.pth", "list.pth", "text.pth", "hello.pth", "text.safetensors"):
        with pytest.raises(ValueError, match=name):
            read_tensors(name)
    assert not Path("touched").exists()


def test_command_there_and_back(mc3, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = mc3.state_dict()
    torch.save(tensors, "mc3.pth")
    run_command("convert", ["mc3.pth", "model"])
    assert "2 dropped, such as fc.weight: classifier" in capsys.readouterr().out
    for name, read in (("back.safetensors", load_file), ("back.pth", torch.load)):
        run_command("convert", ["model", name, "--to", "torchvision"])
        assert all(torch.equal(tensor, tensors[key]) for key, tensor in read(name).items())
    for arguments, message in (
        (["absent.pth", "other"], "absent.pth does not exist"),
        (["mc3.pth", "model"], "model is not an empty folder: choose a new one"),
        (["model", "model", "--to", "torchvision"], "model is a folder: choose the name of a file"),
        (["mc3.pth", "other", "--order", "1"], "order is an option of --to torchvision"),
        (["model", "other.pth", "--to", "torchvision", "--image_size", "64"], "image_size is an option of --to vididi"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run_command("convert", arguments)
        assert capsys.readouterr().err == f"vididi convert: error: {message}\n"
