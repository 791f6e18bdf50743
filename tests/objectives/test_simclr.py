import math

import pytest
import torch
from torch import nn

from vididi_hf.objectives import nt_xent_loss


def stated_loss(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    """Equation 1 of the paper, averaged over every anchor, with sums over single pairs."""
    rows = first.tolist() + second.tolist()

    def similarity(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b)) / (math.hypot(*a) * math.hypot(*b)) / temperature

    total = 0.0
    for i, anchor in enumerate(rows):
        partner = rows[(i + len(first)) % len(rows)]
        others = sum(math.exp(similarity(anchor, other)) for j, other in enumerate(rows) if j != i)
        total -= math.log(math.exp(similarity(anchor, partner)) / others)
    return total / len(rows)


def random_views(pairs: int = 5, dimensions: int = 4, noise: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(pairs, dimensions, generator=generator, dtype=torch.float64)
    return first, first + noise * torch.randn(pairs, dimensions, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_loss_and_its_summands_equal_the_formula(temperature: float) -> None:
    first, second = random_views()
    output = nt_xent_loss(first, second, temperature)
    assert output.loss.item() == pytest.approx(stated_loss(first, second, temperature))
    cosine = nn.functional.cosine_similarity(first, second)
    torch.testing.assert_close(output.terms["alignment"], -cosine.mean() / temperature)
    torch.testing.assert_close(output.terms["alignment"] + output.terms["uniformity"], output.loss)


def test_gradient_is_that_of_the_loss() -> None:
    views = tuple(view.requires_grad_() for view in random_views())
    assert torch.autograd.gradcheck(lambda x, y: nt_xent_loss(x, y, 0.5).loss, views)
    assert not any(term.requires_grad for term in nt_xent_loss(*views).terms.values())


def test_views_are_interchangeable_and_scale_does_not_matter() -> None:
    first, second = random_views()
    torch.testing.assert_close(nt_xent_loss(second, first), nt_xent_loss(first, second))
    torch.testing.assert_close(nt_xent_loss(3 * first, 0.2 * second), nt_xent_loss(first, second))


@pytest.mark.parametrize("pairs", [2, 7])
def test_constant_embeddings_cost_the_logarithm_of_the_candidates(pairs: int) -> None:
    constant = torch.ones(pairs, 3)
    assert nt_xent_loss(constant, constant).loss.item() == pytest.approx(math.log(2 * pairs - 1), rel=1e-6)


def test_permuted_pairs_raise_only_the_alignment() -> None:
    first, second = random_views(pairs=16, dimensions=8, noise=0.1)
    matched, permuted = nt_xent_loss(first, second).terms, nt_xent_loss(first, second.roll(1, dims=0)).terms
    assert matched["accuracy"] == 1
    assert permuted["accuracy"] == 0
    assert permuted["alignment"] > matched["alignment"] + 5
    torch.testing.assert_close(permuted["uniformity"], matched["uniformity"])


def test_accuracy_counts_anchors_of_both_views() -> None:
    # Pair 0 is perfect. Pair 1: the second view of video 1 is nearer to pair 0 than to its partner.
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    second = torch.tensor([[1.0, 0.0], [0.9, 0.3]])
    assert nt_xent_loss(first, second).terms["accuracy"].item() == 0.75


def test_impossible_temperature_is_named() -> None:
    with pytest.raises(ValueError, match=r"temperature must be positive, got 0\.0"):
        nt_xent_loss(torch.ones(2, 4), torch.ones(2, 4), temperature=0.0)


@pytest.mark.parametrize("distance", [1.0, 1e-3])
def test_small_losses_keep_their_precision(distance):
    """In float32 as in float64, down to a loss of 1e-8."""
    generator = torch.Generator().manual_seed(0)
    first = torch.eye(8, 16)
    second = first + distance * torch.randn(8, 16, generator=generator)
    found = []
    for dtype in (torch.float32, torch.float64):
        views = [view.to(dtype).requires_grad_() for view in (first, second)]
        loss = nt_xent_loss(*views, temperature=0.05).loss
        found.append([loss.detach().double(), *(part.double() for part in torch.autograd.grad(loss, views))])
    for single, double in zip(*found):
        torch.testing.assert_close(single, double, rtol=1e-5, atol=1e-5 * double.abs().max().item())


def test_cross_view_only_is_a_classification_of_the_other_view() -> None:
    first, second = random_views()
    a, b = (nn.functional.normalize(view, dim=1) for view in (first, second))
    logits, pairs = a @ b.T / 0.1, torch.arange(len(a))
    expected = (nn.functional.cross_entropy(logits, pairs) + nn.functional.cross_entropy(logits.T, pairs)) / 2
    torch.testing.assert_close(nt_xent_loss(first, second, cross_view_only=True).loss, expected)
