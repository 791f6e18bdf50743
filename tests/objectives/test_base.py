import pytest
import torch

from vididi_hf.objectives.base import full_precision, paired


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_full_precision_widens_and_never_narrows(given: torch.dtype, expected: torch.dtype) -> None:
    assert full_precision(torch.ones(2, dtype=given)).dtype == expected


def test_paired_returns_the_views_unchanged_in_full_precision() -> None:
    views = torch.randn(2, 4, 3).bfloat16()
    first, second = paired(*views)
    assert torch.equal(torch.stack((first, second)), views.float())


@pytest.mark.parametrize("shapes", [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4, 3, 1), (4, 3, 1)), ((3,), (3,))])
def test_paired_names_the_shapes_it_refuses(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"same shape \(pairs, dimensions\)") as error:
        paired(*(torch.zeros(shape) for shape in shapes))
    assert all(str(shape) in str(error.value) for shape in shapes)


def test_paired_names_the_number_of_pairs_it_needs() -> None:
    with pytest.raises(ValueError, match="at least 2 pairs in a batch, got 1"):
        paired(torch.zeros(1, 3), torch.zeros(1, 3), minimum=2)
