"""`motion`: generated H.264 videos whose label is the motion and nothing else.

Textured sprites move over a static background in one of eight ways. All else is independent of the label. Train and
test share backgrounds but no sprites. Flips and crops, which training applies, keep every motion.
"""

import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from vididi_hf.data.noise import describe_noise, render_noise
from vididi_hf.data.seeding import seeded_generator
from vididi_hf.decoding_vididi import INSTALL_TORCHCODEC

VERSION = 1  # raise this when a seed gives other pictures, so that no folder mixes the two
SIZE = 64  # pixels, height and width
NUM_FRAMES = 24
FRAME_RATE = 12
NUM_BACKGROUNDS = 24
NUM_SPRITES = {"train": 12, "test": 8}
COPIES_PER_VIDEO = 5

# Offsets x and y in pixels, scale factor and angle in radians, each of shape (frames,). Time counts in 1 / FRAME_RATE.
Trajectory = tuple[Tensor, Tensor, Tensor, Tensor]


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return float(low + (high - low) * torch.rand((), generator=generator))


def _sign(generator: torch.Generator) -> int:
    return int(torch.randint(2, (), generator=generator)) * 2 - 1


def _wave(time: Tensor, generator: torch.Generator) -> Tensor:
    """A sine of unit amplitude, random phase and a period of 8 to 9 frames."""
    period, phase = _uniform(8, 9, generator), _uniform(0, 2 * math.pi, generator)
    return torch.sin(2 * math.pi * time / period + phase)


def _trajectory(time: Tensor, **parts: Tensor) -> Trajectory:
    rest = {"x": 0, "y": 0, "scale": 1, "angle": 0}
    x, y, scale, angle = (parts.get(name, torch.full_like(time, value)) for name, value in rest.items())
    return x, y, scale, angle


def _orbit(time: Tensor, generator: torch.Generator) -> Trajectory:
    radius, period = _uniform(7, 10, generator), _uniform(8, 9, generator)
    angle = _sign(generator) * 2 * math.pi * time / period + _uniform(0, 2 * math.pi, generator)
    return _trajectory(time, x=radius * torch.cos(angle), y=radius * torch.sin(angle))


def _pulse(time: Tensor, generator: torch.Generator) -> Trajectory:
    return _trajectory(time, scale=1 + _uniform(0.25, 0.35, generator) * _wave(time, generator))


def _jitter(time: Tensor, generator: torch.Generator) -> Trajectory:
    amplitude = _uniform(4, 5, generator)
    noise = amplitude * torch.randn(2, NUM_FRAMES, generator=generator)
    x, y = noise[:, time.round().long().clamp(max=NUM_FRAMES - 1)]  # constant around each frame at FRAME_RATE
    return _trajectory(time, x=x, y=y)


MOTIONS: dict[str, Callable[[Tensor, torch.Generator], Trajectory]] = {
    "slide": lambda time, generator: _trajectory(time, x=_sign(generator) * _uniform(3.0, 4.5, generator) * time),
    "scroll": lambda time, generator: _trajectory(time, y=_sign(generator) * _uniform(3.0, 4.5, generator) * time),
    "sway": lambda time, generator: _trajectory(time, x=_uniform(7, 10, generator) * _wave(time, generator)),
    "bob": lambda time, generator: _trajectory(time, y=_uniform(7, 10, generator) * _wave(time, generator)),
    "orbit": _orbit,
    "pulse": _pulse,
    "spin": lambda time, draws: _trajectory(time, angle=_sign(draws) * 2 * math.pi * time / _uniform(9, 11, draws)),
    "jitter": _jitter,
}


