import pytest
import torch

from vididi_hf.configuration_vididi import OBJECTIVE_NAMES
from vididi_hf.objectives import OBJECTIVES, SimCLR, VICReg, build_objective


def test_registry_offers_what_the_configuration_allows() -> None:
    assert set(OBJECTIVES) == set(OBJECTIVE_NAMES)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_builds_each_objective_with_its_options(name: str) -> None:
    options = {"projector_sizes": [8, 4]} | ({"predictor_sizes": [8, 4]} if name == "byol" else {})
    objective = build_objective(name, 16, options)
    assert type(objective) is OBJECTIVES[name]
    assert objective.predictor(objective.projector(torch.randn(3, 16))).shape == (3, 4)


def test_options_reach_the_objective() -> None:
    vicreg = build_objective("vicreg", 4, {"projector_sizes": [4], "covariance_weight": 0.5})
    assert isinstance(vicreg, VICReg)
    assert (vicreg.invariance_weight, vicreg.covariance_weight) == (25.0, 0.5)
    simclr = build_objective("simclr", 4)
    assert isinstance(simclr, SimCLR)
    assert simclr.temperature == 0.1


def test_unknown_names_and_options_are_named_with_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="unknown objective 'moco', expected one of vicreg, byol, simclr"):
        build_objective("moco", 4)
    with pytest.raises(ValueError, match=r"unknown option 'tau' of objective 'simclr'.* projector_sizes, temperature"):
        build_objective("simclr", 4, {"tau": 0.1})
    with pytest.raises(ValueError, match="unknown option 'hidden_size'"):
        build_objective("vicreg", 4, {"hidden_size": 8})
