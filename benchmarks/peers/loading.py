"""Data loading by other means: the frames of a sample, decoded and augmented by common libraries."""

import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchcodec.decoders import VideoDecoder
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

SIZE = 112


@dataclass(frozen=True)
class Sample:
    """Two clips of a video."""

    path: str
    jpegs: str  # folder of its frames
    indices: np.ndarray  # (clips, frames)
    key: tuple[int, int]  # seeds the augmentation

    @property
    def distinct(self) -> np.ndarray:
        """The needed frames, each once."""
        return np.unique(self.indices)

    @property
    def places(self) -> np.ndarray:
        """The positions of the clips' frames among the distinct ones."""
        return np.searchsorted(self.distinct, self.indices)


Method = Callable[[Sample], object]


def decode_only(sample: Sample) -> Tensor:
    """The limit: decodes each needed frame once."""
    return VideoDecoder(sample.path, num_ffmpeg_threads=1).get_frames_at(sample.distinct.tolist()).data


def video_transform() -> v2.Transform:
    """The same augmentation by torchvision, once per clip."""
    jitter, blur = v2.ColorJitter(0.2, 0.2, 0.2, 0.05), v2.GaussianBlur(13, (0.1, 2.0))
    crop, flip = v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()
    return v2.Compose([crop, flip, v2.RandomApply([jitter], 0.8), v2.RandomGrayscale(0.2), v2.RandomApply([blur], 0.5)])


def augment_clips(frames: Tensor, places: np.ndarray) -> Tensor:
    """Augments the clips at places (clips, frames). Clips with a constant step are slices, which copy nothing."""
    transform = video_transform()
    clips = []
    for row in places:
        distances = np.unique(np.diff(row))
        is_slice = len(distances) == 1 and distances[0] > 0  # not a short video played in a loop
        chosen = slice(row[0], row[-1] + 1, int(distances[0])) if is_slice else torch.from_numpy(row)
        clips.append(transform(frames[chosen]))
    return torch.stack(clips)


def torchcodec_v2(sample: Sample) -> Tensor:
    return augment_clips(decode_only(sample), sample.places)


def whole_video_v2(sample: Sample) -> Tensor:
    """Decodes all frames, then chooses."""
    with av.open(sample.path, metadata_errors="ignore") as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return augment_clips(torch.from_numpy(frames).permute(0, 3, 1, 2), sample.indices)


def pyav_v2(sample: Sample) -> Tensor:
    """Seeks to the key frame before the first frame, decodes on, and converts only the needed frames."""
    wanted = sample.distinct
    frames: list[np.ndarray] = []
    with av.open(sample.path, metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        start, rate = stream.start_time or 0, float(stream.average_rate) * float(stream.time_base)
        container.seek(int(wanted[0] / rate) + start, stream=stream)
        for frame in container.decode(stream):
            if round((frame.pts - start) * rate) >= wanted[len(frames)]:
                frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == len(wanted):
                break
    frames += frames[-1:] * (len(wanted) - len(frames))  # B-frames in AVI: time stamps end late
    return augment_clips(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), sample.places)


def decord_v2(sample: Sample) -> Tensor:
    import decord

    frames = decord.VideoReader(sample.path, num_threads=1).get_batch(sample.distinct).asnumpy()
    return augment_clips(torch.from_numpy(frames).permute(0, 3, 1, 2), sample.places)


def jpeg_pil(sample: Sample) -> Tensor:
    """Reads JPEG frames and augments each with PIL, as most research code does. Clips keep their crop and flip."""
    crop, jitter = v2.RandomResizedCrop(SIZE), v2.ColorJitter(0.2, 0.2, 0.2, 0.05)
    clips = []
    for row in sample.indices:
        images = [Image.open(io.BytesIO(Path(sample.jpegs, f"{index:05d}.jpg").read_bytes())) for index in row]
        box = crop.make_params([images[0]])
        flip, jittered, blurred = (torch.rand(3) < torch.tensor([0.5, 0.8, 0.5])).tolist()
        sigma = float(torch.empty(1).uniform_(0.1, 2.0))
        frames = []
        for image in images:
            image = TF.resized_crop(image, **box, size=[SIZE, SIZE])
            if flip:
                image = TF.horizontal_flip(image)
            if jittered:
                image = jitter(image)
            if torch.rand(()) < 0.2:
                image = TF.to_grayscale(image, num_output_channels=3)
            if blurred:
                image = image.filter(ImageFilter.GaussianBlur(sigma))
            frames.append(TF.pil_to_tensor(image))
        clips.append(torch.stack(frames))
    return torch.stack(clips)


def peers() -> dict[str, Method]:
    methods: dict[str, Method] = {
        "torchcodec + torchvision v2": torchcodec_v2,
        "PyAV + torchvision v2": pyav_v2,
        "whole video (PyAV) + torchvision v2": whole_video_v2,
        "JPEG folders + PIL, each frame": jpeg_pil,
    }
    return methods | ({"decord + torchvision v2": decord_v2} if importlib.util.find_spec("decord") else {})
