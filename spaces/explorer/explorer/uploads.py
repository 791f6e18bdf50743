"""Reads uploaded videos within limits."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from vididi_hf.data.decoding import VideoReader
from vididi_hf.video_processing_vididi import BrokenVideoError, uniform_clips

MAX_MEGABYTES = 50
MAX_SECONDS = 60
MAX_PIXELS = 1920 * 1080
LIMITS = f"at most {MAX_SECONDS} seconds, {MAX_MEGABYTES} MB and 1920 × 1080 pixels"
_TAKES = f"The explorer accepts videos of {LIMITS}."


class RefusedVideoError(ValueError):
    """A rejected video. The message tells the user why, and what the limits are."""


def read_upload(path: str | Path, num_clips: int, num_frames: int, frame_stride: int) -> tuple[Tensor, str]:
    """Decodes clips spread evenly over a video file, and no other frames.

    Returns:
        uint8 (num_clips, num_frames, 3, height, width), and one line about the file.

    Raises:
        RefusedVideoError: If the file is not a video or exceeds the limits.

    Example:
        >>> import tempfile, torch
        >>> from torchcodec.encoders import VideoEncoder
        >>> from explorer.uploads import read_upload
        >>> with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        ...     VideoEncoder(torch.zeros(40, 3, 48, 64, dtype=torch.uint8), frame_rate=20).to_file(file.name)
        ...     clips, facts = read_upload(file.name, num_clips=2, num_frames=8, frame_stride=3)
        >>> clips.shape, facts
        (torch.Size([2, 8, 3, 48, 64]), '40 frames of 64 × 48 pixels, 20 per second')
    """
    path = Path(path)
    megabytes = path.stat().st_size / 1e6 if path.exists() else 0
    if megabytes > MAX_MEGABYTES:
        raise RefusedVideoError(f"{path.name} has {megabytes:.0f} MB. {_TAKES}")
    try:
        reader = VideoReader(path, num_threads=0)
        rate, width, height = reader.frame_rate, reader.width, reader.height
        seconds = reader.num_frames / (rate or 30)
        if seconds > MAX_SECONDS:
            raise RefusedVideoError(f"{path.name} lasts {seconds:.0f} seconds. {_TAKES}")
        if width * height > MAX_PIXELS:
            raise RefusedVideoError(f"{path.name} has {width} × {height} pixels. {_TAKES}")
        clips = reader.read(lambda length: uniform_clips(length, num_clips, num_frames, frame_stride))
    except BrokenVideoError as error:
        raise RefusedVideoError(f"{path.name} cannot be read: {error.reason}.") from error
    return clips, f"{reader.num_frames} frames of {width} × {height} pixels, {rate:.3g} per second"
