"""`motion-noise`: disks of noise move over noise that moves the opposite way, as in SpookyBench (arXiv 2505.24867)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vididi_hf.data.seeding import seeded_generator

CELL = 2  # pixels of a side
CELLS = 32  # of a side of a frame
NUM_DISKS = 3
_TONES = (32, 224)

Path2D = tuple[Tensor, Tensor]  # offsets x and y in cells, each (frames,)


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return float(low + (high - low) * torch.rand((), generator=generator))


def _linear(time: Tensor, generator: torch.Generator) -> Tensor:
    sign = int(torch.randint(2, (), generator=generator)) * 2 - 1
    return sign * _uniform(1.5, 2.25, generator) * time


def _wave(time: Tensor, generator: torch.Generator) -> Tensor:
    """A sine of 3 to 5 cells and a period of 8 to 9 frames."""
    amplitude, period = _uniform(3, 5, generator), _uniform(8, 9, generator)
    return amplitude * torch.sin(2 * math.pi * time / period + _uniform(0, 2 * math.pi, generator))


def _diagonal(x: Tensor, generator: torch.Generator) -> Path2D:
    """The same path along both axes, with the same or the opposite sign."""
    return x, x * (int(torch.randint(2, (), generator=generator)) * 2 - 1)


def _orbit(time: Tensor, generator: torch.Generator) -> Path2D:
    radius, period = _uniform(3, 5, generator), _uniform(8, 9, generator)
    sign = int(torch.randint(2, (), generator=generator)) * 2 - 1
    angle = sign * 2 * math.pi * time / period + _uniform(0, 2 * math.pi, generator)
    return radius * torch.cos(angle), radius * torch.sin(angle)


def _jitter(time: Tensor, generator: torch.Generator) -> Path2D:
    x, y = _uniform(2, 2.5, generator) * torch.randn(2, len(time), generator=generator)
    return x, y


MOTIONS: dict[str, Callable[[Tensor, torch.Generator], Path2D]] = {
    "slide": lambda time, generator: (_linear(time, generator), torch.zeros_like(time)),
    "scroll": lambda time, generator: (torch.zeros_like(time), _linear(time, generator)),
    "diagonal": lambda time, generator: _diagonal(_linear(time, generator) / math.sqrt(2), generator),
    "sway": lambda time, generator: (_wave(time, generator), torch.zeros_like(time)),
    "bob": lambda time, generator: (torch.zeros_like(time), _wave(time, generator)),
    "tilt": lambda time, generator: _diagonal(_wave(time, generator), generator),
    "orbit": _orbit,
    "jitter": _jitter,
}


def describe_noise(split: str, index: int, seed: int = 0) -> dict[str, str | int]:
    """Returns the `label` of a video. There is no `background`, so it is 0."""
    return {"label": list(MOTIONS)[index % len(MOTIONS)], "background": 0}


def render_noise(split: str, index: int, seed: int = 0) -> Tensor:
    """Renders video `index` of a split: uint8 (24, 3, CELL · CELLS, CELL · CELLS)."""
    return render_noise_at(torch.arange(24, dtype=torch.float32), split, index, seed)


def render_noise_at(time: Tensor, split: str, index: int, seed: int = 0) -> Tensor:
    """Renders the frames of video `index` at given times (frames,), in twelfths of a second."""
    generator = seeded_generator(f"motion-noise-{split}", seed, index)
    label = str(describe_noise(split, index, seed)["label"])
    # Both shift by whole cells, so the cells of a frame are independent and fair coins wherever the disks are.
    shifts = torch.stack(MOTIONS[label](time, generator), dim=1).round().long().tolist()
    fields = torch.randint(2, (2, CELLS, CELLS), generator=generator)  # of the disks and of the background
    place = torch.arange(CELLS)
    inside = torch.zeros(CELLS, CELLS, dtype=torch.bool)
    for _ in range(NUM_DISKS):
        center, radius = torch.randint(CELLS, (2, 1), generator=generator), _uniform(5, 7, generator)
        y, x = ((place - center + CELLS // 2) % CELLS - CELLS // 2).float()
        inside |= torch.hypot(y[:, None], x[None, :]) <= radius
    frames = []
    for dx, dy in shifts:
        disks, mask = (one.roll((dy, dx), (0, 1)) for one in (fields[0], inside))
        frames.append(torch.where(mask, disks, fields[1].roll((-dy, -dx), (0, 1))))
    cells = torch.tensor(_TONES, dtype=torch.uint8)[torch.stack(frames)]
    pixels = cells.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
    return pixels[:, None].expand(-1, 3, -1, -1).contiguous()
