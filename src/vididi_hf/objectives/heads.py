"""The multilayer perceptrons that objectives put on top of an encoder."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Build a perceptron: Linear, BatchNorm and ReLU per hidden layer, then a linear layer without bias.

    This is the projector of VICReg's reference implementation (github.com/facebookresearch/vicreg) and the projector
    and predictor of BYOL's (github.com/google-deepmind/deepmind-research, byol). SimCLR's (github.com/google-research/
    simclr) has a BatchNorm without offset after the last layer as well, which is left out here.

    Args:
        sizes: Width of the input, of every hidden layer, and of the output: two or more positive integers.

    Returns:
        A module that maps (rows, sizes[0]) to (rows, sizes[-1]). In training mode BatchNorm needs two rows or more.

    Raises:
        ValueError: If `sizes` has fewer than two entries or one that is not a positive integer.

    Example:
        >>> import torch
        >>> mlp((512, 2048, 2048, 2048))(torch.randn(4, 512)).shape
        torch.Size([4, 2048])
    """
    if len(sizes) < 2 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"a perceptron needs two or more positive integer sizes, input first, got {tuple(sizes)}")
    *hidden, last = pairwise(sizes)
    layers: list[nn.Module] = []
    for inputs, outputs in hidden:
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(*last, bias=False))
