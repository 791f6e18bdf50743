"""Starts the processes on a CPU that `accelerate launch` was asked for and leaves out.

`accelerate launch --cpu --num_processes 2 script.py` starts one process and says nothing: accelerate (1.15) leaves it
to MPI to start several on CPUs, so that without MPI two are asked for and one trains. On GPUs it starts them all.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser

import psutil
from accelerate.utils import get_cpu_distributed_information, parse_flag_from_env


def missing_processes() -> int:
    """Counts the processes that are still to be started.

    Returns:
        How many `accelerate launch --cpu --num_processes …` was asked for, if it has started this process alone; 0 if
        nothing is missing.
    """
    # accelerate names a port for the processes to meet at, and whoever starts processes tells them their ranks.
    asked_for_several = parse_flag_from_env("ACCELERATE_USE_CPU") and "MASTER_PORT" in os.environ
    started = "LOCAL_RANK" in os.environ or get_cpu_distributed_information().world_size > 1
    parent = psutil.Process().parent()
    if not asked_for_several or started or parent is None:
        return 0
    # It does not tell this process how many: only its command line says so.
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("processes", "machines"):
        parser.add_argument(f"--num_{name}", f"--num-{name}", type=int, default=1)
    asked, _ = parser.parse_known_args(parent.cmdline())
    return asked.num_processes if asked.num_processes > 1 and asked.num_machines == 1 else 0


def start_missing_processes() -> None:
    """Replaces this process by a launcher of all processes, if some are missing; otherwise returns.

    Call it in a script before the work begins. The processes run the same script with the same arguments, and find a
    free port to meet at.
    """
    count = missing_processes()
    if count:
        print(f"accelerate has started 1 of {count} processes on the CPU; torch.distributed.run starts all", flush=True)
        launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        os.execv(sys.executable, [sys.executable, "-m", *launcher, *sys.argv])
