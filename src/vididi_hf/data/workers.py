"""Processes that work for this one, and whose results come in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

Job = TypeVar("Job")
Result = TypeVar("Result")

# Enough jobs under way for each process to have a next one, few enough for their results to fit into memory.
_JOBS_PER_WORKER = 4


def ordered_map(
    function: Callable[[Job], Result], jobs: Iterable[Job], num_workers: int, crashed: Callable[[Job], Result]
) -> Iterator[Result]:
    """Applies a function to jobs in several processes and yields the results in the order of the jobs.

    A job that kills its process, as a hostile file can do to a decoder, costs no other job its result. Workers end
    with their parent, also when that is killed.

    Args:
        function: A function of a module, which processes can find by its name; torch uses one thread in it.
        jobs: Taken from as needed, not all at once.
        num_workers: Processes; 0 works in this one.
        crashed: The result of a job that kills its process.

    Example:
        ```python
        >>> from vididi_hf.data.workers import ordered_map
        >>> list(ordered_map(abs, [-2, 1, -3], num_workers=0, crashed=lambda job: 0))
        [2, 1, 3]

        ```
    """
    if num_workers == 0:
        yield from map(function, jobs)
        return
    waiting: deque[tuple[Job, Future[Result]]] = deque()

    def next_result() -> Result:
        job, future = waiting.popleft()
        try:
            return future.result()
        except BrokenProcessPool:  # by this job or by one beside it
            with _executor(1) as alone:
                try:
                    return alone.submit(function, job).result()
                except BrokenProcessPool:
                    return crashed(job)

    executor = _executor(num_workers)
    try:
        for job in jobs:
            try:
                future = executor.submit(function, job)
            except BrokenProcessPool:
                executor = _executor(num_workers)
                future = executor.submit(function, job)
            waiting.append((job, future))
            if len(waiting) >= num_workers * _JOBS_PER_WORKER:
                yield next_result()
        while waiting:
            yield next_result()
    finally:
        executor.shutdown(cancel_futures=True)


def _executor(num_workers: int) -> ProcessPoolExecutor:
    # Forked from a clean process: one that has opened decoders, or runs threads, must not be forked.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(["__main__", __name__])  # what all workers import is imported once
    return ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def leave_process_group(worker: int) -> None:
    """Puts a worker of a `DataLoader` into a process group of its own; to be its `worker_init_fn`.

    Schedulers and launchers send SIGTERM to a whole group. The training process then finishes its step and saves, for
    which its workers must not have died of the same signal. They end with it, as they do in any case.

    Args:
        worker: The number that the loader gives it.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def ordered_loader(samples: Dataset, batch_size: int, num_workers: int) -> DataLoader:
    """Builds the loader of an evaluation: all samples once and in order, in batches that are lists.

    Args:
        samples: A map-style data set whose samples depend on nothing but their number.
        batch_size: Samples in a list.
        num_workers: Processes; 0 works in this one.
    """
    return DataLoader(
        samples,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=list,
        worker_init_fn=leave_process_group,
        # Seeds the workers, which draw nothing; an own one keeps an evaluation from advancing torch's global one.
        generator=torch.Generator(),
    )
