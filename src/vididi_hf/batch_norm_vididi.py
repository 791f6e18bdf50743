"""BatchNorm with running statistics per derivative order: shared ones fit neither frames nor derivatives later."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class PerOrderBatchNorm3d(nn.BatchNorm3d):
    """The auxiliary BatchNorm of arXiv 1911.09665 with one set of weights; its statistics are (orders, channels)."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, orders: Sequence[int], eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        self.orders = tuple(sorted(orders))
        self.row = 0
        self.running_mean = torch.zeros(len(self.orders), num_features)
        self.running_var = torch.ones(len(self.orders), num_features)

    def forward(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)
        mean, variance = self.running_mean[self.row], self.running_var[self.row]  # views: updated in place
        momentum = 0.0 if self.momentum is None else self.momentum
        return F.batch_norm(hidden, mean, variance, self.weight, self.bias, self.training, momentum, self.eps)


def keep_statistics_per_order(module: nn.Module, orders: Sequence[int]) -> None:
    """Replaces the BatchNorms inside a module. Weights stay; running statistics start anew."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm3d):
            norm = PerOrderBatchNorm3d(child.num_features, orders, child.eps, child.momentum or 0.0)
            norm.weight, norm.bias = child.weight, child.bias
            setattr(module, name, norm)
        else:
            keep_statistics_per_order(child, orders)


class PerOrderSyncBatchNorm(nn.SyncBatchNorm):
    """A [`PerOrderBatchNorm3d`] for a batch on several GPUs; made by `synchronize`."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: PerOrderBatchNorm3d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.orders, self.row = norm.orders, norm.row
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked

    def forward(self, hidden: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var
        self.running_mean, self.running_var = (one[self.row] for one in statistics)  # views: updated in place
        try:
            return super().forward(hidden)
        finally:
            self.running_mean, self.running_var = statistics


def synchronize(module: nn.Module) -> None:
    """Makes the BatchNorms inside a module normalize by the batch of all GPUs and keep their statistics per order."""
    for name, child in module.named_children():
        if isinstance(child, PerOrderBatchNorm3d):
            setattr(module, name, PerOrderSyncBatchNorm(child))
        elif isinstance(child, _BatchNorm):
            setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            synchronize(child)


def row_of(orders: Sequence[int], order: int) -> int:
    """Returns the row of an order's statistics among those of sorted orders, or else that of the next lower one."""
    return max(sum(one <= order for one in orders) - 1, 0)  # torch.compile cannot trace `bisect`


def select_order(module: nn.Module, order: int) -> None:
    """Makes all BatchNorms of a module use the statistics of one derivative order."""
    for child in module.modules():
        if isinstance(child, PerOrderBatchNorm3d | PerOrderSyncBatchNorm):
            row = row_of(child.orders, order)
            if row != child.row:  # an assignment that changes nothing would still show in a traced graph
                child.row = row


def keep_frozen_parts(module: nn.Module) -> None:
    """Puts the frozen parts of a module in evaluation mode, in which they keep their BatchNorm statistics."""
    for child in module.modules():
        own = list(child.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            child.training = False


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keeps the running statistics of a module's BatchNorms, which still normalize by the batch."""
    # `track_running_stats=False` would save other tensors for the backward pass, an error for activation checkpointing.
    norms = [child for child in module.modules() if isinstance(child, _BatchNorm)]
    saved = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, saved):
            norm.momentum, norm.num_batches_tracked = momentum, count
