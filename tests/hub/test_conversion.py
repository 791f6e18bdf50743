import json
import runpy
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import get_model

from vididi_hf.batch_norm_vididi import PerOrderBatchNorm3d
from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.configuration_vididi import BACKBONE_NAMES, ViDiDiConfig
from vididi_hf.hub.conversion import (
    compare,
    convert_file,
    convert_folder,
    from_tensors,
    to_authors,
    to_authors_training,
    to_torchvision,
)
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_checkpoint.py"
CLIPS = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(7))
HEAD = {"s3d": "classifier", "r3d_18": "fc", "mc3_18": "fc", "r2plus1d_18": "fc"}


def reference(name: str = "mc3_18", classes: int = 5, seed: int = 0) -> nn.Module:
    """A network of torchvision whose BatchNorms have seen something, ready for clips of any size."""
    torch.manual_seed(seed)
    with torch.device("meta"):
        network = get_model(name, weights=None, num_classes=classes)
    network.to_empty(device="cpu")
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1)
    for buffer_name, buffer in network.named_buffers():
        if buffer_name.endswith("num_batches_tracked"):
            buffer.fill_(3)
        elif buffer_name.endswith("running_mean"):
            nn.init.uniform_(buffer, -0.7, 0.3)
        else:
            nn.init.uniform_(buffer, 0.2, 0.8)
    if name == "s3d":
        network.avgpool = nn.AdaptiveAvgPool3d(1)
    return network.eval()


@torch.no_grad()
def features(network: nn.Module, name: str) -> torch.Tensor:
    setattr(network, HEAD[name], nn.Identity())
    return network(CLIPS.transpose(1, 2))


def randomise(model: nn.Module) -> nn.Module:
    """Gives every BatchNorm statistics and weights of its own, in every row."""
    generator = torch.Generator().manual_seed(11)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.rand(module.running_mean.shape, generator=generator) - 0.7)
            for tensor in (module.running_var, module.weight.data, module.bias.data):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def mc3() -> nn.Module:
    return reference()


@pytest.mark.parametrize("name", BACKBONE_NAMES)
def test_torchvision_there_and_back(name: str) -> None:
    network = reference(name)
    tensors = network.state_dict()

    model, report = from_tensors(tensors, num_frames=16)
    with torch.no_grad():
        computed = model(CLIPS).pooler_output
    back, back_report = to_torchvision(model)

    assert (model.config.backbone, model.config.num_frames, model.config.batch_norm) == (name, 16, "shared")
    assert {*report.used, *report.dropped} == set(tensors)
    assert set(report.dropped.values()) == {"classifier"}
    assert set(report.used.values()) == set(model.state_dict())
    assert not report.added
    assert computed.std(dim=1).min() > 1e-4
    torch.testing.assert_close(computed, features(network, name), rtol=1e-4, atol=1e-5)
    assert set(back_report.used) == set(model.state_dict())
    assert set(back) == {key for key in tensors if not key.startswith(HEAD[name])}
    assert all(torch.equal(back[key], tensors[key]) for key in back)


@pytest.mark.parametrize("name", ["s3d", "mc3_18"])
def test_classifier_there_and_back(name: str) -> None:
    network = reference(name)

    model, report = from_tensors(network.state_dict(), with_classifier=True)
    with torch.no_grad():
        torch.testing.assert_close(model(CLIPS).logits, network(CLIPS.transpose(1, 2)), rtol=1e-4, atol=1e-5)
    back, _ = to_torchvision(model)

    assert isinstance(model, ViDiDiForVideoClassification)
    assert model.config.num_labels == 5
    assert not report.dropped
    network.load_state_dict(back)  # strictly: names and shapes are torchvision's


@pytest.mark.parametrize("wrapper", ["", "module.", "module.encoder.net.", "backbone."])
def test_prefixes_and_heads(mc3: nn.Module, wrapper: str) -> None:
    tensors = {f"{wrapper}{name}": tensor for name, tensor in mc3.state_dict().items()}
    tensors |= {f"module.projector.net.{i}.weight": torch.ones(2, 2) for i in (0, 3)}
    tensors["module.predictor.0.bias"] = torch.ones(2)

    model, report = from_tensors(tensors)

    assert torch.equal(model.backbone.stem[0].weight, mc3.stem[0].weight)
    assert {*report.used, *report.dropped} == set(tensors)
    heads = {name: why for name, why in report.dropped.items() if "proj" in name or "pred" in name}
    assert len(heads) == 3
    assert set(heads.values()) == {"head of the objective"}


