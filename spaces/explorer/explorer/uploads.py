"""Reads uploaded videos within limits."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from vididi_hf.clips_vididi import uniform_clips
from vididi_hf.data.decoding import VideoReader, open_video
from vididi_hf.video_processing_vididi import BrokenVideoError

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
        about = open_video(path).metadata
        rate, width, height = about.average_fps or 0, about.width or 0, about.height or 0
        seconds = about.duration_seconds or (about.num_frames or 0) / (rate or 30)
        if seconds > MAX_SECONDS:
            raise RefusedVideoError(f"{path.name} lasts {seconds:.0f} seconds. {_TAKES}")
        if width * height > MAX_PIXELS:
            raise RefusedVideoError(f"{path.name} has {width} × {height} pixels. {_TAKES}")
        reader = VideoReader(path, num_threads=0)
        clips = reader.read(lambda length: uniform_clips(length, num_clips, num_frames, frame_stride))
    except BrokenVideoError as error:
        raise RefusedVideoError(f"{path.name} cannot be read: {error.reason}.") from error
    return clips, f"{reader.num_frames} frames of {width} × {height} pixels, {rate:.3g} per second"
