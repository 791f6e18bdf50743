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
# As numbers, since tiny tensors cost more than the arithmetic.
_COLOUR_BASIS = [
    (_FROM_YIQ[:, :1] @ _TO_YIQ[:1]).tolist(),
    (_FROM_YIQ[:, 1:] @ _TO_YIQ[1:]).tolist(),
    (_FROM_YIQ[:, 1:] @ _QUARTER_TURN @ _TO_YIQ[1:]).tolist(),
]
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


def colour_map(brightness: float, contrast: float, saturation: float, hue: float) -> tuple[list[list[float]], float]:
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
        The rows of the matrix (3, 3), and the offset, the same for all channels, for colours in [0, 255].
    """
    gain, turn = brightness * contrast, 2 * math.pi * hue
    kept, turned = gain * saturation * math.cos(turn), gain * saturation * math.sin(turn)
    matrix = [
        [gain * grey + kept * colour + turned * other for grey, colour, other in zip(*rows)]
        for rows in zip(*_COLOUR_BASIS)
    ]
    return matrix, brightness * (1 - contrast) * _MID_GREY


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

    def __call__(self, clip: Tensor, generator: torch.Generator, out: Tensor | None = None) -> Tensor:
        """Augments a clip.

        Args:
            clip: uint8 (frames, 3, height, width).
            generator: The source of randomness; the result is a pure function of the clip and its state.
            out: Where to write the result; a new tensor by default.

        Returns:
            uint8 (frames, 3, image_size, image_size).
        """
        top, left, height, width = random_resized_crop_box(
            clip.shape[-2], clip.shape[-1], self.area, self.ratio, generator
        )
        if out is None:
            out = torch.empty(len(clip), 3, self.image_size, self.image_size, dtype=torch.uint8)
        # Crop and shrink first: everything after works on the few pixels that remain.
        clip = resize(clip[..., top : top + height, left : left + width], self.image_size)
        # All else is drawn at once, whether it is used or not: a draw by itself costs as much as ten.
        maps = len(clip) if self.per_frame_colour else 1
        flip, jitter, blur, sigma, *colours = torch.rand(4 + 5 * maps, generator=generator).tolist()
        if flip < self.flip_probability:
            clip = clip.flip(-1)
        is_blurred = blur < self.blur_probability
        colour_maps = self._colour_maps(jitter < self.jitter_probability, colours)
        if not is_blurred and not colour_maps:
            return out.copy_(clip)
        # (channels, height, frames, width): blur and colours are then products of large matrices.
        planes = clip.permute(1, 2, 0, 3).to(torch.float32, memory_format=torch.contiguous_format)
        if is_blurred:
            low, high = self.blur_sigma
            planes = gaussian_blur(planes, (low + (high - low) * sigma) * self.image_size / 112)
        # And half a level up, since the conversion to integers cuts off.
        planes = _change_colours(planes, colour_maps, lift=0.5) if colour_maps else planes.add_(0.5)
        # By way of int16: torch converts floats to uint8 one by one, and to int16 many at once.
        levels = planes.to(torch.int16).clamp_(0, 255)
        return out.copy_(levels.permute(2, 0, 1, 3))

    def _colour_maps(self, is_jittered: bool, draws: list[float]) -> list[tuple[list[list[float]], float]]:
        """Makes one colour map of every five draws in [0, 1); none at all where nothing changes."""
        maps = []
        is_changed = is_jittered
        for start in range(0, len(draws), 5):
            *changes, grey = draws[start : start + 5]
            is_grey = grey < self.grey_probability
            is_changed = is_changed or is_grey
            factors = ((2 * change - 1) * most * is_jittered for change, most in zip(changes, self.jitter))
            brightness, contrast, saturation, hue = factors
            maps.append(colour_map(1 + brightness, 1 + contrast, (1 + saturation) * (not is_grey), hue))
        return maps if is_changed else []


def _change_colours(planes: Tensor, maps: list[tuple[list[list[float]], float]], lift: float) -> Tensor:
    """Applies one colour map, or one a frame, to planes (3, height, frames, width), and adds `lift`."""
    matrices, offsets = zip(*maps)
    if len(maps) == 1:
        offset = torch.full((3, 1), offsets[0] + lift)
        return torch.addmm(offset, torch.tensor(matrices[0]), planes.flatten(1)).view_as(planes)
    changed = torch.einsum("tij,jytx->iytx", torch.tensor(matrices), planes)
    return changed.add_(torch.tensor(offsets)[:, None] + lift)
