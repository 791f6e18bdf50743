"""Geometry of boxes: (boxes, 4) tensors of x1, y1, x2, y2 as fractions of width and height."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou

from vididi_hf.data.augment import ClipAugmentation, random_resized_crop_box, resize

__all__ = ["augment_with_boxes", "box_area", "box_iou", "crop_boxes", "flip_boxes", "jitter_boxes", "visible_shares"]

_MIN_VISIBLE = 0.5


def crop_boxes(boxes: Tensor, left: float, top: float, width: float, height: float) -> Tensor:
    """Returns boxes as fractions of a crop, which is given in fractions of the frame, cut off at its edges."""
    moved = (boxes - boxes.new_tensor([left, top, left, top])) / boxes.new_tensor([width, height, width, height])
    return moved.clamp(0, 1)


def flip_boxes(boxes: Tensor) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([1 - x2, y1, 1 - x1, y2], dim=-1)


def visible_shares(boxes: Tensor, left: float, top: float, width: float, height: float) -> Tensor:
    """Returns the share (boxes,) of each box inside a crop; 0 for a box without area."""
    seen, areas = box_area(crop_boxes(boxes, left, top, width, height)) * width * height, box_area(boxes)
    return torch.where(areas > 0, seen / areas.clamp(min=1e-12), 0.0)


def jitter_boxes(boxes: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Moves centers by up to `amount` of the size, stretches sides by 1 ± `amount`: 0.1 means an IoU of 0.81."""
    draws = amount * (2 * torch.rand(len(boxes), 4, generator=generator) - 1)
    sizes = boxes[:, 2:] - boxes[:, :2]
    centers = (boxes[:, 2:] + boxes[:, :2]) / 2 + draws[:, :2] * sizes
    halves = sizes * (1 + draws[:, 2:]) / 2
    return torch.cat([centers - halves, centers + halves], dim=1).clamp(0, 1)


def augment_with_boxes(
    augmentation: ClipAugmentation, clip: Tensor, boxes: Tensor, generator: Random
) -> tuple[Tensor, Tensor, Tensor]:
    """Augments uint8 (frames, 3, height, width) and boxes; returns both, and which boxes are half inside."""
    height, width = clip.shape[-2:]
    for _ in range(10):
        limits = augmentation.area, augmentation.ratio
        top, left, rows, columns = random_resized_crop_box(height, width, *limits, generator)
        crop = (left / width, top / height, columns / width, rows / height)
        if (visible_shares(boxes, *crop) >= _MIN_VISIBLE).any():
            break
    else:
        top, left, rows, columns = 0, 0, height, width
        crop = (0.0, 0.0, 1.0, 1.0)
    kept = (visible_shares(boxes, *crop) >= _MIN_VISIBLE).nonzero().flatten()
    boxes = crop_boxes(boxes[kept], *crop)
    clip = resize(clip[..., top : top + rows, left : left + columns], augmentation.image_size)
    if generator.random() < augmentation.flip_probability:
        clip, boxes = clip.flip(-1), flip_boxes(boxes)
    rest = replace(augmentation, area=(1.0, 1.0), ratio=(1.0, 1.0), flip_probability=0.0)
    return rest(clip, generator), boxes, kept
