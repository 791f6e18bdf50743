"""Leaving in good order when asked to: schedulers send SIGTERM, and a while later what cannot be caught."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator

PREEMPTED = 128 + signal.SIGTERM
"""Exit status of a run that was asked to stop, has saved where it is, and can be resumed: 143, as a shell reports the
signal itself."""


class StopRequest:
    """Notes SIGTERM instead of dying of it, while its context lasts.

    Signals reach the processes of a run at different times, and sometimes only one of them. `agreed` is therefore a
    collective call: all processes learn in the same step that one of them was asked to stop. They agree over CPUs, so
    that a GPU's queue never has to run empty for it.

    In a thread that is not the main one no signal can be noted, and SIGTERM does what it did before.

    Args:
        accelerator: Knows the processes.

    Example:
        ```python
        >>> import os, signal
        >>> from accelerate import Accelerator
        >>> from vididi_hf.pretraining.preemption import StopRequest
        >>> with StopRequest(Accelerator(cpu=True)) as stop:
        ...     before = stop.agreed()
        ...     os.kill(os.getpid(), signal.SIGTERM)
        ...     print(before, stop.agreed())
        False True

        ```
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._asked = False
        self._group: Any = dist.new_group(backend="gloo") if accelerator.num_processes > 1 else None
        self._previous: Any = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def agreed(self) -> bool:
        """Whether any process has been asked to stop; all must call this, and all get the same answer."""
        if self._group is None:
            return self._asked
        asked = torch.tensor(int(self._asked))
        dist.all_reduce(asked, dist.ReduceOp.MAX, group=self._group)
        return bool(asked)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
