"""Equal batches for every process, epoch by epoch, from any step on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from vididi_hf.data.seeding import seeded_generator
from vididi_hf.data.workers import leave_process_group

Batch = TypeVar("Batch")
Asked = TypeVar("Asked")

SampleKey = tuple[int, int]
"""(epoch, index of the row): all that a worker needs to know to make a training sample."""


class EpochSampler(Sampler[Asked]):
    """What the batches of one rank are asked for, in an order that is a pure function of (seed, epoch).

    Every video comes once an epoch; where the last global batch would be short, it is filled up from the beginning of
    the same epoch's order, so that all processes have equally many equal batches and no video is left out.

    Args:
        num_samples: The number of videos.
        batch_size: Videos per batch of *one* rank.
        seed: The seed of the order.
        rank: This process.
        world_size: All processes.

    Raises:
        ValueError: If there are fewer videos than one global batch needs.
    """

    def __init__(self, num_samples: int, batch_size: int, *, seed: int = 0, rank: int = 0, world_size: int = 1):
        if num_samples < batch_size * world_size:
            raise ValueError(
                f"the data set has {num_samples} videos, fewer than one global batch: "
                f"batch_size {batch_size} × {world_size} processes; lower batch_size"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.first_step = 0

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Chooses the epoch, and the step to start at, of the next iteration."""
        self.epoch, self.first_step = epoch, first_step

    @property
    def steps_per_epoch(self) -> int:
        """Batches of a whole epoch, wherever iteration starts."""
        return -(-self.num_samples // (self.batch_size * self.world_size))

    def __len__(self) -> int:
        return self.steps_per_epoch - self.first_step

    @abstractmethod
    def __iter__(self) -> Iterator[Asked]:
        """Yields what each batch is made of, from the chosen step on."""


class EpochBatches(EpochSampler[list[SampleKey]]):
    """Batches of sample keys in an order without structure, for videos of which any can be had at any time."""

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = torch.randperm(self.num_samples, generator=seeded_generator("order", self.seed, self.epoch))
        global_batch = self.batch_size * self.world_size
        order = torch.cat([order, order[: self.steps_per_epoch * global_batch - self.num_samples]])
        for step in range(self.first_step, self.steps_per_epoch):
            first = step * global_batch + self.rank * self.batch_size
            yield [(self.epoch, index) for index in order[first : first + self.batch_size].tolist()]


class EpochLoader(Generic[Batch]):
    """Yields the batches of one epoch, from any step on.

    Args:
        samples: What is loaded.
        batches: Their order; also given to the `DataLoader`, by one of `how`.
        collate: Makes a batch of samples.
        num_workers: Worker processes; 0 loads in this process.
        pin_memory: Put batches in page-locked memory, from which a GPU copies while it computes.
        **how: Further arguments of the `DataLoader`.
    """

    def __init__(
        self,
        samples: Dataset,
        batches: EpochSampler,
        collate: Callable[[Any], Batch],
        *,
        num_workers: int,
        pin_memory: bool,
        **how: Any,
    ):
        self.batches = batches
        self._loader = DataLoader(
            samples,
            collate_fn=collate,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            worker_init_fn=leave_process_group,
            # No draw depends on torch's global generator; an own one keeps iteration from advancing it.
            generator=torch.Generator(),
            **how,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Batches of a whole epoch."""
        return self.batches.steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Iterates over the batches of an epoch, from `first_step` on."""
        self.batches.set_epoch(epoch, first_step)
        return iter(self._loader)
