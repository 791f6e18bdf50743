"""Decode frames of video files, including files whose headers lie. Part of every checkpoint."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .clips_vididi import MIDDLE, frames_at
from .containers_vididi import (
    INSTALL_TORCHCODEC,
    BrokenVideoError,
    check_frame_size,
    decoder_errors,
    open_with,
    source_name,
)

if TYPE_CHECKING:
    from torchcodec.decoders import VideoDecoder

# Pure function from the number of frames of a video to those to read, an array of any shape: integer frame indices, or
# float positions, which are times (see `clips_vididi`).
ChooseFrames = Callable[[int], Tensor | Sequence[int]]

MAX_READ = 4 << 30  # bytes of frames of one read
BATCH = 128 << 20  # bytes of frames that are decoded before they are transformed
MAX_GAP = 10  # seconds between frames; a longer one means that the time stamps of a broadcast jump

# In these, torchcodec finds every frame by its time stamp, and in AVI if the stamp is corrected.
_STORES_DISPLAY_TIMES = ("MP4", "Matroska", "FLV")


class _VideoEndsError(Exception):
    """The video has fewer frames than expected: `args[0]`."""


class _VariableRateError(Exception):
    """The frames are not shown at the times that a constant frame rate implies."""


def open_video(source: Any, num_threads: int = 1) -> "VideoDecoder":
    """Open a video with torchcodec.

    It seeks in exact mode, which scans the packets once. The approximate mode trusts headers and returns wrong frames
    if they lie. FFmpeg reads nothing but the source itself.

    Args:
        source: A path, encoded bytes, a binary file object, the `{"path", "bytes"}` dictionary of `datasets`, or a
            `VideoDecoder`, which is returned unchanged.
        num_threads: Decoding threads. Use 1 in the workers of a data loader; 0 lets FFmpeg choose.

    Raises:
        BrokenVideoError: If the source is not a video, or its frames are too large.
        ImportError: If torchcodec cannot load.
    """
    video_decoder = _torchcodec().VideoDecoder
    if isinstance(source, video_decoder):
        return source
    how = {"num_ffmpeg_threads": num_threads, "seek_mode": "exact"}
    decoder = open_with(lambda content, _: video_decoder(content, **how), source)
    check_frame_size(source_name(source), decoder.metadata.height or 0, decoder.metadata.width or 0)
    return decoder


def _torchcodec() -> Any:
    try:
        return import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError) as error:  # older torchcodec loads FFmpeg here, newer on use
        raise ImportError(INSTALL_TORCHCODEC) from error


class VideoReader:
    """The frames of a video file that can really be decoded. Frame i is the i-th that decoding in order returns.

    *Time stamps:* the reader seeks in MP4, Matroska and FLV. AVI files store when a packet is decoded, not when its
    frame is shown, so with B-frames most stamps are a few frames late. The reader measures the delay of the first
    picture and asks for frames that much later. It decodes in order from the start if a returned time stamp differs, if
    seeking fails, and in all other containers, such as MPEG-TS. *Length:* headers promise frames that do not exist. If
    decoding in order ends early, the reader has the frames chosen again.

    `num_frames` is the number of frames as far as known, `promised_frames` that of the packets or the header, and
    `frame_rate` the average per second, or 0 if unknown. `height` and `width` come from the header. `seeks` tells
    whether the container allows seeking.
    """

    def __init__(self, source: Any, num_threads: int = 1) -> None:
        self._name, self._source, self._threads, self._delay = source_name(source), source, num_threads, 0
        decoder_class, self._container = _torchcodec().VideoDecoder, ""
        opened = source if isinstance(source, decoder_class) else open_with(self._make, source)
        self._decoder: VideoDecoder | None = opened if isinstance(opened, decoder_class) else None
        self.seeks = self._decoder is not None
        facts: Any = opened.metadata if self._decoder is not None else opened.streams[0].metadata
        self.height, self.width = facts.height or 0, facts.width or 0
        check_frame_size(self._name, self.height, self.width)
        rate = facts.average_fps if self.seeks else facts.average_fps_from_header
        self.frame_rate = float(rate or 0)
        self.num_frames = self._count(opened)
        self.promised_frames = max(self.num_frames, facts.num_frames_from_header or 0)
        if self._decoder is not None and self._container in ("AVI", ""):
            try:  # how many frames late the time stamp of the first picture is
                self._delay = self._number_of(self._decoder.get_frame_at(0).pts_seconds)
            except Exception:
                self._decoder = None  # decoding in order may do
            # Where packets are left out, the delay varies.
            periods = self.num_frames * (facts.average_fps_from_header or 0) / (self.frame_rate or 1)
            if self._delay and round(periods) != self.num_frames:
                self._decoder = None
        self._begin: float = (facts.begin_stream_seconds if self.seeks else facts.begin_stream_seconds_from_header) or 0
        # At a constant rate, positions are frame numbers: faster, and right where time stamps are not. torchcodec's
        # "average" of the header is FFmpeg's base rate, in which variable rates have another number of frames.
        self._times: list[float] | None = None
        self._kept: Tensor | None = None
        if self._decoder is not None and not self._delay and self.frame_rate:
            expected = (facts.average_fps_from_header or 0) * (facts.duration_seconds or 0)
            if expected > 0 and abs(expected - self.num_frames) >= 0.5:
                self._use_time_stamps()
        if self.seeks and not self._begin > -1e9:
            fix = "run `ffmpeg -i IN OUT.mp4`"
            raise BrokenVideoError(self._name, f"its first frames have no time stamp: {fix}")
        if not self.seeks:
            self._use_times_of_scan(opened)

    def position_at(self, seconds: float) -> float:
        """Return the position, for `read`, of the picture on the screen at a time of the player."""
        # One millisecond later, because some containers round time stamps to milliseconds.
        return max(0.0, (seconds + 1e-3 - self._begin) * self.frame_rate)

    def position_of(self, frame: int) -> float:
        """Return the position, for `read`, of a frame index."""
        if self._times is None and self._decoder is not None and not self._delay:
            self._use_time_stamps()  # the rate may vary around its average
        if self._times is None or frame >= len(self._times):
            return frame + MIDDLE
        return self.position_at(self._times[frame])

    def read(self, choose: ChooseFrames, transform: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Read the frames that `choose` picks. Each distinct frame is decoded once.

        Args:
            choose: Pure function from the number of frames to an array of frame indices, or of float positions. It is
                called again with a smaller number if the video turns out to be shorter.
            transform: Function from uint8 frames (frames, 3, height, width) to as many frames, which it must treat
                independently. Applied to a few frames at a time, so that full frames do not fill the memory.

        Returns:
            uint8 (*shape of the indices, channels, height, width), RGB, channels last in memory, or what `transform`
            returns, in that shape. Overlapping clips may share memory: do not write to them.

        Raises:
            BrokenVideoError: If the frames cannot be decoded, or need too much memory.
            IndexError: If `choose` picks frames outside the video.
        """
        while True:
            indices = torch.as_tensor(choose(self.num_frames))
            if by_time := indices.is_floating_point():
                if (num_positions := self._num_positions()) != self.num_frames:
                    indices = torch.as_tensor(choose(num_positions))
                indices = self._frames_at(indices)
            numbers = indices.flatten().tolist()
            distinct = sorted(set(numbers))
            if distinct[0] < 0 or distinct[-1] >= self.num_frames:
                asked = f"the frames {distinct[0]} to {distinct[-1]} of {self._name}"
                raise IndexError(f"cannot read {asked}, which has {self.num_frames} frames")
            if self._kept is not None:
                return self._kept[indices]
            try:
                frames = self._decode(distinct, transform, by_time)
            except _VariableRateError:
                self._use_time_stamps()
                continue
            except _VideoEndsError as end:
                (self.num_frames,) = end.args
                if self.num_frames == 0:
                    raise BrokenVideoError(self._name, "its first frame cannot be decoded") from end
                continue
            length = indices.shape[-1] if indices.ndim > 1 else len(numbers)
            return _arrange(frames, distinct, numbers, length).reshape(*indices.shape, *frames.shape[1:])

    def keep_frames(self, transform: Callable[[Tensor], Tensor] | None = None) -> int:
        """Decode all frames, keep what `transform` makes of them in memory, close the file, and return their bytes.

        0, and nothing is kept, if the file is not as its header says: then `read` may choose other frames.
        """
        expected = self.num_frames, self._times
        frames = self.read(lambda count: torch.arange(count) + MIDDLE, transform)
        if (self.num_frames, self._times) != expected:
            return 0
        if self._times is not None:  # regular times need not meet every frame
            frames = self.read(torch.arange, transform)
        self._kept, self._decoder, self._source = frames, None, None
        return frames.nbytes

    def frames(self) -> Iterator[Tensor]:
        """Decode in order and yield all frames, uint8 (3, height, width), up to the first that cannot be decoded."""
        for convert in self._in_order():
            yield self._convert(convert)

    @property
    def frames_at_once(self) -> int:
        """The number of frames that take a moderate amount of memory."""
        return max(1, BATCH // (3 * self.height * self.width))

    def _make(self, content: Any, container: str) -> Any:
        self._container = container
        if container in (*_STORES_DISPLAY_TIMES, "AVI"):
            return _torchcodec().VideoDecoder(content, num_ffmpeg_threads=self._threads, seek_mode="exact")
        return self._demuxer(content, container)

    def _demuxer(self, content: Any, container: str) -> Any:
        if not hasattr(_torchcodec(), "Demuxer"):
            fix = "update torchcodec (`pip install -U torchcodec`) or run `ffmpeg -i IN -c copy OUT.mp4`"
            raise BrokenVideoError(self._name, f"this torchcodec cannot read {container} exactly: {fix}")
        return _torchcodec().Demuxer(content)

    def _count(self, opened: Any) -> int:
        """Count the packets, or the frames if the container cannot be scanned."""
        try:
            count = len(opened) if self.seeks else len(opened.streams[0].scan())
        except Exception:
            count = sum(1 for _ in self._in_order())
        if count == 0:
            raise BrokenVideoError(self._name, "it has no frames")
        return count

    def _use_time_stamps(self) -> None:
        self._times, self._num_at_first = self._time_stamps(), self.num_frames
        self.num_frames = min(self.num_frames, len(self._times))
        if len(set(self._times)) < len(self._times):
            self._decoder = None  # torchcodec seeks by time stamp, so it cannot tell these frames apart

    def _use_times_of_scan(self, demuxer: Any) -> None:
        """Use the time stamps of a container without seeking if they are plausible and the frame rate varies."""
        with suppress(Exception):  # not every file can be scanned
            times = demuxer.streams[0].scan().pts_seconds.sort().values
            steps, rate = times.diff(), (len(times) - 1) / float(times[-1] - times[0])
            off = times - torch.arange(len(times)) / (self.frame_rate or rate)
            varies = (off.max() - off.min()) * rate > 1.5
            if varies and len(times) == self.num_frames and steps.min() > 0 and steps.max() < MAX_GAP:
                self._times, self._begin, self.frame_rate = times.tolist(), float(times[0]), rate
                self._num_at_first = self.num_frames

    def _num_positions(self) -> int:
        """The duration of the frames that exist, in mean frame durations."""
        if self._times is None or self.num_frames == self._num_at_first:
            return self.num_frames
        end = self._times[min(self.num_frames, len(self._times) - 1)]
        return max(1, int((end - self._begin) * self.frame_rate))

    def _time_stamps(self) -> list[float]:
        """The times at which the frames are shown, in their order."""
        if isinstance(self._source, _torchcodec().VideoDecoder) or not hasattr(_torchcodec(), "Demuxer"):
            decoder: Any = self._decoder
            times: list[float] = []
            with suppress(Exception):  # it ends early
                times.extend(decoder.get_frame_at(index).pts_seconds for index in range(self.num_frames))
            if not times:
                raise BrokenVideoError(self._name, "its first frame cannot be decoded")
            return times
        return sorted(open_with(self._demuxer, self._source).streams[0].scan().pts_seconds.tolist())

    def _frames_at(self, positions: Tensor) -> Tensor:
        """The frames, int64, that are on the screen at float positions."""
        if self._times is None:
            return frames_at(positions)
        seconds = self._begin + positions.double() / self.frame_rate
        times = torch.tensor(self._times, dtype=torch.float64)
        return (torch.searchsorted(times, seconds, right=True) - 1).clamp(0, self.num_frames - 1)

    def _number_of(self, seconds: float) -> int:
        assert self._decoder is not None
        return round((seconds - (self._decoder.metadata.begin_stream_seconds or 0)) * self.frame_rate)

    def _decode(self, distinct: list[int], transform: Callable[[Tensor], Tensor] | None, by_time: bool) -> Tensor:
        """Decode frames in ascending order, by seeking if that works."""
        size = self.frames_at_once if transform else len(distinct)
        if not transform and (needed := 3 * self.height * self.width * len(distinct)) > MAX_READ:
            asked = f"{len(distinct)} frames of {self.width} × {self.height} pixels take {needed / 2**30:.1f} GiB"
            fix = "read fewer, or shrink the video with `ffmpeg -i IN -vf scale=-2:360 OUT.mp4`"
            raise BrokenVideoError(self._name, f"{asked}, more than {MAX_READ >> 30}: {fix}")
        parts: list[Tensor] = []
        for start in range(0, len(distinct), size):
            batch = self._seek(distinct[start : start + size], by_time)
            if batch is None:
                parts = []
                break
            parts.append(transform(batch) if transform else batch)
        if not parts:
            batches = self._count_up(distinct, size)
            parts = [transform(batch) if transform else batch for batch in batches]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _seek(self, indices: list[int], by_time: bool) -> Tensor | None:
        """Decode frames by seeking; None if that fails or returns other frames."""
        if self._decoder is None or indices[-1] + self._delay >= len(self._decoder):
            return None
        stamps = [index + self._delay for index in indices]
        try:
            batch = self._decoder.get_frames_at(stamps)
            late = [self._number_of(at) for at in batch.pts_seconds.tolist()] if self._delay else stamps
        except Exception:  # of any type; afterwards the decoder may return other frames, so it is opened again
            is_open = self._decoder is self._source
            self._decoder = None if is_open else open_with(self._make, self._source)
            return None
        if by_time and self._times is None and not self._delay and self.frame_rate:
            off = (batch.pts_seconds - self._begin) * self.frame_rate - torch.tensor(indices)
            if off.abs().max() > 0.5:
                raise _VariableRateError
        return self._as_bytes(batch.data) if late == stamps else None

    def _count_up(self, indices: list[int], size: int) -> Iterator[Tensor]:
        """Decode frames, which are in ascending order, in order from the start, and yield them in batches."""
        count, wanted, batch = 0, set(indices), []
        for convert in self._in_order():
            if count in wanted:
                batch.append(self._convert(convert).movedim(0, -1))
                if len(batch) == size or count == indices[-1]:
                    with decoder_errors(self._name, "its frames differ in size"):
                        frames = torch.stack(batch).movedim(-1, 1)
                    batch = []
                    yield frames
            count += 1
            if count > indices[-1]:
                return
        raise _VideoEndsError(count)

    def _in_order(self) -> Iterator[Callable[[], Tensor]]:
        """For each frame that can be decoded, yield a function that converts it to RGB."""
        if isinstance(self._source, _torchcodec().VideoDecoder):  # no file to open again
            for index in range(len(self._source)):
                try:  # torchcodec does not seek to the frame after the last one, so counting up from 0 is exact
                    frame = self._source.get_frame_at(index).data
                except Exception:
                    return
                yield partial(torch.clone, frame)
            return
        demuxer = open_with(self._demuxer, self._source)
        with decoder_errors(self._name):
            stream, before = demuxer.streams[0], math.inf
            times = stream.scan().pts_seconds.tolist() if self._container in _STORES_DISPLAY_TIMES else []
            decoder = stream.make_decoder(num_ffmpeg_threads=self._threads)
            converter = _torchcodec().ColorConverter()
        steps = chain((partial(decoder.decode, packet) for packet in demuxer), [decoder.drain])
        while True:
            with decoder_errors(self._name):
                try:
                    ready = next(steps)()
                except (StopIteration, RuntimeError, IndexError, ValueError):  # the end, or a damaged packet
                    return
            for raw in ready:
                if bisect_right(times, before) < bisect_left(times, raw.pts_seconds):
                    return  # a frame between them is missing
                before = raw.pts_seconds
                check_frame_size(self._name, raw.height, raw.width)
                yield partial(_rgb, converter, raw)

    def _convert(self, convert: Callable[[], Tensor]) -> Tensor:
        with decoder_errors(self._name):
            return self._as_bytes(convert()[None])[0]

    @staticmethod
    def _as_bytes(frames: Tensor) -> Tensor:
        """A decoder that the user opened may return another format: channels last, or floats in [0, 1]."""
        if frames.is_floating_point():
            frames = (frames * 255).round().to(torch.uint8)
        return frames if frames.shape[1] == 3 else frames.permute(0, 3, 1, 2)


def _rgb(converter: Any, raw: Any) -> Tensor:
    frame: Tensor = converter.convert(raw).data
    return frame


def _arrange(frames: Tensor, distinct: list[int], numbers: list[int], length: int) -> Tensor:
    """Put distinct frames into the order of `numbers`. Clips that are equally distant windows share memory."""
    place = {number: place for place, number in enumerate(distinct)}
    positions = [place[number] for number in numbers]
    distance = positions[length] - positions[0] if len(positions) > length else length
    starts = range(0, distance * len(positions) // length, distance) if distance > 0 else []
    if positions != [start + i for start in starts for i in range(length)]:
        return frames.movedim(1, -1)[positions].movedim(-1, 1)
    step, *within = frames.stride()
    size = (len(starts), length, *frames.shape[1:])
    return frames.as_strided(size, (distance * step, step, *within), frames.storage_offset())
