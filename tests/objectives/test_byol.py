import math

import pytest
import torch
from torch import nn

from vididi_hf.objectives import byol_loss, cosine_decay


def stated_loss(first: torch.Tensor, second: torch.Tensor, target_first: torch.Tensor, target_second: torch.Tensor):
    """Mean over pairs of 2 - 2 cos per direction, with sums over single elements."""
    total = 0.0
    for predictions, targets in ((first, target_second), (second, target_first)):
        for p, z in zip(predictions.tolist(), targets.tolist()):
            total += 2 - 2 * sum(a * b for a, b in zip(p, z)) / (math.hypot(*p) * math.hypot(*z))
    return total / len(first)


def random_embeddings() -> torch.Tensor:
    return torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_loss_and_similarity_equal_the_formula() -> None:
    embeddings = random_embeddings()
    output = byol_loss(*embeddings)
    assert output.loss.item() == pytest.approx(stated_loss(*embeddings))
    first, second, target_first, target_second = embeddings
    cosines = [nn.functional.cosine_similarity(*pair) for pair in ((first, target_second), (second, target_first))]
    torch.testing.assert_close(output.terms, {"similarity": torch.cat(cosines).mean()})


def test_gradient_reaches_predictions_and_never_targets() -> None:
    first, second, *targets = (row.clone().requires_grad_() for row in random_embeddings())
    assert torch.autograd.gradcheck(lambda p, q: byol_loss(p, q, *targets).loss, (first, second))
    output = byol_loss(first, second, *targets)
    assert not output.terms["similarity"].requires_grad
    output.loss.backward()
    assert all(target.grad is None for target in targets)


def test_extremes() -> None:
    embeddings = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    same = byol_loss(embeddings, embeddings, 2 * embeddings, 0.5 * embeddings)
    opposite = byol_loss(embeddings, embeddings, -embeddings, -embeddings)
    assert same.loss.item() == pytest.approx(0, abs=1e-6)
    assert opposite.loss.item() == pytest.approx(8)
    # Collapse costs nothing: only the moving target and the predictor keep BYOL from it.
    assert byol_loss(*torch.ones(4, 6, 5)).loss.item() == 0


def test_each_view_predicts_the_other_views_target() -> None:
    embeddings = torch.eye(4)[:2]
    swapped = embeddings.flip(1)
    assert byol_loss(embeddings, swapped, target_first=swapped, target_second=embeddings).loss.item() == 0
    assert byol_loss(embeddings, swapped, target_first=embeddings, target_second=swapped).loss.item() == 4


def test_cosine_decay_equals_the_formula() -> None:
    for step, expected in ((0, 0.99), (25, 1 - 0.01 * (math.sqrt(0.5) + 1) / 2), (50, 0.995), (100, 1.0)):
        assert cosine_decay(step, 100, base=0.99) == pytest.approx(expected, abs=1e-12)
    rates = [cosine_decay(step, 40, base=0.9) for step in range(41)]
    assert rates == sorted(rates)
    assert cosine_decay(0, 1, base=0.0) == 0


@pytest.mark.parametrize(("step", "total", "base"), [(-1, 10, 0.9), (11, 10, 0.9), (0, 0, 0.9), (1, 10, 1.1)])
def test_cosine_decay_names_what_is_out_of_range(step: int, total: int, base: float) -> None:
    with pytest.raises(ValueError, match=r"must lie between 0 and"):
        cosine_decay(step, total, base)