def _texture(
    size: int, cells: tuple[int, int], contrast: float, tones: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """A color plus noise of two spatial scales: (3, size, size) in [0, 1]."""
    texture = tones[0] + (tones[1] - tones[0]) * torch.rand(3, 1, 1, generator=generator)
    for cell in cells:
        noise = torch.rand(1, 3, cell, cell, generator=generator) - 0.5
        texture = texture + contrast * F.interpolate(noise, size=(size, size), mode="bicubic", align_corners=False)[0]
    return texture.clamp(0, 1)


@cache
def make_background(index: int, seed: int = 0) -> Tensor:
    """Returns background `index` of the pool that train and test share: (3, SIZE, SIZE), float in [0, 1]."""
    generator = seeded_generator("motion-background", seed, index)
    return _texture(SIZE, (3, 6), contrast=0.4, tones=(0.2, 0.8), generator=generator)


@cache
def make_sprite(split: str, index: int, seed: int = 0) -> Tensor:
    """Returns sprite `index` of a split: (4, 32, 32), color and opacity in [0, 1]."""
    generator = seeded_generator(f"motion-sprite-{split}", seed, index)
    axis = torch.linspace(-1, 1, 32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    # The outline is a blob with 2 or 3 lobes, r(φ) = r0·(1 + a·cos(kφ + φ0)), so that a rotation is visible.
    lobes = int(torch.randint(2, 4, (), generator=generator))
    depth, phase = _uniform(0.3, 0.6, generator), _uniform(0, 2 * math.pi, generator)
    outline = 0.95 / (1 + depth) * (1 + depth * torch.cos(lobes * torch.atan2(y, x) + phase))
    opacity = ((outline - torch.hypot(x, y)) * 12).clamp(0, 1)
    return torch.cat([_texture(32, (2, 6), contrast=0.8, tones=(0, 1), generator=generator), opacity[None]])


def _paint(canvas: Tensor, sprite: Tensor, radius: float, center: tuple[float, float], path: Trajectory) -> Tensor:
    """Composites a moving sprite over frames (frames, 3, SIZE, SIZE). Positions wrap around at the edges."""
    dx, dy, scale, angle = path
    pixels = torch.arange(SIZE) + 0.5
    # Offsets from the sprite's center to every pixel, by the shorter way around: (frames, SIZE).
    x = (pixels - center[0] - dx[:, None] + SIZE / 2).remainder(SIZE) - SIZE / 2
    y = (pixels - center[1] - dy[:, None] + SIZE / 2).remainder(SIZE) - SIZE / 2
    # Turn and scale to the coordinates of the sprite, in which it fills [-1, 1].
    cos, sin = ((part / (radius * scale))[:, None, None] for part in (torch.cos(angle), torch.sin(angle)))
    x, y = x[:, None, :], y[:, :, None]
    grid = torch.stack([cos * x + sin * y, cos * y - sin * x], dim=-1)
    layer = F.grid_sample(sprite.expand(len(grid), -1, -1, -1), grid, align_corners=False)
    return torch.lerp(canvas, layer[:, :3], layer[:, 3:])


def describe_motion(split: str, index: int, seed: int = 0) -> dict[str, str | int]:
    """Returns the `label` and the number of the `background` of a video."""
    generator = seeded_generator(f"motion-appearance-{split}", seed, index)
    background = int(torch.randint(NUM_BACKGROUNDS, (), generator=generator))
    return {"label": list(MOTIONS)[index % len(MOTIONS)], "background": background}


def render_motion(split: str, index: int, seed: int = 0, frame_rate: float = FRAME_RATE) -> Tensor:
    """Renders video `index` of a split: uint8 (2 seconds of frames, 3, SIZE, SIZE), the same motion at any rate."""
    time = torch.arange(round(NUM_FRAMES * frame_rate / FRAME_RATE), dtype=torch.float32) * (FRAME_RATE / frame_rate)
    return render_motion_at(time, split, index, seed)


def render_motion_at(time: Tensor, split: str, index: int, seed: int = 0) -> Tensor:
    """Renders the frames of video `index` at given times (frames,), in 1 / FRAME_RATE seconds."""
    drawn = describe_motion(split, index, seed)
    generator = seeded_generator(f"motion-trajectory-{split}", seed, index)
    canvas = make_background(int(drawn["background"]), seed).expand(len(time), -1, -1, -1)
    label = str(drawn["label"])
    dx, dy, _, angle = MOTIONS[label](time, generator)
    for which in torch.randint(NUM_SPRITES[split], (COPIES_PER_VIDEO,), generator=generator).tolist():
        sprite = make_sprite(split, which, seed)
        radius = _uniform(9, 12, generator)
        # Positions wrap around, so every shift leaves them evenly spread.
        center = (_uniform(0, SIZE, generator), _uniform(0, SIZE, generator))
        resting = _uniform(0, 2 * math.pi, generator)
        # In other motions a sprite has the size of a pulse at some instant, so that one frame does not tell a pulse.
        _, _, sizes, _ = _pulse(time, generator)
        scale = sizes if label == "pulse" else sizes[:1].expand_as(sizes)
        canvas = _paint(canvas, sprite, radius, center, (dx, dy, scale, angle + resting))
    return (canvas * 255).round().to(torch.uint8)


def _write(path: Path, content: bytes) -> None:
    """Writes a file atomically, even if several processes write it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def encode_motion(frames: Tensor, frame_rate: float = FRAME_RATE) -> bytes:
    """Encodes frames as MP4. The same frames always give the same bytes."""
    try:
        from torchcodec.encoders import VideoEncoder

        encoder = VideoEncoder(frames, frame_rate=frame_rate)
    except (ImportError, OSError, RuntimeError) as error:  # older torchcodec loads FFmpeg at import, newer on use
        raise ImportError(INSTALL_TORCHCODEC) from error
    # The bytes depend on the number of threads, and with macroblock trees they differ from call to call.
    reproducible = {"threads": "1", "x264-params": "mbtree=0"}
    codec: dict[str, Any] = {"codec": "libx264", "pixel_format": "yuv420p", "crf": 18, "preset": "veryfast"}
    return encoder.to_tensor(format="mp4", **codec, extra_options=reproducible).numpy().tobytes()


def generate_motion(
    root: str | Path,
    num_train: int = 1200,
    num_test: int = 400,
    seed: int = 0,
    progress: bool = True,
    name: str = "motion",
) -> Path:
    """Writes the videos `root/<split>/<label>/<number>.mp4` and the list `root/clips.csv`, and returns its path.

    `name` is `"motion"` or `"motion-noise"`.
    Existing files are kept: an interrupted call continues, and a larger set extends a smaller one.
    """
    if num_train < 1 or num_test < 1:
        raise ValueError(f"num_train and num_test must be positive, got {num_train} and {num_test}")
    root = Path(root)
    describe, render = (describe_noise, render_noise) if name == "motion-noise" else (describe_motion, render_motion)
    stamp = root / f"{name}.json"
    wanted = {"seed": seed, "version": VERSION}
    if stamp.exists() and (found := json.loads(stamp.read_text(encoding="utf-8"))) != wanted:
        raise ValueError(f"{root} holds {name} videos of {found}; choose another folder for those of {wanted}")
    _write(stamp, json.dumps(wanted).encode())
    jobs = [("train", index) for index in range(num_train)] + [("test", index) for index in range(num_test)]

    def add_video(job: tuple[str, int]) -> dict[str, Any]:
        split, index = job
        drawn = describe(split, index, seed)
        video = Path(split, str(drawn["label"]), f"{index:06d}.mp4")
        if not (root / video).exists():
            _write(root / video, encode_motion(render(split, index, seed)))
        return {"video": video.as_posix(), "split": split, **drawn}

    # Show the bar only if it takes a while: existing files are skipped.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        added = tqdm(pool.map(add_video, jobs), name, len(jobs), unit="video", delay=1, disable=not progress)
        rows = list(added)
    import pandas as pd  # here, because rendering alone needs no table

    table = pd.DataFrame(rows, columns=["video", "label", "split", "background"])
    _write(root / "clips.csv", table.to_csv(index=False, lineterminator="\r\n").encode())
    return root / "clips.csv"
