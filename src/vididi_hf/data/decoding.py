"""Decode clips of a video file. The decoder is `VideoReader` in `decoding_vididi`, a part of every checkpoint."""

from typing import Any

from torch import Tensor

from vididi_hf.decoding_vididi import BrokenVideoError, ChooseFrames, VideoReader, open_video

__all__ = ["BrokenVideoError", "ChooseFrames", "VideoReader", "decode_clips", "open_video"]


def decode_clips(source: Any, choose: ChooseFrames, num_threads: int = 1) -> Tensor:
    """Decodes the frames that `choose` picks; see `VideoReader.read`."""
    return VideoReader(source, num_threads).read(choose)
