import copy
import math

import pytest
import torch
from torch import nn

from vididi_hf.pretraining.optimization import (
    LARS,
    Muon,
    build_lr_schedule,
    build_optimizer,
    learning_rate_at,
    orthogonalize,
)
from vididi_hf.pretraining.recipe import OPTIMIZERS, PretrainingRecipe


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()


def backward(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    model.zero_grad()
    model(torch.randn(8, 4, generator=generator, dtype=torch.float64)).square().sum().backward()


class StatedLARS:
    """One parameter's LARS, in plain arithmetic on a list of numbers."""

    def __init__(self, values: torch.Tensor):
        self.values = values.detach().flatten().tolist()
        self.excluded = values.ndim <= 1
        self.velocity = [0.0] * len(self.values)

    def step(self, gradient: torch.Tensor, rate: float, momentum: float, decay: float, trust: float) -> None:
        update = gradient.flatten().tolist()
        if not self.excluded:
            update = [g + decay * w for g, w in zip(update, self.values)]
            if any(self.values) and any(update):
                ratio = trust * math.hypot(*self.values) / math.hypot(*update)
                update = [ratio * g for g in update]
        self.velocity = [momentum * v + g for v, g in zip(self.velocity, update)]
        self.values = [w - rate * v for w, v in zip(self.values, self.velocity)]


@pytest.mark.parametrize(("decay", "trust"), [(1e-6, 1e-3), (0.1, 0.02), (0.0, 1.0)])
def test_lars_follows_the_formula_step_by_step(decay: float, trust: float) -> None:
    model = network()
    nn.init.zeros_(model[3].weight)  # a zero weight is not adapted, else it could never move
    expected = [StatedLARS(parameter) for parameter in model.parameters()]
    optimizer = LARS(model.parameters(), lr=1.0, momentum=0.8, weight_decay=decay, trust_coefficient=trust)
    for step, rate in enumerate((0.5, 0.3, 0.3, 0.1)):
        backward(model, step)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        for parameter, stated in zip(model.parameters(), expected):
            assert parameter.grad is not None
            stated.step(parameter.grad, rate, 0.8, decay, trust)
            assert parameter.flatten().tolist() == pytest.approx(stated.values, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6), (8, 3, 3, 2, 2), (1, 5)])
def test_muon_follows_the_formula_step_by_step(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
    expected, momentum = weight.detach().clone(), torch.zeros(shape, dtype=torch.float64)
    optimizer = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.3)
    for _ in range(3):
        weight.grad = torch.randn(shape, generator=generator, dtype=torch.float64)
        momentum = 0.9 * momentum + 0.1 * weight.grad
        u, singular, v = torch.linalg.svd((0.1 * weight.grad + 0.9 * momentum).flatten(1), full_matrices=False)
        singular = singular / singular.norm()
        for _ in range(5):  # each Newton-Schulz step is this polynomial of the singular values
            singular = 3.4445 * singular - 4.7750 * singular**3 + 2.0315 * singular**5
        scale = 0.2 * max(shape[0], math.prod(shape[1:])) ** 0.5
        expected = expected * (1 - 0.1 * 0.3) - 0.1 * scale * (u @ singular.diag() @ v).reshape(shape)
        optimizer.step()
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-6)


