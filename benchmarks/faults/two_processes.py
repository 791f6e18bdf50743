#!/usr/bin/env python
"""Starts every command that writes a folder twice, kills the first one, and starts it again at once.

python benchmarks/faults/two_processes.py
"""

import os
import signal
import tempfile
import time
from pathlib import Path

from common import CALLS, log_of, make_inputs, start


def main() -> None:
    """Counts the second processes that end with a line that names the first, and the third ones that go on."""
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_inputs(folder)
        for name in CALLS:
            if name == "evaluate":  # writes one file at the end
                continue
            output = folder / name
            first = start(name, output)
            while first.is_alive() and not any(lock.stat().st_size for lock in output.glob(".*.lock")):
                time.sleep(0.001)
            os.kill(first.pid, signal.SIGSTOP)  # so that it does not end too early
            before = time.monotonic()
            second = start(name, output)
            second.join(60)
            seconds, line = time.monotonic() - before, (log_of(output) or [""])[-1]
            named = second.exitcode == 2 and f"in use by process {first.pid} on" in line
            os.kill(first.pid, signal.SIGKILL)
            first.join()
            second.kill()
            third = start(name, output, resume=True)
            third.join()
            bad += not (named and third.exitcode == 0)
            found = f"the second named the first: {named}, after {seconds:.1f} s; after a kill: {third.exitcode}"
            print(f"{name}: {found}", flush=True)
    raise SystemExit(bad)


if __name__ == "__main__":
    main()
