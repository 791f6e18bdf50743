"""Torchvision's networks come in and go out, whatever stands before the names of their tensors."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from vididi_hf.batch_norm_vididi import PerOrderBatchNorm3d
from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.configuration_vididi import BACKBONE_NAMES, ViDiDiConfig
from vididi_hf.hub.conversion import from_tensors, to_torchvision
from vididi_hf.modeling_vididi import ViDiDiModel

Build = Callable[..., nn.Module]
HEAD = {"s3d": "classifier", "r3d_18": "fc", "mc3_18": "fc", "r2plus1d_18": "fc"}


@pytest.mark.parametrize("name", BACKBONE_NAMES)
def test_torchvision_there_and_back(name: str, clips: torch.Tensor, reference: Build) -> None:
    network = reference(name)
    tensors = network.state_dict()

    model, report = from_tensors(tensors, num_frames=16)
    with torch.no_grad():
        computed = model(clips).pooler_output
    back, back_report = to_torchvision(model)

    assert (model.config.backbone, model.config.num_frames, model.config.batch_norm) == (name, 16, "shared")
    assert {*report.used, *report.dropped} == set(tensors)
    assert set(report.dropped.values()) == {"classifier"}
    assert set(report.used.values()) == set(model.state_dict())
    assert not report.added
    assert computed.std(dim=1).min() > 1e-4
    setattr(network, HEAD[name], nn.Identity())
    with torch.no_grad():
        torch.testing.assert_close(computed, network(clips.transpose(1, 2)), rtol=1e-4, atol=1e-5)
    assert set(back_report.used) == set(model.state_dict())
    assert set(back) == {key for key in tensors if not key.startswith(HEAD[name])}
    assert all(torch.equal(back[key], tensors[key]) for key in back)


@pytest.mark.parametrize("name", ["s3d", "mc3_18"])
def test_classifier_there_and_back(name: str, clips: torch.Tensor, reference: Build) -> None:
    network = reference(name)

    model, report = from_tensors(network.state_dict(), with_classifier=True)
    with torch.no_grad():
        torch.testing.assert_close(model(clips).logits, network(clips.transpose(1, 2)), rtol=1e-4, atol=1e-5)
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


def test_byol_of_the_authors_holds_the_network_three_times(mc3: nn.Module, reference: Build) -> None:
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
    assert "EMA" in report.dropped["module.target_encoder.net.stem.0.weight"]
    assert "the same network" in report.dropped["module.net.stem.0.weight"]


def test_several_networks_need_a_prefix(mc3: nn.Module, reference: Build) -> None:
    other = reference(seed=1)
    tensors = {f"encoder.{name}": tensor for name, tensor in mc3.state_dict().items()}
    tensors |= {f"encoder2.{name}": tensor for name, tensor in other.state_dict().items()}

    with pytest.raises(ValueError, match=r"'encoder\.', 'encoder2\.'"):
        from_tensors(tensors)
    model, report = from_tensors(tensors, prefix="encoder2.")

    assert torch.equal(model.backbone.stem[0].weight, other.stem[0].weight)
    assert {*report.used, *report.dropped} == set(tensors)


def test_counters_of_old_files_start_at_zero(mc3: nn.Module) -> None:
    tensors = {name: tensor for name, tensor in mc3.state_dict().items() if not name.endswith("tracked")}
    model, report = from_tensors(tensors)
    assert model.backbone.stem[1].num_batches_tracked == 0
    assert "backbone.stem.1.num_batches_tracked" in report.added


def test_rescaled_derivatives_stay_here(randomize: Build) -> None:
    config = ViDiDiConfig(backbone="mc3_18", batch_norm="per_order", derivative_scale="unit")
    model = randomize(ViDiDiModel(config))
    with pytest.raises(ValueError, match="only order 0 can be converted"):
        to_torchvision(model, order=1)
    to_torchvision(model, order=0)
    classifier = randomize(ViDiDiForVideoClassification(ViDiDiConfig(classifier_orders=(2,), derivative_scale="unit")))
    with pytest.raises(ValueError, match="only order 0"):
        to_torchvision(classifier)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_one_order_of_several_goes_out(order: int, clips: torch.Tensor, randomize: Build) -> None:
    model = randomize(ViDiDiModel(ViDiDiConfig(backbone="mc3_18", batch_norm="per_order")))

    with pytest.raises(ValueError, match=r"choose one of \(0, 1, 2\), got None"):
        to_torchvision(model)
    with pytest.raises(ValueError, match="got 3"):
        to_torchvision(model, order=3)
    state, report = to_torchvision(model, order=order)

    network = get_model("mc3_18", weights=None)
    network.fc = nn.Identity()
    network.load_state_dict(state)
    with torch.no_grad():
        expected = network.eval()(clips.transpose(1, 2))
        assert expected.std(dim=1).min() > 1e-4
        torch.testing.assert_close(model(clips, derivative_order=order).pooler_output, expected, rtol=1e-4, atol=1e-5)
    norms = sum(isinstance(module, PerOrderBatchNorm3d) for module in model.modules())
    assert len(report.dropped) == 2 * 2 * norms  # mean and variance of the two other orders
    assert {name.partition("[")[0] for name in (*report.used, *report.dropped)} == set(model.state_dict())


def test_networks_that_torchvision_lacks_do_not_go_out() -> None:
    model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1), batch_norm="shared"))
    with pytest.raises(ValueError, match=r"not torchvision's r3d_18: size mismatch"):
        to_torchvision(model)
    config = ViDiDiConfig(backbone="mc3_18", batch_norm="shared", classifier_orders=(0, 1))
    both = ViDiDiForVideoClassification(config)
    with pytest.raises(ValueError, match=r"not torchvision's mc3_18: size mismatch for fc"):
        to_torchvision(both)
