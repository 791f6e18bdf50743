"""Clip-consistent augmentation: one draw a clip, applied to all of its frames at once, on `uint8`.

Every frame of a clip gets the same crop, flip, colours and blur, so that what changes from frame to frame, and hence
the temporal derivative, is the video's own motion. The authors' code draws the colours for each frame anew, which puts
flicker into the derivative; `per_frame_colour` does the same for comparison.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_MID_GREY = 127.5
# Rows: luma (ITU-R BT.601, as torchvision's greyscale and saturation) and the two chroma axes of the YIQ colour space.
_TO_YIQ = torch.tensor(
    [(0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)], dtype=torch.float64
)
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)
_QUARTER_TURN = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
# What keeps the luma, what keeps the chroma and what turns it by a right angle: every jitter is a sum of these three.
_COLOUR_BASIS = torch.stack(
    [
        _FROM_YIQ[:, :1] @ _TO_YIQ[:1],
        _FROM_YIQ[:, 1:] @ _TO_YIQ[1:],
        _FROM_YIQ[:, 1:] @ _QUARTER_TURN @ _TO_YIQ[1:],
    ]
).float()
# Rows of a blur that are computed together, from those within reach: few enough to skip most of the matrix's zeros,
# enough for a matrix product to be efficient (measured: 8 to 56).
_BAND = 16


def random_resized_crop_box(
    height: int, width: int, area: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Draws a box (top, left, height, width) covering a random share of the frame, with a random aspect ratio.

    Args:
        height: The frame's height in pixels.
        width: The frame's width in pixels.
        area: The smallest and the largest share of the frame's area.
        ratio: The smallest and the largest width / height, drawn on a logarithmic scale.
        generator: The source of randomness.

    Returns:
        A box inside the frame. After ten draws that do not fit, the largest centred box of an allowed ratio.

    Source: Szegedy et al., "Going deeper with convolutions" (arXiv 1409.4842), in torchvision's form.
    """
    draws = torch.rand(10, 4, generator=generator).tolist()
    for share, shape, vertical, horizontal in draws:
        target = height * width * (area[0] + (area[1] - area[0]) * share)
        aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * shape)
        box_width, box_height = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            return (
                int(vertical * (height - box_height + 1)),
                int(horizontal * (width - box_width + 1)),
                box_height,
                box_width,
            )
    box_width = min(width, round(height * ratio[1]))
    box_height = min(height, round(width / ratio[0]))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def colour_matrix(brightness: float, contrast: float, saturation: float, hue: float) -> tuple[Tensor, Tensor]:
    """Returns colour jitter as one affine map of RGB: `colours @ matrix.T + offset`.

    Saturation blends each pixel with its luma, contrast scales around mid grey, brightness scales, and hue turns the
    chroma plane of the YIQ colour space. Being affine, the whole jitter is one 3×3 product a pixel and commutes with
    resizing and blurring; between the steps nothing is clipped.

    Args:
        brightness: Factor; 1 changes nothing.
        contrast: Factor; 1 changes nothing.
        saturation: Factor; 1 changes nothing, 0 is grey.
        hue: Turn of the chroma plane, as a fraction of a full turn; a small positive one takes red towards yellow.

    Returns:
        The matrix (3, 3) and the offset (3,) for colours in [0, 255].
    """
    gain, turn = brightness * contrast, 2 * math.pi * hue
    weights = torch.tensor([gain, gain * saturation * math.cos(turn), gain * saturation * math.sin(turn)])
    offset = torch.full((3,), brightness * (1 - contrast) * _MID_GREY)
    return (weights @ _COLOUR_BASIS.flatten(1)).view(3, 3), offset


