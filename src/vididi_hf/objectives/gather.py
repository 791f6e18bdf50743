"""Gathering over all processes, with gradients that flow back to the process they came from."""

from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from vididi_hf.objectives.base import paired


def gather_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """Concatenates a tensor over all processes, in rank order, along its first dimension.

    Every process then computes the same loss of the whole batch. The backward pass sums the gradients of all processes
    for a row: `world_size` times the gradient of that loss. `DistributedDataParallel` averages over processes and thus
    leaves exactly the gradient that one process with the whole batch would compute.

    Args:
        tensor: Local rows (rows, ...). Shape and dtype must be the same on every process.

    Returns:
        The rows of all processes (world_size * rows, ...). With a single process, the tensor itself.

    Raises:
        ValueError: On every process, if the number of rows differs between processes.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    # Backends answer unequal sizes with a hang or with garbage. Every call checks: a process that skipped it could not
    # tell that another one's size changed.
    counts = _all_gather(torch.tensor([len(tensor)], device=tensor.device)).tolist()
    if len(set(counts)) > 1:
        found = f"ranks 0 to {len(counts) - 1} hold {counts}: drop or pad the last incomplete batch"
        raise ValueError(f"every process must hold the same number of rows, but {found}")
    return _Gather.apply(tensor)


def gather_views(first: torch.Tensor, second: torch.Tensor, gather: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Gathers the paired embeddings of two views in float32 or wider, with one collective call for both, if wanted."""
    if not gather:
        return first, second
    # In full precision already here, so that the sum of gradients over processes does not lose digits either.
    first, second = gather_with_gradient(torch.stack(paired(first, second), dim=1)).unbind(dim=1)
    return first, second


def _all_gather(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.contiguous()
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    """All-gather whose backward is an all-reduce (sum) followed by taking the own slice."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        rows = len(tensor)
        ctx.own = slice(dist.get_rank() * rows, (dist.get_rank() + 1) * rows)
        return _all_gather(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        # A clone, because the incoming gradient may be shared with other branches of the graph.
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.own]
