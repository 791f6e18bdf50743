"""Which frames a clip takes: pure functions of integers. `uniform_clips` is shared with the video processor."""

from random import Random

from torch import Tensor

from vididi_hf.video_processing_vididi import clip_indices, clip_span, looped_stride, uniform_clips

__all__ = ["sample_training_clips", "uniform_clips"]


def sample_training_clips(
    num_video_frames: int, num_clips: int, num_frames: int, stride: int, generator: Random, extra_frames: int = 0
) -> Tensor:
    """Samples adjacent clips at a random place, as ViDiDi does (arXiv 2409.02371: 2 clips of 8 frames, stride 3).

    Each clip begins one stride after the last frame of the previous clip; extra frames may overlap the next clip. In a
    short video, clips overlap as little as possible. A video that is too short for one clip is played in a loop.
    """
    room = num_video_frames - clip_span(num_video_frames, num_clips, num_frames, stride, extra_frames)
    slack = room - (num_clips - 1) * num_frames * stride
    if slack >= 0:
        first, distance = generator.randrange(slack + 1), num_frames * stride
        starts = [first + clip * distance for clip in range(num_clips)]
    elif room >= 0:
        starts = [clip * room // (num_clips - 1) for clip in range(num_clips)]
    else:
        stride = looped_stride(num_video_frames, stride)
        starts = [clip * num_frames * stride for clip in range(num_clips)]
    return clip_indices(starts, num_video_frames, num_frames + extra_frames, stride)
