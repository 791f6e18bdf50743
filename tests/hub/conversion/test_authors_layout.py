"""What goes out is loaded, strictly, by classes named as the authors' are."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.hub.conversion import from_tensors, to_authors, to_authors_training
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining

Build = Callable[..., nn.Module]


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
def test_authors_training_loads_what_goes_out(objective: str, clips: torch.Tensor, randomize: Build) -> None:
    options = {"projector_sizes": (16, 8)} | ({"predictor_sizes": (16, 8)} if objective == "byol" else {})
    config = ViDiDiConfig(
        backbone="mc3_18",
        objective=objective,
        objective_options=options,
        batch_norm="per_order",
        derivative_orders=(0, 1),
    )
    model = randomize(ViDiDiForPreTraining(config))
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
        features = model.vididi(clips, derivative_order=1).pooler_output
        torch.testing.assert_close(encoder.eval()(clips.transpose(1, 2)), features, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(projector.eval()(features), model.objective.projector(features))
        if objective == "byol":
            theirs = wrapper.online_predictor.eval().net(features[:, :8])
            torch.testing.assert_close(theirs, model.objective.predictor(features[:, :8]))
    assert {name.partition("[")[0] for name in (*report.used, *report.dropped)} == set(model.state_dict())
    assert set(report.dropped.values()) == {"statistics of order 0"}
    assert {*report.used.values(), *report.added} == set(content["model"])
    again, _ = from_tensors(content["model"])  # and back
    assert torch.equal(again.backbone.layer4[0].conv1[0].weight, model.vididi.backbone.layer4[0].conv1[0].weight)
