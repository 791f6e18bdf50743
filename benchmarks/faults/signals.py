#!/usr/bin/env python
"""Presses Ctrl-C at random moments of every command, and counts what is left; then runs the command to its end.

python benchmarks/faults/signals.py --trials 20 --output signals.json
"""

import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import CALLS, alive_after, family, log_of, make_inputs, start
from tqdm.auto import tqdm

from vididi_hf.evaluation.results import write_report
from vididi_hf.options import Options, option, parse_options


@dataclass(kw_only=True)
class SignalOptions(Options):
    """The options of the test."""

    trials: int = option(default=20, at_least=1, help="Interrupts per command.")
    seed: int = option(default=0, help="Seed of the moments.")
    output: str = option(default="signals.json", help="JSON file of the results.")


def interrupt(name: str, output: Path, delay: float) -> dict[str, Any] | None:
    """Sends SIGINT to the group of a command after a delay; None if the command has ended before."""
    process = start(name, output)
    process.join(delay)
    if not process.is_alive():
        return None
    children = family(process)
    before = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    process.join(60)
    seconds = time.monotonic() - before
    status, lines = process.exitcode, log_of(output)
    process.kill()
    faults = {
        "status": status not in (0, 130),  # 0: the command was about to end
        "traceback": any("Traceback" in line for line in lines),
        "not one line": status == 130 and not any("interrupted; " in x or "continue with" in x for x in lines[-1:]),
        "orphan": alive_after(children, 6) > 0,
        "shared memory": any(str(one.pid) in name for one in [process, *children] for name in os.listdir("/dev/shm")),
        "half-written": bool(list(output.rglob("*.part"))) if output.exists() else False,
    }
    resumed = start(name, output, resume=True)
    resumed.join(300)
    faults["does not continue"] = resumed.exitcode != 0
    return {"delay": delay, "seconds": seconds, "status": status, "faults": [x for x, found in faults.items() if found]}


def main() -> None:
    """Interrupts all commands."""
    options = parse_options(SignalOptions, description=__doc__)
    draw = random.Random(options.seed)
    trials: dict[str, list[dict[str, Any]]] = {name: [] for name in CALLS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_inputs(folder)
        for name in CALLS:
            before = time.monotonic()
            start(name, folder / f"{name}-whole").join()
            longest = time.monotonic() - before
            for number in tqdm(range(options.trials), desc=name, unit="interrupt"):
                output, trial = folder / f"{name}-{number}", None
                while trial is None:
                    shutil.rmtree(output, ignore_errors=True)
                    trial = interrupt(name, output, draw.uniform(0.1, 0.95) * longest)
                trials[name].append(trial)
                if trial["faults"]:
                    print(name, trial, *log_of(output)[-5:], sep="\n  ")
                write_report(options.output, {"trials": trials})
    for name, found in trials.items():
        faults = Counter(fault for trial in found for fault in trial["faults"])
        slowest, clean = max(trial["seconds"] for trial in found), sum(not trial["faults"] for trial in found)
        print(f"{name}: {clean} of {len(found)} clean, slowest {slowest:.1f} s, {dict(faults)}")


if __name__ == "__main__":
    main()
