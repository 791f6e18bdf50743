"""Every tensor is used, or dropped for a reason; torchvision's network computes the same as ours."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from vididi_hf.configuration_vididi import BACKBONE_NAMES
from vididi_hf.hub.conversion import ConversionReport, from_tensors
from vididi_hf.hub.conversion import backbone_of, compare, last_layer, torchvision_network

Build = Callable[..., nn.Module]


def test_compare_notices_another_network(mc3: nn.Module, reference: Build) -> None:
    model, _ = from_tensors(mc3.state_dict())
    model.backbone.layer4[1].conv2[1].eps = 1.0
    mc3_without_head = reference()
    mc3_without_head.fc = nn.Identity()
    with pytest.raises(ValueError, match="computes other outputs"):
        compare(mc3_without_head, model)


@pytest.mark.parametrize("name", BACKBONE_NAMES)
@pytest.mark.parametrize("with_classifier", [True, False])
def test_networks_are_known_by_their_tensors_and_filled_with_them(
    name: str, with_classifier: bool, clips: torch.Tensor, reference: Build
) -> None:
    network = reference(name)
    state = network.state_dict()
    assert backbone_of(state, "") == name
    filled = torchvision_network(name, state, with_classifier).eval()
    head = last_layer(name).partition(".")[0]
    if not with_classifier:
        setattr(network, head, nn.Identity())
    with torch.no_grad():
        assert torch.equal(filled(clips.transpose(1, 2)), network(clips.transpose(1, 2)))


def test_what_is_none_of_them_is_refused(mc3: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"no video network of torchvision below the prefix 'a\.'"):
        backbone_of({"conv1.weight": torch.zeros(1)}, "a.")
    with pytest.raises(ValueError, match="not torchvision's r3d_18: size mismatch"):
        torchvision_network("r3d_18", mc3.state_dict(), with_classifier=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("layer3.0.conv1.0.weight"), r"layer3\.0\.conv1\.0\.weight of mc3_18 is missing"),
        (lambda tensors: tensors.pop("stem.0.weight"), "no video network of torchvision found"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "the tensor extra is not part of a known network"),
        (lambda tensors: tensors.update({"stem.1.bias": torch.zeros(3)}), r"stem\.1\.bias"),
        (lambda tensors: tensors["stem.0.weight"].fill_(float("nan")), "computes other outputs"),
    ],
)
def test_every_tensor_is_accounted_for(mc3: nn.Module, change, message: str) -> None:
    tensors = {name: tensor.clone() for name, tensor in mc3.state_dict().items()}
    change(tensors)
    with pytest.raises(ValueError, match=message):
        from_tensors(tensors)


def test_a_classifier_must_be_there(mc3: nn.Module) -> None:
    tensors = {name: tensor for name, tensor in mc3.state_dict().items() if not name.startswith("fc.")}
    with pytest.raises(ValueError, match="has no classifier"):
        from_tensors(tensors, with_classifier=True)


def test_rest_is_dropped_for_its_reason_or_refused() -> None:
    report = ConversionReport(used={"net.weight[0]": "stem"}, dropped={"net.bias": "classifier"})
    names = ["net.weight", "net.bias", "target.projector.0", "projector.0", "a.predictor.0"]
    report.account_for(dict.fromkeys(names, torch.zeros(1)))
    assert report.dropped == {
        "net.bias": "classifier",
        "target.projector.0": "EMA target of BYOL",
        "projector.0": "head of the objective",
        "a.predictor.0": "head of the objective",
    }
    assert str(report).splitlines() == [
        "1 tensors used; the outputs differ by at most 0.0e+00",
        "1 dropped, such as net.bias: classifier",
        "1 dropped, such as target.projector.0: EMA target of BYOL",
        "2 dropped, such as projector.0: head of the objective",
    ]