def blur_matrix(size: int, sigma: float) -> Tensor:
    """Returns the matrix that blurs a line of pixels with a Gaussian, the line reflected at its ends.

    Args:
        size: The number of pixels of the line.
        sigma: The Gaussian's deviation in pixels; it is cut off at three of them, and at the length of the line.

    Returns:
        (size, size), rows of weights that sum to 1: `matrix @ line` is the blurred line.
    """
    radius = _blur_radius(size, sigma)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps = taps / taps.sum()
    positions = torch.arange(size)[:, None] + torch.arange(-radius, radius + 1)
    reflected = positions.abs()
    reflected = torch.where(reflected > size - 1, 2 * (size - 1) - reflected, reflected)
    return torch.zeros(size, size).scatter_add_(1, reflected, taps.expand(size, -1).contiguous())


def _blur_radius(size: int, sigma: float) -> int:
    return min(math.ceil(3 * sigma), size - 1)


def gaussian_blur(planes: Tensor, sigma: float) -> Tensor:
    """Blurs frames with a Gaussian, reflected at their borders.

    The same as `blur @ frame @ blur.T` with `blur_matrix`, without most of the products with the zeros off its band.

    Args:
        planes: Float (channels, size, frames, size), contiguous: rows before frames, so that blurring over rows is a
            product of few large matrices.
        sigma: The Gaussian's deviation in pixels.

    Returns:
        Of the same shape. The input is overwritten.
    """
    channels, size, _, _ = planes.shape
    matrix, radius = blur_matrix(size, sigma), _blur_radius(size, sigma)
    blurred = torch.empty_like(planes)
    bands = [
        (slice(start, start + _BAND), slice(max(0, start - radius), start + _BAND + radius))
        for start in range(0, size, _BAND)
    ]
    source, target = planes.view(channels, size, -1), blurred.view(channels, size, -1)
    for band, reach in bands:
        torch.bmm(matrix[band, reach].expand(channels, -1, -1), source[:, reach], out=target[:, band])
    source, target = blurred.view(-1, size), planes.view(-1, size)
    for band, reach in bands:
        torch.mm(source[:, reach], matrix[band, reach].T, out=target[:, band])
    return planes


def resize(clip: Tensor, size: int) -> Tensor:
    """Resizes frames to a square by antialiased bilinear interpolation.

    Args:
        clip: uint8 (frames, channels, height, width). Channels last in memory, as decoders yield them, is fast.
        size: The new height and width in pixels.

    Returns:
        uint8 (frames, channels, size, size), within a level of torchvision's `resize`: both round after each axis.
    """
    clip = clip.contiguous(memory_format=torch.channels_last)
    if clip.shape[-2] > size:
        # Rows first where that leaves fewer of them: it is the cheap direction, torch by itself takes the other first.
        clip = F.interpolate(clip, (size, clip.shape[-1]), mode="bilinear", antialias=True)
    return F.interpolate(clip, (size, size), mode="bilinear", antialias=True)