def test_byol_of_the_authors_holds_the_network_three_times(mc3: nn.Module) -> None:
    tensors = {}
    for prefix in ("module.net.", "module.online_encoder.net."):
        tensors |= {prefix + name: tensor for name, tensor in mc3.state_dict().items()}
    other = reference(seed=1).state_dict()
    tensors |= {f"module.target_encoder.net.{name}": tensor for name, tensor in other.items()}
    tensors["module.target_encoder.projector.net.0.weight"] = torch.ones(2, 2)

    model, report = from_tensors(tensors)

    assert torch.equal(model.backbone.stem[0].weight, mc3.stem[0].weight)
    assert {*report.used, *report.dropped} == set(tensors)
    assert all(name.startswith("module.online_encoder.net.") for name in report.used)
    assert "average" in report.dropped["module.target_encoder.net.stem.0.weight"]
    assert "the same network" in report.dropped["module.net.stem.0.weight"]


def test_several_networks_need_a_prefix(mc3: nn.Module) -> None:
    other = reference(seed=1)
    tensors = {f"encoder.{name}": tensor for name, tensor in mc3.state_dict().items()}
    tensors |= {f"encoder2.{name}": tensor for name, tensor in other.state_dict().items()}

    with pytest.raises(ValueError, match=r"'encoder\.', 'encoder2\.'"):
        from_tensors(tensors)
    model, report = from_tensors(tensors, prefix="encoder2.")

    assert torch.equal(model.backbone.stem[0].weight, other.stem[0].weight)
    assert {*report.used, *report.dropped} == set(tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("layer3.0.conv1.0.weight"), r"layer3\.0\.conv1\.0\.weight of mc3_18 is missing"),
        (lambda tensors: tensors.pop("stem.0.weight"), "found none of torchvision's video networks"),
        (
            lambda tensors: tensors.update(extra=torch.zeros(1)),
            "1 tensors belong to no part that is known",
        ),
        (lambda tensors: tensors.update({"stem.1.bias": torch.zeros(3)}), r"stem\.1\.bias is \(3,\)"),
        (lambda tensors: tensors["stem.0.weight"].fill_(float("nan")), "compute different things"),
    ],
)
def test_every_tensor_is_accounted_for(mc3: nn.Module, change, message: str) -> None:
    tensors = {name: tensor.clone() for name, tensor in mc3.state_dict().items()}
    change(tensors)
    with pytest.raises((ValueError, RuntimeError), match=message):
        from_tensors(tensors)


def test_counters_of_old_files_start_at_zero(mc3: nn.Module) -> None:
    tensors = {name: tensor for name, tensor in mc3.state_dict().items() if not name.endswith("tracked")}
    model, report = from_tensors(tensors)
    assert model.backbone.stem[1].num_batches_tracked == 0
    assert "backbone.stem.1.num_batches_tracked" in report.added


def test_compare_notices_another_network(mc3: nn.Module) -> None:
    model, _ = from_tensors(mc3.state_dict())
    model.backbone.layer4[1].conv2[1].eps = 1.0
    mc3_without_head = reference()
    mc3_without_head.fc = nn.Identity()
    with pytest.raises(RuntimeError, match="compute different things"):
        compare(mc3_without_head, model)


def test_rescaled_derivatives_stay_here() -> None:
    config = ViDiDiConfig(backbone="mc3_18", batch_norm="per_order", derivative_scale="unit")
    model = randomise(ViDiDiModel(config))
    with pytest.raises(ValueError, match="for frames, order 0, and not for order 1"):
        to_torchvision(model, order=1)
    to_torchvision(model, order=0)
    classifier = randomise(ViDiDiForVideoClassification(ViDiDiConfig(classifier_orders=(2,), derivative_scale="unit")))
    with pytest.raises(ValueError, match="not for order 2"):
        to_torchvision(classifier)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_one_order_of_several_goes_out(order: int) -> None:
    model = randomise(ViDiDiModel(ViDiDiConfig(backbone="mc3_18", batch_norm="per_order")))

    with pytest.raises(ValueError, match=r"derivative orders \(0, 1, 2\), and there is room for one"):
        to_torchvision(model)
    with pytest.raises(ValueError, match="not of 3"):
        to_torchvision(model, order=3)
    state, report = to_torchvision(model, order=order)

    network = get_model("mc3_18", weights=None)
    network.fc = nn.Identity()
    network.load_state_dict(state)
    with torch.no_grad():
        expected = network.eval()(CLIPS.transpose(1, 2))
        assert expected.std(dim=1).min() > 1e-4
        torch.testing.assert_close(model(CLIPS, derivative_order=order).pooler_output, expected, rtol=1e-4, atol=1e-5)
    norms = sum(isinstance(module, PerOrderBatchNorm3d) for module in model.modules())
    assert len(report.dropped) == 2 * 2 * norms  # mean and variance of the two other orders
    assert {name.partition("[")[0] for name in (*report.used, *report.dropped)} == set(model.state_dict())


