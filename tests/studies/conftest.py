"""The smallest study: three arms, one seed, two videos of each class to train on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from studies.grid import Grid, read_grid
from studies.runs import Run

NET = {
    "hidden_sizes": [4, 4, 8, 8],
    "depths": [1, 1, 1, 1],
    "num_frames": 4,
    "frame_stride": 1,
    "image_size": 32,
    "projector_sizes": [8, 8],
    "epochs": 1,
    "batch_size": 8,
    "optimizer": "adamw",
    "learning_rate": 0.03,
    "evaluate_epochs": 1,
    "num_workers": 0,
}
DATASETS = {"clips": {"dataset": "clips.csv", "recipe": NET, "probes": ["background"], "validation": {"share": 0.5}}}
GRID = {
    "about": "Three arms",
    "datasets": ["clips"],
    "seeds": [0],
    "arms": {
        "untrained": {"recipe": {"order_schedule": "baseline"}, "train": False},
        "VICReg": {"recipe": {"order_schedule": "baseline"}},
        "VICReg + ViDiDi": {"recipe": {"order_schedule": "paper"}},
    },
    "comparisons": [["VICReg + ViDiDi", "VICReg"]],
    "evaluation": {"inputs": ["frames", "both"], "num_clips": 1, "linear": False},
}


@dataclass(frozen=True)
class TinyStudy:
    """A grid in a folder, on the smallest `motion` set."""

    path: Path
    data: Path

    def declare(self, **changes: Any) -> Path:
        """Writes the grid with some fields changed."""
        self.path.write_text(json.dumps({**GRID, **changes}))
        return self.path

    def grid(self, **changes: Any) -> Grid:
        return read_grid(self.declare(**changes))

    def plan(self, output_dir: Path, **changes: Any) -> list[Run]:
        return self.grid(**changes).plan(output_dir, self.data)


@pytest.fixture
def tiny_study(tmp_path: Path, motion_root: Path) -> TinyStudy:
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "datasets.json").write_text(json.dumps(DATASETS))
    study = TinyStudy(folder / "tiny.json", motion_root)
    study.declare()
    return study
