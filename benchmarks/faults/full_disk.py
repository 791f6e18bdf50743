#!/usr/bin/env python
"""Runs every command on disks of many sizes that it fills, and checks what is left (Linux, needs user namespaces).

python benchmarks/faults/full_disk.py --sizes 20
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from common import CALLS, log_of, make_inputs, start
from PIL import Image

from vididi_hf.options import Options, option, parse_options


@dataclass(kw_only=True)
class DiskOptions(Options):
    """The options of the test."""

    sizes: int = option(default=20, at_least=1, help="Disk sizes per command.")


def used(folder: Path) -> int:
    """Returns the KiB that a folder takes."""
    return sum(-(-path.stat().st_size // 4096) * 4 for path in folder.rglob("*") if path.is_file())


def rest(folder: Path) -> list[str]:
    """Names what is wrong with the files that a command left."""
    found = []
    for path in folder.rglob("*"):
        if path.name.endswith(".part"):
            found.append("half-written")
        elif path.name == "config.json" and not (path.parent / "model.safetensors").is_file():
            found.append("config without weights")
        elif path.suffix == ".json":
            found += [] if _is_json(path) else ["damaged JSON"]
        elif path.suffix == ".png":
            Image.open(path).verify()
    return found


def _is_json(path: Path) -> bool:
    try:
        return json.loads(path.read_text(encoding="utf-8")) is not None
    except ValueError:
        return False


def main() -> None:
    """Fills the disks."""
    options = parse_options(DiskOptions, description=__doc__)
    if "FULL_DISK" not in os.environ:  # a namespace in which anyone may mount
        command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, *sys.argv]
        raise SystemExit(subprocess.run(command, env={**os.environ, "FULL_DISK": "1"}, check=False).returncode)
    bad: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_inputs(folder)
        for name in CALLS:
            start(name, folder / f"{name}-whole").join()
            needed, statuses = used(folder / f"{name}-whole"), Counter()
            disk = folder / name
            disk.mkdir()
            for number in range(options.sizes):
                size = max(16, needed * (number + 1) // (options.sizes + 1))
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], check=True)
                process = start(name, disk)
                process.join()
                statuses[process.exitcode] += 1
                lines = [line for line in log_of(disk) if line.strip()]
                faults = rest(disk)
                if process.exitcode == 2 and not any(str(disk) in line for line in lines[-1:]):
                    faults.append("no path")
                if process.exitcode not in (0, 2):
                    faults.append("traceback")
                if faults:
                    print(name, f"{size} KiB", set(faults), *lines[-1:], sep="; ", flush=True)
                bad.update({f"{name}: {fault}" for fault in faults})
                subprocess.run(["umount", disk], check=True)
            print(f"{name}: {options.sizes} disks of up to {needed} KiB, exit statuses {dict(statuses)}", flush=True)
    print(f"faults: {dict(bad)}")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
