"""Reads uploaded videos within limits."""

from __future__ import annotations

import multiprocessing
import os
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from vididi_hf.clips_vididi import uniform_clips
from vididi_hf.data.decoding import VideoReader
from vididi_hf.video_processing_vididi import BrokenVideoError

MAX_MEGABYTES = 50
MAX_SECONDS = 60
MAX_FRAMES = 3600
MAX_PIXELS = 1920 * 1080
MAX_CPU_SECONDS, MAX_WAIT = 10, 60  # of one request: of computing, and until its answer
LIMITS = f"at most {MAX_SECONDS} seconds, {MAX_FRAMES} frames, {MAX_MEGABYTES} MB and 1920 × 1080 pixels"
_TAKES = f"The explorer accepts videos of {LIMITS}."


class RefusedVideoError(ValueError):
    """A rejected video. The message tells the user why, and what the limits are."""


def read_in_time(path: str | Path, *options: int) -> tuple[Tensor, str]:
    """Calls `read_upload` in a process of its own, which a hostile file may crash or keep busy until it is killed."""
    receiver, sender = _FORKS.Pipe(duplex=False)
    process = _FORKS.Process(target=_read_alone, args=(sender, Path(path), options), daemon=True)
    process.start()
    sender.close()
    try:
        answer = receiver.recv() if receiver.poll(MAX_WAIT) else None
    except EOFError:  # the process has ended
        answer = None
    finally:
        process.kill()
        process.join()
        receiver.close()
    if answer is None:
        took = f"takes more than {MAX_CPU_SECONDS} seconds to decode, or crashes the decoder"
        raise RefusedVideoError(f"{Path(path).name} {took}. {_TAKES}")
    if isinstance(answer, Exception):
        raise answer
    clips, facts = answer
    return torch.from_numpy(clips), facts


# A process that runs threads must not be forked, so fork from a clean one that has imported this module.
_FORKS = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
if hasattr(os, "fork"):
    _FORKS.set_forkserver_preload(["__main__", __name__])


def start_reader() -> None:
    """Imports what the reading processes need, which takes seconds, before the first upload."""
    if hasattr(os, "fork"):
        forkserver.ensure_running()


def _read_alone(sender: Connection, path: Path, options: tuple[int, ...]) -> None:
    with suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS))
        os.nice(5)  # answers that are already decoded go first
    torch.set_num_threads(1)
    try:
        clips, facts = read_upload(path, *options)
        sender.send((clips.contiguous().numpy(), facts))
    except Exception as error:  # the parent raises it
        sender.send(error)


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
        reader = VideoReader(path, num_threads=2)
        rate, width, height = reader.frame_rate, reader.width, reader.height
        seconds = reader.num_frames / (rate or 30)
        if seconds > MAX_SECONDS:
            raise RefusedVideoError(f"{path.name} lasts {seconds:.0f} seconds. {_TAKES}")
        if reader.num_frames > MAX_FRAMES:
            raise RefusedVideoError(f"{path.name} has {reader.num_frames} frames. {_TAKES}")
        if width * height > MAX_PIXELS:
            raise RefusedVideoError(f"{path.name} has {width} × {height} pixels. {_TAKES}")
        clips = reader.read(lambda length: uniform_clips(length, num_clips, num_frames, frame_stride))
    except BrokenVideoError as error:
        raise RefusedVideoError(f"{path.name} cannot be read: {error.reason}.") from error
    return clips, f"{reader.num_frames} frames of {width} × {height} pixels, {rate:.3g} per second"
