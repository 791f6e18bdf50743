"""Clip-consistent augmentation: all frames get the same, so that the temporal derivative shows only the motion."""

import math
from dataclasses import dataclass
from random import Random

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_MID_GRAY = 127.5
# Rows: luma (ITU-R BT.601, as torchvision's grayscale and saturation) and the two chroma axes of the YIQ color space.
_TO_YIQ = np.array([(0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
# Keep the luma, keep the chroma, turn the chroma by a right angle: every jitter is a sum of these three maps.
_LUMA = _FROM_YIQ[:, :1] @ _TO_YIQ[:1]
_CHROMA = _FROM_YIQ[:, 1:] @ _TO_YIQ[1:]
_TURNED_CHROMA = _FROM_YIQ[:, 1:] @ np.array([(0.0, 1.0), (-1.0, 0.0)]) @ _TO_YIQ[1:]
# The three and the offset as flat (3, 4) color maps, so that a jitter is one vector-matrix product.
_JITTER = np.stack(
    [np.column_stack([part, [0.0] * 3]).ravel() for part in (_LUMA, _CHROMA, _TURNED_CHROMA)]
    + [np.array([0.0, 0.0, 0.0, _MID_GRAY] * 3)]
)


def random_resized_crop_box(
    height: int, width: int, area: tuple[float, float], ratio: tuple[float, float], generator: Random
) -> tuple[int, int, int, int]:
    """Draws a box (top, left, height, width) of random area and aspect ratio, as torchvision does (arXiv 1409.4842)."""
    for _ in range(10):
        target = height * width * generator.uniform(*area)
        aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        box_width, box_height = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = generator.randrange(height - box_height + 1), generator.randrange(width - box_width + 1)
            return top, left, box_height, box_width
    box_width = min(width, round(height * ratio[1]))
    box_height = min(height, round(width / ratio[0]))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def color_map(brightness: float, contrast: float, saturation: float, hue: float) -> np.ndarray:
    """Returns color jitter as one affine map (3, 4) of RGB in [0, 255]: `colors @ map[:, :3].T + map[:, 3]`."""
    # Contrast scales around mid gray, and hue turns the chroma plane of the YIQ color space.
    gain, turn = brightness * contrast, 2 * math.pi * hue
    weights = gain, gain * saturation * math.cos(turn), gain * saturation * math.sin(turn), brightness * (1 - contrast)
    return np.dot(weights, _JITTER).reshape(3, 4)


def resize(clip: Tensor, size: int, out: Tensor | None = None) -> Tensor:
    """Resizes uint8 frames (frames, channels, height, width) to squares by antialiased bilinear interpolation."""
    clip = clip.contiguous(memory_format=torch.channels_last)
    if clip.shape[-2] > size:
        # Shrink the rows first: it is the cheap direction, and torch would take the other one first.
        clip = F.interpolate(clip, (size, clip.shape[-1]), mode="bilinear", antialias=True)
    if out is None:
        return F.interpolate(clip, (size, size), mode="bilinear", antialias=True)
    # `interpolate` calls this, but cannot write to a given tensor.
    return torch.ops.aten._upsample_bilinear2d_aa.out(clip, (size, size), False, None, None, out=out)


@dataclass(frozen=True)
class ClipAugmentation:
    """Random resized crop, flip, color jitter, gray and blur for one clip, as in the authors' code (2409.02371)."""

    image_size: int  # height and width of the result in pixels
    area: tuple[float, float] = (0.08, 1.0)  # smallest and largest share of the frame that the crop covers
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # smallest and largest aspect ratio of the crop
    flip_probability: float = 0.5
    jitter: tuple[float, float, float, float] = (0.2, 0.2, 0.2, 0.05)  # brightness, contrast, saturation; hue in turns
    jitter_probability: float = 0.8
    gray_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # in pixels at a size of 112
    per_frame_color: bool = False  # as the authors' code: jitter and gray per frame, which adds flicker

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {self.image_size}")
        for name, most in (("area", 1.0), ("ratio", math.inf), ("blur_sigma", math.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                raise ValueError(f"{name} must be two numbers 0 < low <= high <= {most}, got {low} and {high}")
        for name in ("flip_probability", "jitter_probability", "gray_probability", "blur_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if len(self.jitter) != 4 or min(self.jitter) < 0 or max(self.jitter) > 1:
            raise ValueError(f"jitter must be four changes in [0, 1], got {self.jitter}")

    def __call__(self, clip: Tensor, generator: Random, out: Tensor | None = None) -> Tensor:
        """Augments a clip, uint8 (frames, 3, height, width), to uint8 (frames, 3, image_size, image_size).

        The result is channels last in memory, as `out`, which receives it if given, must be.
        """
        rows, columns = clip.shape[-2:]
        top, left, height, width = random_resized_crop_box(rows, columns, self.area, self.ratio, generator)
        if out is None:
            size = (len(clip), 3, self.image_size, self.image_size)
            out = torch.empty(size, dtype=torch.uint8, memory_format=torch.channels_last)
        elif not out.is_contiguous(memory_format=torch.channels_last):
            raise ValueError(f"out must have its channels last in memory, got strides {out.stride()}")
        # Draw everything, used or not, so that changing one probability does not change the other draws.
        is_flipped = generator.random() < self.flip_probability
        is_jittered = generator.random() < self.jitter_probability
        is_blurred = generator.random() < self.blur_probability
        sigma = generator.uniform(*self.blur_sigma) / 112
        maps = [self._draw_colors(is_jittered, generator) for _ in range(len(clip) if self.per_frame_color else 1)]
        # Crop first, then shrink, and enlarge last, so that all else works on as few pixels as possible.
        clip = clip[..., top : top + height, left : left + width]
        shrinks = height * width > self.image_size**2
        small = resize(clip, self.image_size, out) if shrinks else clip.clone(memory_format=torch.channels_last)
        # If the crop is enlarged later, scale the blur to the crop.
        sigmas = [sigma * length for length in small.shape[-2:]]
        kernels = [cv2.getGaussianKernel(2 * math.ceil(3 * s) + 1, s) for s in sigmas] if is_blurred else None
        # Frame by frame, because a small frame stays in the processor's cache. None of these OpenCV functions starts
        # threads, which worker processes must not have.
        frames = small.permute(0, 2, 3, 1).numpy()
        for frame, colors in zip(frames, maps if self.per_frame_color else maps * len(frames)):
            if is_flipped:
                cv2.flip(frame, 1, frame)
            if kernels is not None:
                cv2.sepFilter2D(frame, -1, kernels[1], kernels[0], frame, borderType=cv2.BORDER_REFLECT_101)
            if colors is not None:
                cv2.transform(frame, colors, frame)
        return small if shrinks else resize(small, self.image_size, out)

    def _draw_colors(self, is_jittered: bool, generator: Random) -> np.ndarray | None:
        """Draws a color map, or None if the colors do not change."""
        brightness, contrast, saturation, hue = (generator.uniform(-most, most) for most in self.jitter)
        is_gray = generator.random() < self.gray_probability
        if not is_jittered:
            return color_map(1, 1, 0, 0) if is_gray else None
        return color_map(1 + brightness, 1 + contrast, 0 if is_gray else 1 + saturation, hue)
