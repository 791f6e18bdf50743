"""Decode frames of video files, including files whose headers lie. Part of every checkpoint."""

import math
import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .clips_vididi import MIDDLE, nearest_frames

if TYPE_CHECKING:
    from torchcodec.decoders import VideoDecoder

INSTALL_TORCHCODEC = (
    "torchcodec could not load, so no video can be read. It needs the libraries of FFmpeg 4 to 9 (`apt-get install "
    "ffmpeg`, `conda install -c conda-forge ffmpeg`, `brew install ffmpeg`) and must fit the installed torch "
    "(`pip install -U torchcodec`)."
)

# Pure function from the number of frames of a video to those to read, an array of any shape: integer frame indices, or
# float positions at the mean frame rate (see `clips_vididi`).
ChooseFrames = Callable[[int], Tensor | Sequence[int]]

# (offset, bytes) at the start of MP4/MOV and Matroska/WebM, the containers that store when each frame is shown.
_STORES_DISPLAY_TIMES = ((4, b"ftyp"), (0, b"\x1a\x45\xdf\xa3"))


class BrokenVideoError(ValueError):
    """A video that cannot be read: `source` is its name, `reason` what is wrong, in a few words."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)  # both in `args`, so that the error survives pickling
        self.source, self.reason = source, reason

    def __str__(self) -> str:
        return f"cannot read the video {self.source}: {self.reason}"


def open_video(source: Any, num_threads: int = 1) -> "VideoDecoder":
    """Open a video with torchcodec.

    It seeks in exact mode, which scans the packets once. The approximate mode trusts headers and returns wrong frames
    if they lie.

    Args:
        source: A path, encoded bytes, a binary file object, the `{"path", "bytes"}` dictionary of `datasets`, or a
            `VideoDecoder`, which is returned unchanged.
        num_threads: Decoding threads. Use 1 in the workers of a data loader; 0 lets FFmpeg choose.
    """
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:  # older torchcodec loads FFmpeg here, newer on use
        raise ImportError(INSTALL_TORCHCODEC) from error
    if isinstance(source, VideoDecoder):
        return source
    name, source = source_name(source), _content(source)
    if isinstance(source, (str, os.PathLike)):
        source = os.fspath(source)
        if not os.path.exists(source):
            raise BrokenVideoError(name, "there is no such file")
        if os.path.isdir(source):
            raise BrokenVideoError(name, "it is a folder")
        empty = os.path.getsize(source) == 0
    elif isinstance(source, (bytes, bytearray, memoryview)):
        source = bytes(source)
        empty = not source
    else:
        empty = source.seek(0, os.SEEK_END) == 0
        source.seek(0)
    if empty:
        raise BrokenVideoError(name, "it is empty")
    try:
        return VideoDecoder(source, num_ffmpeg_threads=num_threads, seek_mode="exact")
    except (RuntimeError, ValueError) as error:
        if "load libtorchcodec" in str(error):
            raise ImportError(INSTALL_TORCHCODEC) from error
        reasons = {"video stream": "it has no video stream", "seek file to pts": "it has no frames"}
        damaged = "it is not a video that FFmpeg can read, or its header is damaged"
        reason = next((reason for part, reason in reasons.items() if part in str(error)), damaged)
        raise BrokenVideoError(name, reason) from error


def source_name(source: Any) -> str:
    """Name a video source in messages, by its path if it has one."""
    if isinstance(source, dict) and (source.get("path") is not None or source.get("bytes") is not None):
        return source_name(source["bytes"] if source.get("path") is None else source["path"])
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    if hasattr(source, "get_frames_at") or (hasattr(source, "read") and hasattr(source, "seek")):
        return str(getattr(source, "name", f"<{type(source).__name__}>"))
    possible = "a path, bytes, a binary file object, a dictionary with `path` or `bytes`, or a torchcodec VideoDecoder"
    raise TypeError(f"cannot read a video from {type(source).__name__}: pass {possible}")


class VideoReader:
    """The frames of a video file that can really be decoded.

    *Time stamps:* AVI files store when a packet is decoded, not when its frame is shown, so with B-frames most stamps
    are a few frames late. The reader measures the delay of the first picture and asks for frames that much later. If a
    returned time stamp differs, it decodes in order from the start. *Length:* headers promise frames that do not exist.
    When a frame fails, the reader finds out how many precede it and has the frames chosen again.

    `num_frames` is the number of frames as far as known, and `frame_rate` the average per second, or 0 if unknown.
    """

    def __init__(self, source: Any, num_threads: int = 1) -> None:
        self._decoder = open_video(source, num_threads)
        self._name = source_name(source)
        self.frame_rate = float(self._decoder.metadata.average_fps or 0)
        try:  # how many frames late the time stamp of the first picture is
            first = None if _stores_display_times(source) else self._decoder.get_frame_at(0)
        except (RuntimeError, IndexError) as error:
            raise BrokenVideoError(self._name, "its first frame cannot be decoded") from error
        self._delay = 0 if first is None else self._number_of(first.pts_seconds)
        self.num_frames = max(1, len(self._decoder) - self._delay)
        # At a constant rate, positions are frame numbers: faster, and right where time stamps are not. torchcodec's
        # "average" of the header is FFmpeg's base rate, in which variable rates have another number of frames.
        facts = self._decoder.metadata
        expected = (facts.average_fps_from_header or 0) * (facts.duration_seconds or 0)
        self._by_time = expected > 0 and not self._delay and abs(expected - len(self._decoder)) >= 0.5

    def position_at(self, seconds: float) -> float:
        """Return the position, for `read`, of the picture on the screen at a time of the player."""
        # One millisecond later, because some containers round time stamps to milliseconds.
        since_start = seconds + 1e-3 - (self._decoder.metadata.begin_stream_seconds or 0)
        return max(0.0, since_start * self.frame_rate - MIDDLE)

    def position_of(self, frame: int) -> float:
        """Return the position, for `read`, of a frame index."""
        if not self._by_time or frame >= self.num_frames:
            return float(frame)
        try:
            return self.position_at(self._decoder.get_frame_at(frame).pts_seconds)
        except RuntimeError as error:
            raise BrokenVideoError(self._name, f"its frame {frame} cannot be decoded") from error

    def read(self, choose: ChooseFrames) -> Tensor:
        """Read the frames that `choose` picks. Each distinct frame is decoded once.

        Args:
            choose: Pure function from the number of frames to an array of frame indices, or of float positions. It is
                called again with a smaller number if the video turns out to be shorter.

        Returns:
            uint8 (*shape of the indices, channels, height, width), RGB, channels last in memory. Overlapping clips may
            share memory: do not write to them.
        """
        while True:
            indices = torch.as_tensor(choose(self.num_frames))
            if indices.is_floating_point() and not self._by_time:
                indices = nearest_frames(indices)
            numbers = indices.flatten().tolist()
            distinct = sorted(set(numbers))
            if distinct[0] < 0 or distinct[-1] >= self.num_frames:
                asked = f"the frames {distinct[0]} to {distinct[-1]} of {self._name}"
                raise IndexError(f"cannot read {asked}, which has {self.num_frames} frames")
            try:
                frames = self._windows(distinct, numbers, indices.shape[-1] if indices.ndim > 1 else len(numbers))
                frames = self._decode(numbers) if frames is None else frames
                return frames.reshape(*indices.shape, *frames.shape[-3:])
            except RuntimeError as error:
                self.num_frames = self._frames_before_failure(distinct, error)

    def _number_of(self, seconds: float) -> int:
        return round((seconds - (self._decoder.metadata.begin_stream_seconds or 0)) * self.frame_rate)

    def _windows(self, distinct: list[float], numbers: list[float], length: int) -> Tensor | None:
        """Decode clips that are equally distant windows of their distinct frames, without copies; None for others."""
        place = {number: place for place, number in enumerate(distinct)}
        positions = [place[number] for number in numbers]
        distance = positions[length] - positions[0] if len(positions) > length else length
        starts = range(0, distance * len(positions) // length, distance) if distance > 0 else []
        if positions != [start + i for start in starts for i in range(length)]:
            return None
        frames = self._decode(distinct)
        step, *within = frames.stride()
        size = (len(starts), length, *frames.shape[1:])
        return frames.as_strided(size, (distance * step, step, *within), frames.storage_offset())

    def _decode(self, indices: list[float]) -> Tensor:
        frames = self._seek(indices)
        if frames is None:
            # torchcodec does not seek to the frame after the last one, so counting up from 0 is exact.
            in_order = ((index, self._decoder.get_frame_at(index).data) for index in range(max(indices) + 1))
            found = {index: frame for index, frame in in_order if index in indices}
            frames = torch.stack([found[index] for index in indices])
        # A decoder that the user opened may return another format: channels last, or floats in [0, 1].
        if frames.is_floating_point():
            frames = (frames * 255).round().to(torch.uint8)
        return frames if frames.shape[1] == 3 else frames.permute(0, 3, 1, 2)

    def _seek(self, indices: list[float]) -> Tensor | None:
        """Decode frames by seeking; None if that returns other frames."""
        if isinstance(indices[0], float):
            begin = self._decoder.metadata.begin_stream_seconds or 0
            seconds = [begin + (position + MIDDLE) / self.frame_rate for position in indices]
            return self._decoder.get_frames_played_at(seconds).data
        if not self._delay:
            return self._decoder.get_frames_at(indices).data
        stamps = [index + self._delay for index in indices]
        try:
            batch = self._decoder.get_frames_at(stamps)
        except RuntimeError:
            return None
        found = [self._number_of(seconds) for seconds in batch.pts_seconds.tolist()]
        return batch.data if found == stamps else None

    def _is_readable(self, index: float) -> bool:
        with suppress(RuntimeError):
            self._decode([index])
            return True
        return False

    def _frames_before_failure(self, indices: list[float], error: RuntimeError) -> int:
        """Find the first unreadable frame by bisection."""
        readable = -1
        for index in indices:
            if not self._is_readable(index):
                break
            readable = index
        else:
            raise BrokenVideoError(self._name, f"its frames cannot be decoded together ({error})") from error
        between = range(int(readable) + 1, math.ceil(index))
        kind = type(index)  # float for positions
        unreadable = between.start + bisect_left(between, True, key=lambda frame: not self._is_readable(kind(frame)))
        if unreadable == 0:
            raise BrokenVideoError(self._name, "its first frame cannot be decoded") from error
        return unreadable


def _content(source: Any) -> Any:
    return (
        source if not isinstance(source, dict) else source["path"] if source.get("bytes") is None else source["bytes"]
    )


def _stores_display_times(source: Any) -> bool:
    """Whether the container stores when each frame is shown. Unknown for an open decoder."""
    source = _content(source)
    head = bytes(source[:8]) if isinstance(source, (bytes, bytearray, memoryview)) else b""
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb", buffering=0) as file:
            head = file.read(8)
    return any(head[offset:].startswith(magic) for offset, magic in _STORES_DISPLAY_TIMES)
