"""Decode chosen clips of a video file; any failure is one error that names the file.

Opening and reading live in `decoding_vididi`, which published checkpoints carry with them.
"""

from typing import Any

from torch import Tensor

from vididi_hf.decoding_vididi import BrokenVideoError, ChooseFrames, VideoReader, open_video

__all__ = ["BrokenVideoError", "ChooseFrames", "VideoReader", "decode_clips", "open_video"]


def decode_clips(source: Any, choose: ChooseFrames, num_threads: int = 1) -> Tensor:
    """Decode the clips that `choose` picks from a video, however many frames that video turns out to have.

    Open videos where they are decoded: a decoder does not survive the fork of a worker process.

    Args:
        source: Path, encoded bytes, binary file object, the `{"path", "bytes"}` dictionary of `datasets`, or a
            torchcodec `VideoDecoder`.
        choose: Pure function from the number of frames of the video to the (clips, frames) indices to read. It is
            called again with a smaller number when frames that the file promises cannot be decoded.
        num_threads: Decoding threads.

    Returns:
        uint8 (clips, frames, channels, height, width), RGB.

    Raises:
        BrokenVideoError: If the video is missing, empty, no video, or holds no frames that can be decoded.
        ImportError: If torchcodec or FFmpeg cannot be loaded; says what to install.

    Example:
        >>> import tempfile, torch
        >>> from torchcodec.encoders import VideoEncoder
        >>> from vididi_hf.data.clips import uniform_clips
        >>> with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        ...     VideoEncoder(torch.zeros(40, 3, 48, 64, dtype=torch.uint8), frame_rate=30).to_file(file.name)
        ...     decode_clips(file.name, lambda n: uniform_clips(n, num_clips=2, num_frames=8, stride=3)).shape
        torch.Size([2, 8, 3, 48, 64])
    """
    return VideoReader(source, num_threads).read(choose)
