import pytest
import torch

from vididi_hf.objectives import vicreg_loss


def stated_terms(first: torch.Tensor, second: torch.Tensor) -> tuple[float, float, float]:
    """The three terms, written with sums over single elements."""
    pairs, dimensions = first.shape
    invariance = sum((a - b) ** 2 for a, b in zip(first.flatten().tolist(), second.flatten().tolist()))
    variance, covariance = 0.0, 0.0
    for view in (first, second):
        columns = [[value - sum(column) / pairs for value in column] for column in view.T.tolist()]
        for i, left in enumerate(columns):
            for j, right in enumerate(columns):
                product = sum(a * b for a, b in zip(left, right)) / (pairs - 1)
                if i == j:
                    variance += max(0.0, 1 - (product + 1e-4) ** 0.5) / dimensions / 2
                else:
                    covariance += product**2 / dimensions
    return invariance / (pairs * dimensions), variance, covariance


def random_views(pairs: int = 6, dimensions: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    # Deviations on both sides of 1, so that the hinge is open for some dimensions and closed for others.
    scale = torch.linspace(0.3, 1.7, dimensions, dtype=torch.float64)
    first = torch.randn(pairs, dimensions, generator=generator, dtype=torch.float64) * scale
    return first, first + 0.5 * torch.randn(pairs, dimensions, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 1.0, 0.04), (0.0, 3.0, 7.0)])
def test_loss_and_terms_equal_the_formula(weights: tuple[float, float, float]) -> None:
    first, second = random_views()
    output = vicreg_loss(first, second, *weights)
    expected = stated_terms(first, second)
    assert list(output.terms) == ["invariance", "variance", "covariance"]
    assert [term.item() for term in output.terms.values()] == pytest.approx(expected)
    assert output.loss.item() == pytest.approx(sum(w * term for w, term in zip(weights, expected)))


def test_gradient_is_that_of_the_loss_and_terms_carry_none() -> None:
    first, second = (view.requires_grad_() for view in random_views())
    assert torch.autograd.gradcheck(lambda x, y: vicreg_loss(x, y).loss, (first, second))
    assert not any(term.requires_grad for term in vicreg_loss(first, second).terms.values())


def test_constant_embeddings_have_maximal_variance_term_and_finite_gradient() -> None:
    constant = torch.ones(8, 5, requires_grad=True)
    output = vicreg_loss(constant, constant)
    assert output.terms["variance"].item() == pytest.approx(1 - 1e-4**0.5)
    assert output.terms["invariance"].item() == output.terms["covariance"].item() == 0
    output.loss.backward()
    assert constant.grad.isfinite().all()


def test_permuted_pairs_raise_only_the_invariance() -> None:
    first, second = random_views(pairs=32)
    matched = vicreg_loss(first, second).terms
    permuted = vicreg_loss(first, second.roll(1, dims=0)).terms
    assert permuted["invariance"] > 2 * matched["invariance"]
    torch.testing.assert_close(permuted["variance"], matched["variance"])
    torch.testing.assert_close(permuted["covariance"], matched["covariance"])


def test_a_common_offset_changes_no_term_and_duplicated_dimensions_raise_only_the_covariance() -> None:
    first, second = random_views(pairs=64, dimensions=2)
    torch.testing.assert_close(vicreg_loss(first + 3, second + 3).terms, vicreg_loss(first, second).terms)
    single, double = vicreg_loss(first, second).terms, vicreg_loss(first.repeat(1, 2), second.repeat(1, 2)).terms
    torch.testing.assert_close(double["invariance"], single["invariance"])
    torch.testing.assert_close(double["variance"], single["variance"])
    assert double["covariance"] > 2 * single["covariance"]


def test_identical_wide_decorrelated_views_cost_nothing() -> None:
    # Columns of a Hadamard matrix without the constant one: zero mean, variance 8/7, mutually orthogonal.
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    view = torch.kron(signs, torch.kron(signs, signs))[:, 1:]
    assert vicreg_loss(view, view).loss.item() == pytest.approx(0, abs=1e-12)
