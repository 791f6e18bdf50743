"""What the numbers belong to, and a state of torch that no earlier part has changed."""

from __future__ import annotations

import gc
import os
import platform
import sys
from importlib.metadata import version
from typing import Any

import torch
from accelerate.state import AcceleratorState


def describe_machine(device: str) -> dict[str, Any]:
    """Returns the device, the processor and the versions, or an `error`."""
    if device == "cuda" and not torch.cuda.is_available():
        return {"error": "there is no CUDA GPU: use --device cpu for a small run"}
    found: dict[str, Any] = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in ("torchvision", "transformers", "accelerate")},
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "device": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def start_afresh() -> None:
    """Frees memory, and sets what parts change to torch's defaults."""
    torch.manual_seed(0)
    if "torch._dynamo" in sys.modules:  # importing it takes seconds
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
    AcceleratorState._reset_state(reset_partial_state=True)
    use_tf32(True)
    torch.backends.cudnn.deterministic = False
    free_memory()


def free_memory() -> None:
    """Returns unused memory to the GPU, and forgets the peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def use_tf32(allowed: bool) -> None:
    """Allows TF32 in convolutions (torch's default), or forbids it everywhere."""
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = False


def synchronize() -> None:
    """Waits for the GPU, before and after everything that is timed."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