def test_muon_agrees_with_torch_and_with_adam_on_vectors() -> None:
    ours, theirs = network().float(), network().float()
    optimizer = Muon(ours.parameters(), lr=0.01)
    matrices, vectors = ([p for p in theirs.parameters() if (p.ndim > 1) == wanted] for wanted in (True, False))
    references = [
        torch.optim.Muon(matrices, lr=0.01, weight_decay=0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam(vectors, lr=0.01, betas=(0.9, 0.99)),
    ]
    for step in range(4):
        for one in (ours, theirs):
            one.double()
            backward(one, step)
            one.float()
        optimizer.step()
        for reference in references:
            reference.step()
    before = network().float()
    for mine, other, first in zip(ours.parameters(), theirs.parameters(), before.parameters()):
        moved = (other - first).norm()
        assert (mine - other).norm() <= (0.05 if mine.ndim > 1 else 0.01) * moved  # theirs rounds to bfloat16


def test_updates_of_muon_have_singular_values_near_one() -> None:
    for size in (2, 30):
        matrix = torch.randn(10, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
        singular = torch.linalg.svdvals(orthogonalize(matrix))
        assert singular.min() > 0.3
        assert singular.max() < 1.3


def test_lars_defaults_are_those_of_the_reference() -> None:
    group = LARS(network().parameters(), lr=0.3).param_groups[0]
    defaults = {"lr": 0.3, "momentum": 0.9, "weight_decay": 1e-6, "trust_coefficient": 1e-3}
    assert {name: group[name] for name in defaults} == defaults


def test_lars_update_does_not_depend_on_the_gradients_scale() -> None:
    weights = []
    for scale in (1.0, 100.0):
        weight = nn.Parameter(torch.ones(2, 3))
        weight.grad = scale * torch.arange(6.0).reshape(2, 3)
        LARS([weight], lr=0.5, weight_decay=0.0).step()
        weights.append(weight.detach())
        torch.testing.assert_close((weight - 1).norm(), torch.tensor(0.5 * 1e-3 * math.sqrt(6)), rtol=1e-3, atol=0)
    torch.testing.assert_close(*weights)


def test_lars_leaves_alone_what_has_no_gradient_and_zero_gradients_do_no_harm() -> None:
    idle, still = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    still.grad = torch.zeros(2, 2)
    optimizer = LARS([idle, still], lr=1.0, weight_decay=0.0)
    optimizer.step()
    assert torch.equal(idle, torch.ones(2, 2))
    assert torch.equal(still, torch.ones(2, 2))
    assert idle not in optimizer.state


def test_lars_resumes_from_its_state() -> None:
    model, resumed = network(), network(seed=1)
    optimizer = LARS(model.parameters(), lr=0.5, weight_decay=0.01, trust_coefficient=0.1)
    for step in range(2):
        backward(model, step)
        optimizer.step()
    resumed.load_state_dict(model.state_dict())
    other = LARS(resumed.parameters(), lr=9.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for trained, steps in ((model, optimizer), (resumed, other)):
        backward(trained, 2)
        steps.step()
    for left, right in zip(model.parameters(), resumed.parameters()):
        assert torch.equal(left, right)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_matrices_decay_and_what_is_frozen_is_left_out(name: str) -> None:
    model = network()
    model[0].requires_grad_(False)
    optimizer = build_optimizer(model, PretrainingRecipe(optimizer=name, learning_rate=0.2, weight_decay=0.05))
    matrices, vectors = optimizer.param_groups
    assert [id(p) for p in matrices["params"]] == [id(model[3].weight)]
    assert [id(p) for p in vectors["params"]] == [id(p) for p in (model[1].weight, model[1].bias, model[3].bias)]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.05, 0.0)
    assert matrices["lr"] == vectors["lr"] == 0.2
    settings = {"adamw": ("betas", (0.9, 0.999)), "muon": ("momentum", 0.95)}
    setting, value = settings.get(name, ("momentum", 0.9))
    assert matrices[setting] == value
    backward(model, 0)
    before = model[3].weight.clone()
    optimizer.step()
    assert type(optimizer).__name__.lower() == name
    assert not torch.equal(before, model[3].weight)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_fused_updates_are_the_same(name: str) -> None:
    trained = []
    for fused in (False, True):
        model = network()
        recipe = PretrainingRecipe(optimizer=name, learning_rate=0.1, weight_decay=0.05, fused_optimizer=fused)
        optimizer = build_optimizer(model, recipe)
        assert all(bool(group["fused"]) == fused for group in optimizer.param_groups)
        for step in range(3):
            backward(model, step)
            optimizer.step()
        trained.append(model.state_dict())
    torch.testing.assert_close(*trained)


def test_learning_rate_rises_linearly_and_falls_along_a_cosine() -> None:
    rates = [learning_rate_at(step, 50, 10, base=2.0, final_ratio=0.1) for step in range(51)]
    assert rates[:11] == pytest.approx([0.2 * step for step in range(11)])
    for step in range(10, 51):
        assert rates[step] == pytest.approx(0.2 + 1.8 * math.cos(math.pi * (step - 10) / 80) ** 2)
    assert rates[30] == pytest.approx(1.1)
    assert rates[50] == pytest.approx(0.2)
    assert learning_rate_at(0, 10, 0, base=2.0, final_ratio=0.0) == 2.0
    assert learning_rate_at(10, 10, 0, base=2.0, final_ratio=0.0) == 0.0
    assert learning_rate_at(4, 4, 4, base=2.0, final_ratio=0.5) == 2.0


def test_the_schedule_of_a_recipe_scales_with_the_global_batch() -> None:
    recipe = PretrainingRecipe(batch_size=4, learning_rate=64.0, epochs=20, warmup_epochs=1)
    schedule = build_lr_schedule(recipe, steps_per_epoch=5)
    assert [schedule(step) for step in (0, 1, 5)] == [0.0, 0.2, 1.0]  # 64 * 4 / 256 after one epoch
    assert schedule(100) == pytest.approx(recipe.final_learning_rate)
    assert build_lr_schedule(recipe, steps_per_epoch=5, num_processes=3)(5) == 3.0
