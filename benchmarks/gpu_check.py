#!/usr/bin/env python
"""Checks the package on a GPU: correctness, speed, and evidence that ViDiDi helps. See docs/gpu.md.

python benchmarks/gpu_check.py --prepare                                # packs real videos into one file
python benchmarks/gpu_check.py --minutes 8 --output gpu.json            # on a machine with a CUDA GPU
python benchmarks/gpu_check.py --device cpu --minutes 1                 # a small run without a GPU
python benchmarks/gpu_check.py --render                                 # writes docs/gpu.md from benchmarks/results/
"""

import datetime
import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any

from gpu.page import write_page
from gpu.parts import PARTS
from gpu.runner import Context, run_parts
from machine import processor_name
from vididi_hf.files import write_text
from vididi_hf.options import Options, errors_in_one_line, option, parse_options


@dataclass(kw_only=True)
class GPUCheckOptions(Options):
    """The options of the check."""

    minutes: float = option(default=8.0, at_least=0.1, help="Time of the whole check.")
    output: str = option(default="gpu.json", help="JSON file of the results, written after each row.")
    device: str = option(default="cuda", choices=("cuda", "cpu"), help="The CPU runs a small version.")
    parts: list[str] | None = option(
        default=None, choices=tuple(part.name for part in PARTS), help="Only these parts, for a second look."
    )
    prepare: bool = option(default=False, help="Only pack the videos of --videos into --prepared.")
    videos: str = option(default="../shared/data/jhmdb", help="Folder of videos with clips.csv: video, label, split.")
    prepared: str = option(default="runs/gpu_videos.npz", help="The packed videos.")
    render: bool = option(default=False, help="Only write docs/gpu.md from the newest benchmarks/results/gpu-*.json.")


def check(options: GPUCheckOptions) -> dict[str, Any]:
    """Runs the parts, and returns the report."""
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # so that nothing below takes the GPU
    else:
        import torch

        if not torch.cuda.is_available():
            raise ValueError("there is no CUDA GPU: use --device cpu for a small run")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # makes matrix products deterministic
    report: dict[str, Any] = {
        "schema": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "minutes": options.minutes,
        "options": asdict(options),
        "machine": {"processor": processor_name()},
        "parts": {},
    }
    context = Context(options.device, options.prepared, small=options.device == "cpu")
    parts = [part for part in PARTS if options.parts is None or part.name in options.parts]
    run_parts(parts, context, options.minutes, report, lambda: write_text(options.output, json.dumps(report, indent=1)))
    return report


def main() -> None:
    """Prepares, renders or checks."""
    options = parse_options(GPUCheckOptions, description=__doc__)
    with errors_in_one_line("gpu_check.py"):
        if options.render:
            print(f"wrote {write_page()}")
        elif options.prepare:
            from gpu.videos import prepare

            details = prepare(options.videos, options.prepared, processor_name())
            print(f"wrote {options.prepared}: {details}")
        else:
            report = check(options)
            bad = [name for name, part in report["parts"].items() if part["status"] not in ("ok", "skipped")]
            print(f"wrote {options.output}: {', '.join(bad) + ' failed' if bad else 'no part failed'}")
            sys.exit(bool(bad))


if __name__ == "__main__":
    main()
