"""Names the processor that numbers belong to."""

import platform
from pathlib import Path


def processor_name() -> str:
    """Returns the name of the processor as Linux knows it, or else what Python says."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
