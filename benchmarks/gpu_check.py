#!/usr/bin/env python
"""Checks the package on a GPU: correctness, speed, and evidence that ViDiDi helps. See docs/gpu.md.

python benchmarks/gpu_check.py --prepare                                # packs real videos into one file
python benchmarks/gpu_check.py --minutes 8 --output gpu.json            # on a machine with a CUDA GPU
python benchmarks/gpu_check.py --device cpu --minutes 1                 # a small run without a GPU
python benchmarks/gpu_check.py --render                                 # writes docs/gpu.md from benchmarks/results/

This process imports neither torch nor the package. The parts run in another one, which may crash.
"""

import argparse
import datetime
import json
import os
import sys
from pathlib import Path
from typing import Any

from gpu.page import write_page
from gpu.parts import PARTS
from gpu.runner import Context, run_parts
from machine import processor_name


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, names = parser.add_argument, [part.name for part in PARTS]
    add("--minutes", type=float, default=8.0, help="Time of the whole check (default: 8).")
    add("--output", default="gpu.json", help="JSON file of the results, written after each row (default: gpu.json).")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="The CPU runs a small version (default: cuda).")
    add("--parts", nargs="+", choices=names, default=names, metavar="PART", help=f"Only these of {' '.join(names)}.")
    add("--prepare", action="store_true", help="Only pack the videos of --videos into --prepared.")
    add("--videos", default="../shared/data/jhmdb", help="Folder of videos with clips.csv: video, label, split.")
    add("--prepared", default="runs/gpu_videos.npz", help="The packed videos (default: runs/gpu_videos.npz).")
    add("--render", action="store_true", help="Only write docs/gpu.md from the newest benchmarks/results/gpu-*.json.")
    return parser


def check(options: argparse.Namespace) -> dict[str, Any]:
    """Runs the parts, and returns the report."""
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # so that nothing takes the GPU
        os.environ["OMP_NUM_THREADS"] = "1"  # tiny networks are slower, by far, if threads wait for each other
    else:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # makes matrix products deterministic
    report: dict[str, Any] = {
        "schema": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "minutes": options.minutes,
        "machine": {"processor": processor_name()},
        "parts": {},
    }

    def save() -> None:
        unfinished = Path(f"{options.output}.part")
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(options.output)

    context = Context(options.device, options.prepared, small=options.device == "cpu")
    run_parts([part for part in PARTS if part.name in options.parts], context, options.minutes, report, save)
    return report


def main() -> None:
    """Prepares, renders or checks."""
    options = build_parser().parse_args()
    if options.render:
        print(f"wrote {write_page()}")
    elif options.prepare:
        from gpu.videos import prepare

        try:
            print(f"wrote {options.prepared}: {prepare(options.videos, options.prepared, processor_name())}")
        except (OSError, ValueError) as error:
            sys.exit(f"gpu_check.py: error: {error}")
    else:
        report = check(options)
        if "error" in report["machine"]:
            sys.exit(f"gpu_check.py: error: {report['machine']['error']}")
        bad = [name for name, part in report["parts"].items() if part["status"] not in ("ok", "skipped")]
        print(f"wrote {options.output}: {', '.join(bad) + ' failed' if bad else 'no part failed'}")
        sys.exit(bool(bad))


if __name__ == "__main__":
    main()