@dataclass(frozen=True)
class ClipAugmentation:
    """Random resized crop, flip, colour jitter, grey and blur for one clip.

    Args:
        image_size: Height and width of the result in pixels.
        area: Share of the frame's area that the crop covers, smallest and largest.
        ratio: Aspect ratio of the crop, smallest and largest.
        flip_probability: Probability of a horizontal flip.
        jitter: Largest change of brightness, contrast and saturation (factors 1 ± j) and of hue (turns).
        jitter_probability: Probability of the colour jitter.
        grey_probability: Probability of dropping the colours.
        blur_probability: Probability of a Gaussian blur.
        blur_sigma: Smallest and largest deviation of the blur in pixels *at a size of 112*; scaled with `image_size`,
            so that small frames are not blurred beyond recognition.
        per_frame_colour: Draw the changes of the jitter, and grey or not, for each frame instead of once a clip, as the
            authors' code does. Whether there is jitter at all is drawn once a clip in either case.

    Raises:
        ValueError: If a value is impossible; the message names it.

    Source: the augmentation in the authors' code of ViDiDi (arXiv 2409.02371); colour as one affine map is our own.

    Example:
        ```python
        >>> import torch
        >>> from vididi_hf.data.augment import ClipAugmentation
        >>> clip = torch.randint(0, 256, (10, 3, 120, 160), dtype=torch.uint8)
        >>> tuple(ClipAugmentation(image_size=112)(clip, torch.Generator().manual_seed(0)).shape)
        (10, 3, 112, 112)

        ```
    """

    image_size: int
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    jitter: tuple[float, float, float, float] = (0.2, 0.2, 0.2, 0.05)
    jitter_probability: float = 0.8
    grey_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    per_frame_colour: bool = False

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {self.image_size}")
        for name, most in (("area", 1.0), ("ratio", math.inf), ("blur_sigma", math.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                raise ValueError(f"{name} must be two numbers 0 < low <= high <= {most}, got {low} and {high}")
        for name in ("flip_probability", "jitter_probability", "grey_probability", "blur_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if len(self.jitter) != 4 or min(self.jitter) < 0 or max(self.jitter) > 1:
            raise ValueError(f"jitter must be four changes in [0, 1], got {self.jitter}")

    def __call__(self, clip: Tensor, generator: torch.Generator) -> Tensor:
        """Augments a clip.

        Args:
            clip: uint8 (frames, 3, height, width).
            generator: The source of randomness; the result is a pure function of the clip and its state.

        Returns:
            uint8 (frames, 3, image_size, image_size).
        """
        top, left, height, width = random_resized_crop_box(
            clip.shape[-2], clip.shape[-1], self.area, self.ratio, generator
        )
        # Crop and shrink first: everything after works on the few pixels that remain.
        clip = resize(clip[..., top : top + height, left : left + width], self.image_size)
        if self._happens(self.flip_probability, generator):
            clip = clip.flip(-1)
        colours = self._draw_colours(len(clip), generator)
        sigma = self._draw_sigma(generator)
        if colours is None and sigma is None:
            return clip.contiguous()
        # (channels, height, frames, width): blur and colours are then products of large matrices.
        planes = clip.permute(1, 2, 0, 3).to(torch.float32, memory_format=torch.contiguous_format)
        if sigma is not None:
            planes = gaussian_blur(planes, sigma)
        if colours is not None:
            planes = _change_colours(planes, *colours)
        # By way of int16: torch converts floats to uint8 one by one, and to int16 many at once.
        levels = planes.add_(0.5).clamp_(0, 255).to(torch.int16)
        return torch.empty(clip.shape, dtype=torch.uint8).copy_(levels.permute(2, 0, 1, 3))

    @staticmethod
    def _happens(probability: float, generator: torch.Generator) -> bool:
        return float(torch.rand((), generator=generator)) < probability

    def _draw_sigma(self, generator: torch.Generator) -> float | None:
        if not self._happens(self.blur_probability, generator):
            return None
        low, high = self.blur_sigma
        return (low + (high - low) * float(torch.rand((), generator=generator))) * self.image_size / 112

    def _draw_colours(self, num_frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
        """Draws colour maps: (maps, 3, 3) and (maps, 3), one for the clip or one a frame; None where nothing changes."""
        draws = num_frames if self.per_frame_colour else 1
        jittered = self._happens(self.jitter_probability, generator)
        changes = torch.rand(draws, 4, generator=generator).tolist()
        grey = (torch.rand(draws, generator=generator) < self.grey_probability).tolist()
        if not jittered and not any(grey):
            return None
        maps = []
        for draw, dull in zip(changes, grey):
            factors = ((2 * value - 1) * most * jittered for value, most in zip(draw, self.jitter))
            brightness, contrast, saturation, hue = factors
            maps.append(colour_matrix(1 + brightness, 1 + contrast, (1 + saturation) * (not dull), hue))
        matrices, offsets = (torch.stack(parts) for parts in zip(*maps))
        return matrices, offsets


def _change_colours(planes: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    """Applies colour maps (1 or frames, 3, 3) and (1 or frames, 3) to planes (3, height, frames, width)."""
    if len(matrices) == 1:
        return torch.addmm(offsets.T, matrices[0], planes.flatten(1)).view_as(planes)
    return torch.einsum("tij,jytx->iytx", matrices, planes) + offsets.T[:, None, :, None]
