"""Worker processes whose results come in order."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

Job = TypeVar("Job")
Result = TypeVar("Result")

# Enough jobs that no process waits, and few enough that their results fit into memory.
_JOBS_PER_WORKER = 4


def ordered_map(
    function: Callable[[Job], Result], jobs: Iterable[Job], num_workers: int, crashed: Callable[[Job], Result]
) -> Iterator[Result]:
    """Applies a function to jobs in several processes and yields the results in the order of the jobs.

    A job that kills its process, as a hostile file can, costs no other job its result; `crashed` returns its own.
    Workers use one torch thread and end with their parent. 0 workers run the function in this process.
    """
    if num_workers == 0:
        yield from map(function, jobs)
        return
    waiting: deque[tuple[Job, Future[Result]]] = deque()

    def next_result() -> Result:
        job, future = waiting.popleft()
        try:
            return future.result()
        except BrokenProcessPool:  # this job or another one killed a process
            with _executor(1) as alone:
                try:
                    return alone.submit(function, job).result()
                except BrokenProcessPool:
                    return crashed(job)

    executor = _executor(num_workers)
    try:
        for job in jobs:
            try:
                waiting.append((job, executor.submit(function, job)))
            except BrokenProcessPool:
                executor = _executor(num_workers)
                waiting.append((job, executor.submit(function, job)))
            if len(waiting) >= num_workers * _JOBS_PER_WORKER:
                yield next_result()
        while waiting:
            yield next_result()
    finally:
        executor.shutdown(cancel_futures=True)


def _executor(num_workers: int) -> ProcessPoolExecutor:
    # A process that has opened decoders or runs threads must not be forked, so fork from a clean one.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(["__main__", __name__])  # import once what all workers import
    return ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        os._exit(1)


def leave_process_group(worker: int) -> None:
    """A `worker_init_fn` that puts a `DataLoader` worker into its own process group.

    Schedulers send SIGTERM to a whole group, and the training process still needs its workers to finish its step.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def ordered_loader(samples: Dataset, batch_size: int, num_workers: int) -> DataLoader:
    """Loads all samples of a data set once, in order, in lists."""
    # Without a generator of its own, the loader would advance torch's global one.
    running: dict[str, Any] = {"worker_init_fn": leave_process_group, "generator": torch.Generator()}
    return DataLoader(samples, batch_size, num_workers=num_workers, collate_fn=list, **running)
