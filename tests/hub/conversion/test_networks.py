"""Which of torchvision's networks tensors belong to, and whether ours computes the same."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from vididi_hf.configuration_vididi import BACKBONE_NAMES
from vididi_hf.hub.conversion import compare, from_tensors
from vididi_hf.hub.conversion.networks import backbone_of, last_layer, torchvision_network

Build = Callable[..., nn.Module]


def test_compare_notices_another_network(mc3: nn.Module, reference: Build) -> None:
    model, _ = from_tensors(mc3.state_dict())
    model.backbone.layer4[1].conv2[1].eps = 1.0
    mc3_without_head = reference()
    mc3_without_head.fc = nn.Identity()
    with pytest.raises(RuntimeError, match="compute different things"):
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
    with pytest.raises(ValueError, match=r"below 'a\.' is none of torchvision's video networks"):
        backbone_of({"conv1.weight": torch.zeros(1)}, "a.")
    state = mc3.state_dict()
    with pytest.raises(ValueError, match="of r3d_18 it is"):
        torchvision_network("r3d_18", state, with_classifier=True)
