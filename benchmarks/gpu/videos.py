"""Real videos as one small file, and their way to the device.

`prepare` keeps every third frame of each video, the stride of pretraining, as JPEG bytes in a `uint8` array. OpenCV
reads and writes them, so loading needs no video library. On the device, the frames lie in memory as pixels.
"""

from __future__ import annotations

import csv
import json
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vididi_hf.clips_vididi import sample_training_clips, uniform_clips
from vididi_hf.data.augment import ClipAugmentation, random_resized_crop_box
from vididi_hf.data.motion import MOTIONS, render_motion

MOST_BYTES = 40 * 2**20
STRIDE = 3
QUALITIES = (95, 90, 85, 80, 75, 70, 60, 50, 40, 30, 20)


@dataclass
class Videos:
    """Videos in memory: frames uint8 (videos, frames, 3, height, width), padded; their lengths, labels and split."""

    name: str
    frames: Tensor
    lengths: list[int]
    labels: Tensor
    is_train: Tensor


def prepare(folder: str | Path, path: str | Path, processor: str = "this processor") -> dict[str, Any]:
    """Writes the videos of `clips.csv` (columns video, label, split) in a folder, and returns the details.

    Raises:
        FileNotFoundError: If there is no such list.
        ValueError: If a video cannot be read, or the file would be too large.
    """
    with Path(folder, "clips.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    videos = [_read_frames(Path(folder, row["video"])) for row in rows]
    height, width = videos[0][0].shape[:2]
    videos = [[cv2.resize(frame, (width, height)) for frame in video] for video in videos]
    for quality in QUALITIES:
        encoded = [_encode(frame, quality) for video in videos for frame in video]
        if sum(map(len, encoded)) < MOST_BYTES - 2**20:
            break
    else:
        raise ValueError(f"{len(encoded)} frames of {width}×{height} do not fit into {MOST_BYTES >> 20} MiB")
    classes = sorted({row["label"] for row in rows})
    details = {
        "name": Path(folder).resolve().name,
        "videos": len(rows),
        "classes": classes,
        "jpeg_quality": quality,
        "size": [height, width],
        "loader": _time_loader(folder, processor),
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("wb") as file:
        np.savez(
            file,
            jpeg=np.concatenate(encoded),
            sizes=np.array([len(one) for one in encoded], dtype=np.int32),
            lengths=np.array([len(video) for video in videos], dtype=np.int32),
            labels=np.array([classes.index(row["label"]) for row in rows], dtype=np.int32),
            is_train=np.array([row["split"] == "train" for row in rows]),
            details=np.array(json.dumps(details)),
        )
    return details


def _read_frames(path: Path) -> list[np.ndarray]:
    video, frames = cv2.VideoCapture(str(path)), []
    while True:
        found, frame = video.read()
        if not found:
            break
        frames.append(frame)
    if not frames:
        raise ValueError(f"{path} cannot be read: check the file")
    return frames[::STRIDE]


def _encode(frame: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].ravel()


def _time_loader(folder: str | Path, processor: str, seconds: float = 5) -> dict[str, Any] | None:
    """Returns the videos per second of one process of the training loader, or None where its libraries are missing."""
    try:
        from vididi_hf.data.loading import ClipLoader, TrainingClips
        from vididi_hf.data.registry import load_video_dataset

        rows = load_video_dataset(Path(folder, "clips.csv"), split="train")
    except ImportError:
        return None
    torch.set_num_threads(1)
    cut = {"num_frames": 8, "frame_stride": STRIDE, "extra_frames": 2}
    batches = ClipLoader(TrainingClips(rows, augmentation=ClipAugmentation(112), **cut), min(8, len(rows))).epoch(0)
    next(batches)
    start, videos = time.process_time(), 0  # the time of one core, which other processes hardly change
    for batch in batches:
        videos += len(batch["clips"])
        if time.process_time() - start > seconds:
            break
    rate = videos / (time.process_time() - start)
    return {"videos_per_second": rate, "processor": processor} if videos else None


def read_details(path: str | Path) -> dict[str, Any]:
    """Returns the details of prepared videos, or nothing if there are none."""
    if not Path(path).exists():
        return {}
    with np.load(path) as file:
        return json.loads(str(file["details"]))


def load(path: str | Path, device: str) -> Videos:
    """Decodes prepared videos, and puts the frames into the memory of the device."""
    details = read_details(path)
    with np.load(path) as file:
        jpeg, sizes, lengths = file["jpeg"], file["sizes"], file["lengths"].tolist()
        labels, is_train = torch.from_numpy(file["labels"]).long(), torch.from_numpy(file["is_train"])
    ends = np.cumsum(sizes)
    pictures = [cv2.imdecode(jpeg[end - size : end], cv2.IMREAD_COLOR)[..., ::-1] for size, end in zip(sizes, ends)]
    frames = torch.zeros(len(lengths), max(lengths), *details["size"], 3, dtype=torch.uint8)
    first = 0
    for video, length in enumerate(lengths):
        frames[video, :length] = torch.from_numpy(np.stack(pictures[first : first + length]))
        first += length
    return Videos(details["name"], frames.to(device).movedim(-1, -3), lengths, labels, is_train)


def render(num_train: int, num_test: int, device: str) -> Videos:
    """Renders videos of the data set `motion`, which need no file."""
    jobs = [("train", index) for index in range(num_train)] + [("test", index) for index in range(num_test)]
    frames = torch.stack([render_motion(*job) for job in jobs]).to(device)
    labels = torch.tensor([index % len(MOTIONS) for _, index in jobs])
    is_train = torch.tensor([split == "train" for split, _ in jobs])
    return Videos("motion (generated)", frames, [frames.shape[1]] * len(jobs), labels, is_train)


def training_batch(
    videos: Videos, rows: list[int], augmentation: ClipAugmentation, num_frames: int, extra_frames: int, random: Random
) -> Tensor:
    """Returns two augmented clips of each video: uint8 (videos, 2, frames, 3, size, size), made on its device.

    Crop, flip and colors are drawn as for the loader. There is no blur.
    """
    shape = (2, num_frames, 1)
    chosen = [sample_training_clips(videos.lengths[row], *shape, random, extra_frames) for row in rows]
    clips = _take(videos, rows, torch.stack(chosen))
    count, size = len(rows) * 2, augmentation.image_size
    height, width = clips.shape[-2:]
    places, colors = [], []
    for _ in range(count):
        top, left, tall, wide = random_resized_crop_box(height, width, augmentation.area, augmentation.ratio, random)
        flip = -1 if random.random() < augmentation.flip_probability else 1
        x, y = (2 * left + wide) / width - 1, (2 * top + tall) / height - 1
        places.append([[flip * wide / width, 0, x], [0, tall / height, y]])
        colors.append(augmentation._draw_colors(random.random() < augmentation.jitter_probability, random))
    flat = clips.reshape(count, -1, height, width).float()
    grid = F.affine_grid(torch.tensor(places, device=flat.device), [count, 1, size, size], align_corners=False)
    flat = F.grid_sample(flat, grid, padding_mode="border", align_corners=False)
    pixels = flat.unflatten(1, (-1, 3))  # (clips, frames, 3, size, size)
    maps = torch.from_numpy(np.stack([np.eye(3, 4) if one is None else one for one in colors])).to(pixels)
    pixels = torch.einsum("nij,ntjhw->ntihw", maps[:, :, :3], pixels) + maps[:, None, :, 3, None, None]
    return pixels.round_().clamp_(0, 255).to(torch.uint8).unflatten(0, (-1, 2))


def evaluation_batch(videos: Videos, rows: list[int], size: int, num_frames: int, num_clips: int) -> Tensor:
    """Returns clips spread over each video, at the center 7/8 of the short side: uint8 (videos, clips, frames, ...)."""
    clips = _take(
        videos, rows, torch.stack([uniform_clips(videos.lengths[row], num_clips, num_frames, 1) for row in rows])
    )
    height, width = clips.shape[-2:]
    side = round(min(height, width) * 7 / 8)
    top, left = (height - side) // 2, (width - side) // 2
    flat = clips[..., top : top + side, left : left + side].flatten(0, 2).float()
    flat = F.interpolate(flat, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return flat.round_().clamp_(0, 255).to(torch.uint8).unflatten(0, clips.shape[:3])


def _take(videos: Videos, rows: list[int], indices: Tensor) -> Tensor:
    """Returns the frames `indices` (videos, clips, frames) of the videos `rows`."""
    device = videos.frames.device
    return videos.frames[torch.tensor(rows, device=device)[:, None, None], indices.to(device)]
