import pytest
import torch
from torch import nn

from vididi_hf.choices_vididi import OBJECTIVE_NAMES
from vididi_hf.objectives import BYOL, OBJECTIVES, build_objective, byol_loss, nt_xent_loss, vicreg_loss
from vididi_hf.objectives.base import mlp

LOSSES = {"vicreg": vicreg_loss, "byol": byol_loss, "simclr": nt_xent_loss}


def embeddings(count: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 64, 32, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("loss", [vicreg_loss, nt_xent_loss])
def test_impossible_embeddings_are_named(loss) -> None:
    with pytest.raises(ValueError, match="at least 2 pairs in a batch, got 1"):
        loss(torch.ones(1, 4), torch.ones(1, 4))
    for shapes in (((4, 3), (5, 3)), ((4, 3, 1), (4, 3, 1))):
        with pytest.raises(ValueError, match=r"same shape \(pairs, dimensions\)") as error:
            loss(*(torch.zeros(shape) for shape in shapes))
        assert all(str(shape) in str(error.value) for shape in shapes)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_compute_in_float32_also_under_autocast(name: str, dtype: torch.dtype) -> None:
    views = embeddings(4 if name == "byol" else 2, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LOSSES[name](*views).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, LOSSES[name](*views.double()).loss.float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("name", "projector", "predictor"),
    [
        ("vicreg", [(16, 2048), (2048, 2048), (2048, 2048)], []),
        ("byol", [(16, 4096), (4096, 256)], [(256, 4096), (4096, 256)]),
        ("simclr", [(16, 16), (16, 128)], []),
    ],
)
def test_objectives_have_the_heads_of_the_references_and_pass_their_input_on(name, projector, predictor) -> None:
    objective = build_objective(name, 16)
    assert type(objective) is OBJECTIVES[name]
    assert objective.uses_target == (name == "byol")
    for head, widths in ((objective.projector, projector), (objective.predictor, predictor)):
        layers = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
        assert [(layer.in_features, layer.out_features) for layer in layers] == widths
    views = embeddings(4 if name == "byol" else 2)
    torch.testing.assert_close(objective(*views), LOSSES[name](*views))


def test_options_reach_the_objective() -> None:
    first, second = embeddings(2)
    weights = {"invariance_weight": 2.0, "variance_weight": 3.0, "covariance_weight": 5.0}
    vicreg = build_objective("vicreg", 16, {"projector_sizes": [8, 4], **weights})
    torch.testing.assert_close(vicreg(first, second), vicreg_loss(first, second, 2.0, 3.0, 5.0))
    simclr = build_objective("simclr", 16, {"projector_sizes": (8, 4), "temperature": 0.5})
    torch.testing.assert_close(simclr(first, second), nt_xent_loss(first, second, temperature=0.5))
    byol = build_objective("byol", 16, {"projector_sizes": [8, 4], "predictor_sizes": [6, 4]})
    for objective in (vicreg, simclr, byol):
        assert objective.predictor(objective.projector(torch.randn(3, 16))).shape == (3, 4)


def test_unknown_names_and_options_are_named_with_what_is_allowed() -> None:
    assert set(OBJECTIVES) == set(OBJECTIVE_NAMES)
    with pytest.raises(ValueError, match="unknown objective 'moco', expected one of vicreg, byol, simclr"):
        build_objective("moco", 4)
    with pytest.raises(ValueError, match=r"unknown option 'tau' of objective 'simclr'.* projector_sizes, temperature"):
        build_objective("simclr", 4, {"tau": 0.1})
    with pytest.raises(ValueError, match=r"predictor_sizes must end like projector_sizes.*\(8, 5\) and \(8, 4\)"):
        BYOL(16, projector_sizes=(8, 4), predictor_sizes=(8, 5))


def test_perceptron_is_linear_batchnorm_relu_and_a_plain_last_linear() -> None:
    assert [type(layer) for layer in mlp((3, 2))] == [nn.Linear]
    head = mlp((3, 4, 2)).double()
    inputs = torch.randn(5, 3, dtype=torch.float64)
    hidden = inputs @ head[0].weight.T + head[0].bias
    normalized = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(head(inputs), normalized.clamp(min=0) @ head[3].weight.T)


@pytest.mark.parametrize("sizes", [(3,), (3, -1, 2), (3, 2.5)])
def test_impossible_sizes_are_named(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two or more positive integer sizes") as error:
        mlp(sizes)
    assert str(sizes) in str(error.value)