def test_networks_that_torchvision_lacks_do_not_go_out() -> None:
    model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1)))
    with pytest.raises(ValueError, match=r"not \(4, 4, 8, 8\) and \(1, 1, 1, 1\)"):
        to_torchvision(model)
    both = ViDiDiForVideoClassification(ViDiDiConfig(backbone="mc3_18", classifier_orders=(0, 1)))
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        to_torchvision(both)


def test_authors_evaluation_loads_what_goes_out(mc3: nn.Module) -> None:
    model, _ = from_tensors(mc3.state_dict())
    state, report = to_authors(model)
    network = get_model("mc3_18", weights=None)
    network.load_state_dict(state)  # strictly, with its classifier of 400 classes
    assert set(report.added) == {"fc.weight", "fc.bias"}


class _Hook(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


def _their_mlp(*sizes: int) -> nn.Module:
    """Linear layers with biases, BatchNorm and ReLU in between, under the name `net`."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return _Hook(nn.Sequential(*layers[:-2]))


@pytest.mark.parametrize("objective", ["vicreg", "byol"])
def test_authors_training_loads_what_goes_out(objective: str) -> None:
    options = {"projector_sizes": (16, 8)} | ({"predictor_sizes": (16, 8)} if objective == "byol" else {})
    config = ViDiDiConfig(
        backbone="mc3_18",
        objective=objective,
        objective_options=options,
        batch_norm="per_order",
        derivative_orders=(0, 1),
    )
    model = randomise(ViDiDiForPreTraining(config))
    content, report = to_authors_training(model, order=1)

    wrapper = nn.Module()  # as their classes name the parts
    if objective == "vicreg":
        wrapper.encoder, wrapper.projector = _Hook(get_model("mc3_18", weights=None)), _their_mlp(512, 16, 8)
        encoder, projector = wrapper.encoder.net, wrapper.projector.net
    else:
        wrapper.net = get_model("mc3_18", weights=None)
        wrapper.online_encoder, wrapper.target_encoder = _Hook(wrapper.net), _Hook(get_model("mc3_18", weights=None))
        wrapper.online_encoder.projector = _their_mlp(512, 16, 8)
        wrapper.target_encoder.projector = _their_mlp(512, 16, 8)
        wrapper.online_predictor = _their_mlp(8, 16, 8)
        encoder, projector = wrapper.net, wrapper.online_encoder.projector.net
    parallel = nn.Module()
    parallel.module = wrapper
    parallel.load_state_dict(content["model"])  # strictly

    encoder.fc = nn.Identity()
    with torch.no_grad():
        features = model.vididi(CLIPS, derivative_order=1).pooler_output
        torch.testing.assert_close(encoder.eval()(CLIPS.transpose(1, 2)), features, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(projector.eval()(features), model.objective.projector(features))
        if objective == "byol":
            theirs = wrapper.online_predictor.eval().net(features[:, :8])
            torch.testing.assert_close(theirs, model.objective.predictor(features[:, :8]))
    assert {name.partition("[")[0] for name in (*report.used, *report.dropped)} == set(model.state_dict())
    assert set(report.dropped.values()) == {"statistics of order 0"}
    assert {*report.used.values(), *report.added} == set(content["model"])
    again, _ = from_tensors(content["model"])  # and back
    assert torch.equal(again.backbone.layer4[0].conv1[0].weight, model.vididi.backbone.layer4[0].conv1[0].weight)


def _exclude(tensor: torch.Tensor) -> bool:
    return tensor.ndim == 1


def test_training_file_of_the_authors_is_read_without_running_code(
    mc3: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their optimiser keeps a function of the training script in its groups."""
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


def test_heads_come_from_a_checkpoint_of_a_run(tmp_path: Path) -> None:
    config = ViDiDiConfig(backbone="mc3_18", objective_options={"projector_sizes": (16, 8)})
    model = randomise(ViDiDiForPreTraining(config))
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


def test_script(
    mc3: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(SCRIPT))["main"]
    torch.save(mc3.state_dict(), "mc3.pth")

    main(["mc3.pth", "model"])
    assert "2 dropped, such as fc.weight: classifier" in capsys.readouterr().out
    main(["model", "back.safetensors", "--to", "torchvision"])
    with pytest.raises(SystemExit, match="2"):
        main(["absent.pth", "other"])

    assert capsys.readouterr().err == "convert_checkpoint.py: error: there is no file absent.pth\n"
    report = json.loads(Path("model/conversion.json").read_text())
    assert {*report["used"], *report["dropped"]} == set(mc3.state_dict())
    back = load_file("back.safetensors")
    assert all(torch.equal(back[name], mc3.state_dict()[name]) for name in back)
