"""Worker processes: results in order, and an end with their parent. Ctrl-C is for the parent alone."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
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
    """Yields the results of jobs in their order; of one that kills its process, as a hostile file can, `crashed`."""
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
                    return _submit(alone, function, job).result()
                except BrokenProcessPool:
                    return crashed(job)

    executor = _executor(num_workers)
    try:
        for job in jobs:
            try:
                waiting.append((job, _submit(executor, function, job)))
            except BrokenProcessPool:
                executor = _executor(num_workers)
                waiting.append((job, _submit(executor, function, job)))
            if len(waiting) >= num_workers * _JOBS_PER_WORKER:
                yield next_result()
        while waiting:
            yield next_result()
    finally:
        if waiting:  # an error or an interrupt: nobody waits for the jobs that are running
            for process in list((executor._processes or {}).values()):
                process.terminate()
        executor.shutdown(cancel_futures=True)


def _executor(num_workers: int) -> ProcessPoolExecutor:
    # A process that has opened decoders or runs threads must not be forked, so fork from a clean one.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(["__main__", __name__])  # import once what all workers import
    resource_tracker.ensure_running()  # starting it unblocks SIGINT
    return ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker)


def _submit(executor: ProcessPoolExecutor, function: Callable[[Job], Result], job: Job) -> Future[Result]:
    with _interrupts_held():  # this may start processes
        return executor.submit(function, job)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Holds SIGINT back meanwhile. Processes that are started inside never get it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    if hasattr(signal, "pthread_sigmask"):  # inherited by the processes, also through a fork server
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, handler)
        if noted:
            signal.raise_signal(signal.SIGINT)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where signals cannot be blocked
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        os._exit(1)


def leave_process_group(worker: int) -> None:
    """A `worker_init_fn` that leaves the group to which schedulers send SIGTERM: the last step needs workers."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


class SteadyLoader(DataLoader):
    """A `DataLoader` whose workers ignore signals for the parent, and which leaves torch's global generator alone."""

    def __init__(self, samples: Any, **how: Any):
        # Without a generator of its own, the loader would advance the global one.
        super().__init__(samples, worker_init_fn=leave_process_group, generator=torch.Generator(), **how)

    def __iter__(self) -> Any:
        with _interrupts_held():
            batches = super().__iter__()
        return _explain_errors(batches, self.num_workers)


def _explain_errors(batches: Iterator[Any], num_workers: int) -> Iterator[Any]:
    try:
        yield from batches
    except (ValueError, OSError) as error:
        name, text = type(error).__name__, str(error)
        if not text.startswith("Caught "):
            raise
        kind = ValueError if isinstance(error, ValueError) else OSError
        raise kind(text.rpartition(f"{name}: ")[2].strip()) from error  # without the worker's traceback
    except RuntimeError as error:
        if not any(word in str(error) for word in ("Bus error", "shared memory", "No space left on device")):
            raise
        raise OSError(
            f"/dev/shm is too small for the batches of {num_workers} workers: enlarge it (docker run --shm-size=8g), "
            "or lower num_workers or batch_size; num_workers 0 does not use it"
        ) from error


def ordered_loader(samples: Dataset, batch_size: int, num_workers: int) -> DataLoader:
    """Loads all samples of a data set once, in order, in lists."""
    return SteadyLoader(samples, batch_size=batch_size, num_workers=num_workers, collate_fn=list)
