"""Results in order from several processes; crashing jobs and killed parents. This file is also a program."""

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import psutil
import pytest
import torch

import vididi_hf
from vididi_hf.data.workers import SteadyLoader, leave_process_group, ordered_map


def slow_square(number: int) -> int:
    time.sleep(0.02 * (number % 3))  # so that later jobs are done before earlier ones
    return number * number


def die_on_seven(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return -number


class ProcessGroups(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return os.getpgrp()


def sleep_for_ever(_: int) -> int:
    time.sleep(3600)
    return 0


def sleep_unless_zero(number: int) -> int:
    return sleep_for_ever(number) if number else blocks_interrupts(0)


def blocks_interrupts(_: int) -> int:
    return int(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))


class Blocking(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        return blocks_interrupts(index)


class Failing(Blocking):
    def __init__(self, message: str):
        self.message = message

    def __getitem__(self, index: int) -> int:
        raise RuntimeError(self.message)


def crashed(number: int) -> int:
    return 1000 + number


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """This module, under a name by which other processes find it, too."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("test_workers")


def test_results_come_in_the_order_of_the_jobs(here: ModuleType) -> None:
    squares = [number * number for number in range(20)]
    assert list(ordered_map(slow_square, range(20), 0, crashed)) == squares
    assert list(ordered_map(here.slow_square, range(20), 2, crashed)) == squares


def threads_and_process(_: int) -> tuple[int, int]:
    return torch.get_num_threads(), os.getpid()


def test_workers_are_other_processes_with_one_thread(here: ModuleType) -> None:
    seen = set(ordered_map(here.threads_and_process, range(4), 1, lambda _: (0, 0)))
    assert {threads for threads, _ in seen} == {1}
    assert os.getpid() not in {process for _, process in seen}


def test_jobs_are_taken_as_needed(here: ModuleType) -> None:
    taken = []

    def jobs():
        for number in range(100):
            taken.append(number)
            yield number

    results = ordered_map(here.slow_square, jobs(), 1, crashed)
    assert [next(results), next(results)] == [0, 1]
    assert len(taken) <= 6
    results.close()


def test_a_job_that_kills_its_process_costs_no_other_job_its_result(here: ModuleType) -> None:
    results = list(ordered_map(here.die_on_seven, range(16), 2, crashed))
    assert results == [1007 if number == 7 else -number for number in range(16)]


@pytest.mark.slow  # several processes
def test_workers_end_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "started\n"
    family: list[psutil.Process] = []
    while len(family) < 3:  # the server that forks, its tracker of resources, the worker
        assert parent.poll() is None
        time.sleep(0.05)
        family = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []


def test_workers_of_a_loader_leave_the_group_that_signals_are_sent_to() -> None:
    loader = torch.utils.data.DataLoader(
        ProcessGroups(), batch_size=None, num_workers=2, worker_init_fn=leave_process_group
    )
    groups = set(loader)
    assert len(groups) == 2
    assert os.getpgrp() not in groups


def test_all_data_loaders_of_the_package_let_their_workers_leave() -> None:
    for path in Path(vididi_hf.__file__).parent.rglob("*.py"):
        calls = re.findall(r"\bDataLoader\((?=[^)])", text := path.read_text(encoding="utf-8"))
        assert len(calls) <= text.count("worker_init_fn"), path.name


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks")
def test_workers_never_see_ctrl_c_and_end_when_nobody_waits_for_them(here: ModuleType) -> None:
    assert torch.cat(list(SteadyLoader(Blocking(), num_workers=2))).tolist() == [1, 1]
    before = set(psutil.Process().children(recursive=True))
    results = ordered_map(here.sleep_unless_zero, range(4), 2, crashed)
    assert next(results) == 1
    results.close()  # type: ignore[attr-defined]
    left = set(psutil.Process().children(recursive=True)) - before
    servers = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")
    assert not [process for process in left if not any(name in " ".join(process.cmdline()) for name in servers)]
    assert blocks_interrupts(0) == 0


@pytest.mark.parametrize(
    ("message", "error", "shown"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Bus error.", OSError, "docker run --shm-size=8g"),
        ("unable to write to file </torch_7>: No space left on device (28)", OSError, "/dev/shm is too small"),
        ("shapes differ", RuntimeError, "shapes differ"),
    ],
)
def test_a_small_shared_memory_is_named(message: str, error: type[Exception], shown: str) -> None:
    with pytest.raises(error, match=shown):
        list(SteadyLoader(Failing(message)))


if __name__ == "__main__":

    def announced():
        yield 0
        print("started", flush=True)
        yield from range(10)

    list(ordered_map(sleep_for_ever, announced(), 1, crashed))
