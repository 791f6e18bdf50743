"""Runs the parts of a check in a process of their own, so that one that crashes or hangs does not stop the others."""

from __future__ import annotations

import importlib
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

Values = dict[str, Any]
Row = tuple[str, Values]
Report = dict[str, Any]

FULL_RUN = 8 * 60  # seconds of the run that the limits of the parts are for
SHORTEST_LIMIT = 20  # seconds, for short runs
GRACE = 5  # seconds that a part may overrun before its process is killed


class Skipped(Exception):
    """A part cannot run here; the message says why."""


@dataclass
class Context:
    """What a part knows: the device, whether sizes are small, the prepared videos, and how much time is left."""

    device: str
    videos: str
    small: bool = False
    deadline: float = 0.0
    results: dict[str, dict[str, Values]] = field(default_factory=dict)  # of the parts before, by name

    def left(self) -> float:
        """Seconds until the part should be over."""
        return self.deadline - time.time()


@dataclass(frozen=True)
class Part:
    """A part: its name and title, `module:function` of the generator of its rows, and its limit in seconds."""

    name: str
    title: str
    function: str
    limit: float

    def rows(self, context: Context) -> Iterator[Row]:
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module, __package__), name)(context)


class Worker:
    """The process of the parts. It imports everything when it starts."""

    def __init__(self, context: Context) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(theirs, context), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process closes the pipe

    def receive(self, until: float) -> Any:
        """Returns the next message. Raises a TimeoutError, or an EOFError if the process has died."""
        if not self.pipe.poll(max(0.0, until - time.time())):
            raise TimeoutError
        return self.pipe.recv()

    def close(self) -> None:
        """Asks the process to end, or kills it if it does not listen."""
        with suppress(OSError):
            self.pipe.send(None)
        self.process.join(GRACE)
        self.process.kill()
        self.process.join()


def serve(pipe: Connection, context: Context) -> None:
    """The program of a worker: runs the parts that it is asked for, and sends their rows."""
    from .machine_state import describe_machine, start_afresh

    pipe.send(describe_machine(context.device))
    start_afresh()
    while (asked := pipe.recv()) is not None:
        part, context.deadline, context.results = asked
        failed, poisoned, end = [], False, {"status": "ok"}
        try:
            for row, values in part.rows(context):
                pipe.send((row, values))
                if values.get("ok") is False:
                    failed.append(row)
            if failed:
                end = {"status": "failed", "reason": f"beyond the bound: {', '.join(failed)}"}
        except Skipped as reason:
            end = {"status": "skipped", "reason": str(reason)}
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            text = " ".join(str(error).split())[:300]
            end = {"status": "failed", "reason": f"{type(error).__name__}: {text} ({last.filename}:{last.lineno})"}
            # After such an error, every further call fails, so the parts that follow need a new process.
            poisoned = "CUDA error" in text or "NCCL" in text
        pipe.send((None, end))
        if poisoned:
            return
        start_afresh()


def run_parts(parts: list[Part], context: Context, minutes: float, report: Report, save: Callable[[], object]) -> None:
    """Runs the parts in turn, writes their rows into the report, and saves it after each row."""
    end = time.time() + 60 * minutes
    worker: Worker | None = None
    for part in parts:
        found: dict[str, Any] = {"title": part.title, "status": "stopped", "rows": {}}
        report["parts"][part.name] = found
        start, ended = time.time(), False
        try:
            if start >= end:
                found |= {"status": "skipped", "reason": "no time left"}
            else:
                if worker is None:
                    worker = Worker(context)
                    report["machine"] |= worker.receive(end)
                    if "error" in report["machine"]:
                        break
                start = time.time()
                deadline = end
                if part.limit and not context.small:  # a small run shares its machine, so only its end is a limit
                    deadline = min(start + max(part.limit * 60 * minutes / FULL_RUN, SHORTEST_LIMIT), end)
                results = {name: one["rows"] for name, one in report["parts"].items()}
                worker.pipe.send((part, deadline, results))
                while True:
                    row, values = worker.receive(deadline + GRACE)
                    if row is None:
                        found |= values
                        break
                    found["rows"][row] = values
                    save()
        except TimeoutError:
            ended = True
            found["reason"] = f"stopped after {time.time() - start:.0f} s"
            if context.small:  # the time of the whole run is over, which is no fault of the part
                found |= {"status": "skipped", "reason": "no time left"}
        except (EOFError, OSError):
            ended = True
            found |= {"status": "died", "reason": "the process ended before the part did"}
        if worker is not None and (ended or not worker.process.is_alive()):
            worker.close()
            worker = None
        found["seconds"] = round(time.time() - start, 1)
        print(f"{part.title}: {found['status']} ({found['seconds']} s) {found.get('reason', '')}", flush=True)
        save()
    if worker is not None:
        worker.close()
