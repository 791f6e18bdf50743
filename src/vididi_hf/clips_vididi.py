"""Which frames a clip takes. Part of every checkpoint: imports only libraries.

An integer stride gives frame numbers (int64). A float stride gives positions (float64) at equal distances in time: the
times since the first frame, in units of the mean frame duration. `VideoReader` reads them by time stamp.
"""

import warnings
from random import Random

import torch
from torch import Tensor

# A position is just before the middle of a frame, so that neither rounding nor a tie shifts it to another frame.
MIDDLE = 0.49


def frame_step(num_frames: int, frame_rate: float | None, frame_stride: int, frame_interval: float | None) -> float:
    """Returns the distance of sampled frames: float by `frame_interval` if the rate is known, or int by stride."""
    if not frame_interval or not frame_rate:
        return frame_stride
    step = frame_interval * frame_rate
    if (num_frames - 1) * (1 - step) > MIDDLE:
        # The same text for every file, so that Python's default filter shows it once.
        hint = "their clips repeat frames; use a longer frame_interval"
        warnings.warn(f"some videos have less than 1 frame in {frame_interval:g} s: {hint}", stacklevel=2)
    return step


def frames_at(positions: Tensor) -> Tensor:
    """Returns the frames, int64, that are shown at float positions if the frame rate is constant."""
    return positions.floor().long()


def uniform_clips(
    num_video_frames: int, num_clips: int, num_frames: int, stride: float, extra_frames: int = 0
) -> Tensor:
    """Spreads clips evenly over a video; a single clip comes from the center. Shape (clips, frames + extra frames).

    Extra frames do not move a clip; past the end of the video, the last frame repeats. If one clip does not fit, the
    stride shrinks until it does. A video with fewer frames than a clip repeats frames, evenly and in order.
    """
    step = _fitting_step(num_video_frames, num_clips, num_frames, stride, extra_frames)
    room = int(num_video_frames - 1 - (num_frames - 1) * step + 1e-6)
    starts = [clip * room // (num_clips - 1) for clip in range(num_clips)] if num_clips > 1 else [room // 2]
    offsets = torch.arange(num_frames + extra_frames, dtype=torch.float64) * step
    return _positions(torch.tensor(starts)[:, None] + offsets, num_video_frames, stride)


def sample_training_clips(
    num_video_frames: int, num_clips: int, num_frames: int, stride: float, generator: Random, extra_frames: int = 0
) -> Tensor:
    """Samples adjacent clips at a random place, as ViDiDi does (arXiv 2409.02371: 2 clips of 8 frames, stride 3).

    Each clip begins one stride after the last frame of the previous clip; extra frames may overlap the next clip. In a
    short video, clips overlap as little as possible. Shorter videos are treated as in `uniform_clips`, except that the
    extra frames have to fit, too.
    """
    total = num_frames + extra_frames
    step = _fitting_step(num_video_frames, num_clips, total, stride, 0)
    room = num_video_frames - 1 - (total - 1) * step + 1e-6
    distance = num_frames * step
    slack = room - (num_clips - 1) * distance
    if slack < 0:
        starts = [clip * int(room) // (num_clips - 1) for clip in range(num_clips)]
        positions = torch.tensor(starts)[:, None] + torch.arange(total, dtype=torch.float64) * step
    else:
        places = torch.arange(num_clips)[:, None] * num_frames + torch.arange(total)
        positions = generator.randrange(int(slack) + 1) + places * step
    return _positions(positions, num_video_frames, stride)


def centered_clip(
    center: float, num_video_frames: int, num_frames: int, stride: float, extra_frames: int = 0
) -> Tensor:
    """Returns a clip around a key frame, of shape (num_frames + extra_frames,).

    The key frame is frame `num_frames // 2` of the clip. Beyond the ends of the video, the first or last frame
    repeats, as in the protocol of AVA. A `center` of type float is a position, and so are the results.
    """
    step = _fitting_step(num_video_frames, 1, num_frames, stride, extra_frames)
    offsets = torch.arange(num_frames + extra_frames, dtype=torch.float64) - num_frames // 2
    last: float = num_video_frames - 1
    if isinstance(center, float):
        center, stride, last = center - MIDDLE, float(stride), num_video_frames - MIDDLE
    return _positions(min(center, last) + offsets * step, num_video_frames, stride)


def _fitting_step(num_video_frames: int, num_clips: int, num_frames: int, stride: float, extra_frames: int) -> float:
    """The stride, or the largest one with which a clip fits into the video."""
    counts = {"num_video_frames": num_video_frames, "num_clips": num_clips, "num_frames": num_frames}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not stride > 0 or extra_frames < 0:
        raise ValueError(f"stride must be above 0 and extra_frames at least 0, got {stride} and {extra_frames}")
    return min(stride, (num_video_frames - 1) / max(1, num_frames - 1))


def _positions(frames: Tensor, num_video_frames: int, stride: float) -> Tensor:
    # Rounded, so that overlapping clips share positions.
    # The end is after the last frame's middle: at a variable rate, it may be short.
    positions = (frames.double() + MIDDLE).round(decimals=6).clamp(0, num_video_frames - 1e-6)
    return positions if isinstance(stride, float) else frames_at(positions)
