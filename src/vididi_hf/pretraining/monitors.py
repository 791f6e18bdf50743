"""What a run writes down about itself: running means, the metrics file, the videos that could not be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from vididi_hf.files import write_text

METRICS_FILE = "metrics.jsonl"


class RunningMeans:
    """Means of named scalars since the last reset, kept on the device: reading them, not adding, waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, scalars: dict[str, Tensor]) -> None:
        """Adds one step's scalars; what a name means is the mean over the steps that had it."""
        for name, value in scalars.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """Returns the means as numbers; empty if nothing was added."""
        if not self._sums:
            return {}
        sums = torch.stack(list(self._sums.values())).tolist()
        return {name: total / self._counts[name] for name, total in zip(self._sums, sums)}

    def reset(self) -> None:
        """Forgets everything."""
        self._sums, self._counts = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Returns what `load_state_dict` goes on from."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        """Goes on from what `state_dict` returned, on a device."""
        self._sums = {name: total.to(device) for name, total in state["sums"].items()}
        self._counts = dict(state["counts"])


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, in the order of the run, whatever trackers are used besides.

    Args:
        output_dir: The run's folder.
        keep_until: The number of steps the run continues from. Later lines come from steps that a resumed run takes
            again, and are dropped; 0 starts an empty file.
    """

    def __init__(self, output_dir: str | Path, keep_until: int = 0):
        self.path = Path(output_dir) / METRICS_FILE
        kept = [row for row in read_metrics(output_dir) if row["total_steps"] <= keep_until] if keep_until else []
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row, which must have the key `total_steps`."""
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read_metrics(output_dir: str | Path) -> list[dict[str, Any]]:
    """Reads the rows of a run's `metrics.jsonl`; none if there is no such file.

    A last line that a kill cut off is left out.

    Raises:
        ValueError: If another line is no JSON.
    """
    path = Path(output_dir) / METRICS_FILE
    if not path.exists():
        return []
    *whole, _ = path.read_text().split("\n")  # what follows the last line break is empty, or cut off
    return [json.loads(line) for line in whole]


def merge_broken(broken: dict[str, str]) -> dict[str, str]:
    """Merges the broken videos that each process has met; all processes must call this, and all get the result."""
    merged: dict[str, str] = {}
    for part in gather_object([broken]):
        merged |= part
    return merged
