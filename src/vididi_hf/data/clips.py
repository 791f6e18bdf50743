"""Which frames a clip takes: pure functions on integers.

`uniform_clips`, which evaluation and the video processor share, lives in `video_processing_vididi`.
"""

from random import Random

from torch import Tensor

from vididi_hf.video_processing_vididi import clip_indices, clip_span, looped_stride, uniform_clips

__all__ = ["sample_training_clips", "uniform_clips"]


def sample_training_clips(
    num_video_frames: int,
    num_clips: int,
    num_frames: int,
    stride: int,
    generator: Random,
    extra_frames: int = 0,
) -> Tensor:
    """Sample adjacent, non-overlapping clips at a random place, as ViDiDi does (arXiv 2409.02371: 2 × 8, stride 3).

    Each clip begins one stride after the last frame of the one before. The extra_frames of a clip, which its derivatives
    use up, may therefore run into the next clip. A video that is too short for adjacent clips gets clips as far apart
    as it allows, which overlap; one that is too short for a single clip is played in a loop.

    Args:
        num_video_frames: Number of frames of the video.
        num_clips: Number of clips.
        num_frames: Frames per clip.
        stride: Distance of two sampled frames, in video frames.
        generator: Source of the random start.
        extra_frames: Further frames sampled at the end of every clip.

    Returns:
        (`num_clips`, `num_frames + extra_frames`) int64 frame indices.

    Raises:
        ValueError: If a count is impossible.

    Example:
        >>> from random import Random
        >>> clips = sample_training_clips(90, num_clips=2, num_frames=8, stride=3, generator=Random(0), extra_frames=2)
        >>> clips.shape
        torch.Size([2, 10])
        >>> (clips[1] - clips[0]).tolist()
        [24, 24, 24, 24, 24, 24, 24, 24, 24, 24]
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
