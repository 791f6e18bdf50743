"""Augmentation of a clip with boxes: a random crop, flip and colors; the boxes follow."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from torch import Tensor

from vididi_hf.data.augment import ClipAugmentation, random_resized_crop_box, resize
from vididi_hf.detection.boxes import crop_boxes, flip_boxes, visible_shares

# A person of whom less is left is no example of an action; a crop without any person is drawn anew, so many times.
LEAST_VISIBLE = 0.5
_TRIES = 10


@dataclass(frozen=True)
class BoxAugmentation:
    """Crops, flips and recolors a clip, and moves its boxes along.

    A crop is drawn until it holds half of at least one box, and the boxes of which it holds less than half are left
    out; after ten crops in vain the whole picture is taken.

    Args:
        image_size: Height and width of the result in pixels.
        area: Share of the picture's area that the crop covers, smallest and largest.
        ratio: Aspect ratio of the crop, smallest and largest.
        flip_probability: Probability of a horizontal flip.
        color_probability: Probability of color jitter, one for all frames of the clip.

    Raises:
        ValueError: If a value is impossible; the message names it.

    Example:
        ```python
        >>> from random import Random
        >>> import torch
        >>> from vididi_hf.detection.augment import BoxAugmentation
        >>> clip = torch.randint(0, 256, (10, 3, 120, 160), dtype=torch.uint8)
        >>> boxes = torch.tensor([[0.1, 0.1, 0.4, 0.9], [0.5, 0.2, 0.9, 1.0]])
        >>> augmented, moved, kept = BoxAugmentation(image_size=112)(clip, boxes, Random(0))
        >>> augmented.shape, len(moved) == len(kept)
        (torch.Size([10, 3, 112, 112]), True)

        ```
    """

    image_size: int
    area: tuple[float, float] = (0.3, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    color_probability: float = 0.8
    _colors: ClipAugmentation = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Checks all values; then one that leaves every pixel of a square where it is.
        ClipAugmentation(self.image_size, self.area, self.ratio, self.flip_probability)
        colors = ClipAugmentation(
            self.image_size,
            area=(1.0, 1.0),
            ratio=(1.0, 1.0),
            flip_probability=0.0,
            jitter_probability=self.color_probability,
            gray_probability=0.0,
            blur_probability=0.0,
        )
        object.__setattr__(self, "_colors", colors)

    def __call__(self, clip: Tensor, boxes: Tensor, generator: Random) -> tuple[Tensor, Tensor, Tensor]:
        """Augments a clip.

        Args:
            clip: uint8 (frames, 3, height, width).
            boxes: (boxes, 4), x1, y1, x2, y2 as fractions of width and height.
            generator: The source of randomness; the result is a pure function of clip, boxes and its state.

        Returns:
            uint8 (frames, 3, image_size, image_size); the boxes that are left (left, 4), as fractions of the new
            picture, cut at its edges; and which boxes those are, int64 (left,).
        """
        height, width = clip.shape[-2:]
        top, left, rows, columns = self._choose_crop(height, width, boxes, generator)
        part = (left / width, top / height, columns / width, rows / height)
        kept = (visible_shares(boxes, *part) >= LEAST_VISIBLE).nonzero().flatten()
        boxes = crop_boxes(boxes[kept], *part)
        clip = resize(clip[..., top : top + rows, left : left + columns], self.image_size)
        if generator.random() < self.flip_probability:
            clip, boxes = clip.flip(-1), flip_boxes(boxes)
        return self._colors(clip, generator), boxes, kept

    def _choose_crop(self, height: int, width: int, boxes: Tensor, generator: Random) -> tuple[int, int, int, int]:
        """Draws top, left, height and width of a crop, in pixels."""
        for _ in range(_TRIES):
            top, left, rows, columns = random_resized_crop_box(height, width, self.area, self.ratio, generator)
            shares = visible_shares(boxes, left / width, top / height, columns / width, rows / height)
            if (shares >= LEAST_VISIBLE).any():
                return top, left, rows, columns
        return 0, 0, height, width
