"""Video files with any codec, pixel format and time stamps."""

import av
import numpy as np


def encode(path, frames, codec="libx264", pixel_format="yuv420p", times=None, options=None, coding=None):
    """Write uint8 (N, 3, H, W) frames with PyAV, with any codec, pixel format and time stamps in tenths of a second."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[-2:], pixel_format
        stream.options = coding or ({"crf": "10"} if codec == "libx264" else {})
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.permute(1, 2, 0)), format="rgb24")
            picture.pts = index if times is None else times[index]
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path
