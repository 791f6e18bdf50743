"""Decode every frame of a video file, and re-encode the frames that can be decoded."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vididi_hf.data.decoding import BrokenVideoError, VideoReader
from vididi_hf.decoding_vididi import INSTALL_TORCHCODEC, source_name

_FALLBACK_RATE = 30.0  # frames per second, where a file says nothing


@dataclass(frozen=True)
class VideoFacts:
    """What is true of a video, whatever its header says."""

    num_frames: int  # that can be decoded, from the first one on without a gap
    promised_frames: int  # by the header or the packets
    fps: float
    height: int  # of the decoded frames in pixels, after rotation
    width: int
    seeks: bool = True  # whether a reader finds single frames without decoding from the start

    @property
    def is_whole(self) -> bool:
        return self.num_frames >= self.promised_frames


def probe_video(source: Any) -> VideoFacts:
    """Decodes every frame of a video and reports what it found."""
    reader = VideoReader(source)
    num_frames, height, width = 0, 0, 0
    for frame in _frames_of_one_size(reader, source_name(source)):
        num_frames, (height, width) = num_frames + 1, frame.shape[-2:]
    return VideoFacts(num_frames, reader.promised_frames, _frame_rate(reader), height, width, reader.seeks)


def reencode_video(
    source: Any,
    *,
    short_side: int | None = None,
    key_frame_interval: int | None = None,
    crf: int = 18,
    keep_times: bool = True,
) -> tuple[bytes, VideoFacts]:
    """Encodes what can be decoded as H.264 in MP4, always alike: evenly spaced, silent, shrunk to `short_side`.

    With `keep_times`, frames of a variable rate are repeated or left out, so that the picture at each time stays the
    same. Of a damaged file, the times mean nothing.
    """
    reader = VideoReader(source)
    try:
        from torchcodec.encoders import Encoder
    except (ImportError, OSError, RuntimeError) as error:
        raise ImportError(f"re-encoding needs torchcodec 0.13 or newer. {INSTALL_TORCHCODEC}") from error
    rate, ends = _frame_rate(reader), _ends(reader) if keep_times else []
    frames = _frames_of_one_size(reader, source_name(source))
    first = next(frames)
    height, width = _encoded_size(first.shape[-2], first.shape[-1], short_side)
    keys = f":keyint={key_frame_interval}" if key_frame_interval else ""
    encoder = Encoder()
    # Training decodes the file in every epoch. fastdecode omits arithmetic coding and the deblocking filter: at 128
    # lines, decoding takes half the time and files are 6 % larger (benchmarks/README.md).
    # The bytes depend on the number of threads, and with macroblock trees they differ from call to call.
    options = {"tune": "fastdecode", "threads": "1", "x264-params": f"mbtree=0{keys}"}
    codec: dict[str, Any] = {"codec": "libx264", "pixel_format": "yuv420p", "crf": crf, "preset": "veryfast"}
    stream = encoder.add_video(height=height, width=width, frame_rate=rate, **codec, extra_options=options)
    file = io.BytesIO()
    num_frames = 0
    with encoder.open_file_like(file, format="mp4"):
        for index, frame in enumerate(chain([first], frames)):
            end = ends[index] if index < len(ends) else num_frames + 1
            for _ in range(num_frames, end):
                stream.add_frames(_resized(frame, height, width))
            num_frames = max(num_frames, end)
    return file.getvalue(), VideoFacts(num_frames, num_frames, rate, height, width)


def _ends(reader: VideoReader) -> list[int]:
    """Returns the number of evenly spaced frames until each frame leaves the screen."""
    positions = [reader.position_of(frame) for frame in range(reader.num_frames)]
    gaps = [after - before for before, after in pairwise(positions)]
    is_constant = not gaps or max(gaps) < 1.5 * min(gaps)
    starts = list(range(len(positions))) if is_constant else list(map(int, positions))
    return [*starts[1:], starts[-1] + 1] if starts else []


def _frame_rate(reader: VideoReader) -> float:
    return round(reader.frame_rate or _FALLBACK_RATE, 6)  # drops the rounding errors of averages


def _frames_of_one_size(reader: VideoReader, name: str) -> Iterator[Tensor]:
    """Yields uint8 (3, height, width) frames up to the first that cannot be decoded or has another size."""
    size: torch.Size | None = None
    for frame in reader.frames():
        if frame.shape != (size or frame.shape):
            break
        size = frame.shape
        yield frame
    if size is None:
        raise BrokenVideoError(name, "its first frame cannot be decoded")


def _encoded_size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """The size to shrink to, even as 4:2:0 needs it."""
    scale = min(1.0, short_side / min(height, width)) if short_side else 1.0
    half = [size // 2 if scale == 1.0 else round(size * scale / 2) for size in (height, width)]
    return max(2, half[0] * 2), max(2, half[1] * 2)


def _resized(frame: Tensor, height: int, width: int) -> Tensor:
    """(3, H, W) to (1, 3, height, width). An odd last row or column is cut off, not blended into the others."""
    frames = frame[None]
    if frame.shape[-2] - height in (0, 1) and frame.shape[-1] - width in (0, 1):
        return frames[..., :height, :width].contiguous()
    return F.interpolate(frames, size=(height, width), mode="bilinear", antialias=True)
