"""Renders `docs/gpu.md` from the newest result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .parts import DETAILED

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "gpu.md"

INTRODUCTION = """\
# GPU check

One command checks the package on a CUDA GPU within ten minutes:

```bash
python benchmarks/gpu_check.py --prepare --videos path/to/videos       # once, on any machine with FFmpeg
python benchmarks/gpu_check.py --minutes 8 --output benchmarks/results/gpu-2026-11-28.json
python benchmarks/gpu_check.py --render                                # updates this page
```

It runs in a checkout with torch, torchvision, transformers, accelerate and OpenCV. It needs no data-set
library, no FFmpeg and no network. `pytest` is optional. Without a GPU, a small run takes a minute:

```bash
python benchmarks/gpu_check.py --device cpu --minutes 1
```

The check has three stages:

1. **Correctness.** It compares the GPU with double precision on the CPU, and half precision with full precision. It
   also checks losses, BatchNorm, NCCL, gradient caching, resuming, compilation, and the tests marked `gpu`.
2. **Speed.** It measures step time, videos per second and peak memory of R3D-18 with 8 frames of 112².
3. **Evidence.** In the remaining time, it pretrains with and without ViDiDi and reports R@1 and 20-NN.

Each part has a time limit. If a part fails, the others still run. The command writes each result as soon as it is
known, and ends with status 1 if a part failed.

The first command packs the videos of `clips.csv` (columns `video`, `label`, `split`) into `runs/gpu_videos.npz`. It
keeps every third frame as JPEG, at most 40 MiB in total, and times the training loader. Without this file, the evidence
is skipped.

## Result

"""
UNITS = (
    "Differences are relative, and bounds apply to them. `relative` is the time relative to the bare network. A video "
    "is two clips. Accuracies are between 0 and 1.\n"
)


def newest_result(folder: Path = RESULTS) -> dict[str, Any] | None:
    """Returns the newest `gpu-<date>.json`, or None."""
    paths = sorted(folder.glob("gpu-*.json"))
    return json.loads(paths[-1].read_text(encoding="utf-8")) if paths else None


def render(report: dict[str, Any] | None) -> str:
    """Returns the page of a report, or the page that says that the check was not run."""
    if report is None:
        return INTRODUCTION + "Not run yet.\n"
    machine = report["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "cuda", "cudnn") if name in machine)
    where = f"{machine.get('device', machine.get('processor', 'CPU'))}, {machine.get('cores', '?')} CPU cores"
    lines = [f"{report['date']}, {where}, {versions}, {report['minutes']:g} minutes.", ""]
    rows = [
        {"Part": part["title"], "Status": part["status"], "Seconds": part["seconds"], "Note": _note(part)}
        for part in report["parts"].values()
    ]
    lines += _table(rows)
    for name in DETAILED:
        part = report["parts"].get(name, {"rows": {}})
        if part["rows"]:
            lines += ["", f"### {part['title']}", ""]
            lines += _table([{"": row, **values} for row, values in part["rows"].items()])
    return INTRODUCTION + "\n".join([*lines, "", UNITS])


def _note(part: dict[str, Any]) -> str:
    """The reason, or the row closest to its bound."""
    if part.get("reason"):
        return part["reason"].replace("|", "/")
    if "tests" in part["rows"]:
        return ", ".join(f"{number} {what}" for what, number in part["rows"]["tests"].items() if what != "ok")
    bounds = {name: row for name, row in part["rows"].items() if "bound" in row}
    if not bounds:
        return ""
    name, row = max(bounds.items(), key=lambda item: item[1]["value"] / max(item[1]["bound"], 1e-30))
    return f"{len(bounds)} differences; closest to its bound: {name}, {_show(row['value'])} of {_show(row['bound'])}"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_show(row.get(name, "")) for name in names] for row in rows]
    return [f"| {' | '.join(line)} |" for line in [names, ["---"] * len(names), *cells]]


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def write_page() -> Path:
    """Writes `docs/gpu.md`."""
    PAGE.write_text(render(newest_result()), encoding="utf-8")
    return PAGE
