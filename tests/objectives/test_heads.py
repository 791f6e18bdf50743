import pytest
import torch
from torch import nn

from vididi_hf.objectives.heads import mlp


def test_layers_are_linear_batchnorm_relu_and_a_plain_last_linear() -> None:
    head = mlp((6, 5, 4, 3))
    expected = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in head] == expected
    assert [tuple(layer.weight.shape) for layer in head if isinstance(layer, nn.Linear)] == [(5, 6), (4, 5), (3, 4)]
    assert [layer.bias is None for layer in head if isinstance(layer, nn.Linear)] == [False, False, True]


def test_computes_the_formula() -> None:
    head = mlp((3, 4, 2)).double()
    inputs = torch.randn(5, 3, dtype=torch.float64)
    hidden = inputs @ head[0].weight.T + head[0].bias
    normalized = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(head(inputs), normalized.clamp(min=0) @ head[3].weight.T)


def test_two_sizes_make_a_linear_map() -> None:
    assert [type(layer) for layer in mlp((3, 2))] == [nn.Linear]


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0), (3, -1, 2), (3, 2.5)])
def test_impossible_sizes_are_named(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two or more positive integer sizes") as error:
        mlp(sizes)
    assert str(sizes) in str(error.value)
