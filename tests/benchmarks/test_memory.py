"""What `benchmarks/memory.py` counts, and that cached gradients hold the activations of one chunk."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory.py"


@pytest.fixture(scope="module")
def script() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def test_tensors_are_counted_while_they_live(script: SimpleNamespace) -> None:
    before = torch.zeros(1000)
    with script.LiveTensors() as live:
        first = before + 1  # 4,000 bytes
        view = first[10:]
        second = view * 2  # 3,960
        del first, view
        second.add_(1)
    assert live.peak == 4000 + 3960
    assert live.alive == 3960


def test_a_cached_step_peaks_like_a_step_of_its_chunk(script: SimpleNamespace) -> None:
    network = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "image_size": 32, "num_frames": 4}
    arguments = script.MemoryBenchmarkOptions(objective="simclr", **network)
    small, cached, whole = (script.count(arguments, *sizes) for sizes in ((8, 0), (64, 8), (64, 0)))
    assert cached < 1.5 * small
    assert whole > 4 * small
