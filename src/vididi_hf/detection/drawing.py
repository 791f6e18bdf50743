"""Pictures of detections: boxes, their most probable classes, and whether those are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision
from torchvision.utils import draw_bounding_boxes, make_grid

from vididi_hf.data.decoding import BrokenVideoError
from vididi_hf.data.seeding import seeded_generator
from vididi_hf.detection.boxes import box_iou
from vididi_hf.detection.key_frames import KeyFrame, KeyFrameReader, class_names, names_of
from vididi_hf.files import atomic_write

RIGHT, WRONG, TRUTH = "#2e8540", "#c0392b", "#e8e8e8"
_SIDE = 320


def draw_boxes(
    frame: Tensor, boxes: Tensor, labels: Sequence[str] | None, colors: Sequence[str], side: int = _SIDE
) -> Tensor:
    """Draws labeled boxes into a frame uint8 (3, height, width), resized to a shorter side so that text is legible."""
    scale = side / min(frame.shape[-2:])
    height, width = (round(length * scale) for length in frame.shape[-2:])
    frame = vision.resize(frame, [height, width], antialias=True)
    if not len(boxes):
        return frame
    corners = boxes * boxes.new_tensor([width - 1, height - 1, width - 1, height - 1])
    style: dict[str, Any] = {"width": 2, "label_colors": "white", "fill_labels": True}
    return draw_bounding_boxes(frame, corners, labels and list(labels), list(colors), **style)


def save_picture(
    path: str | Path,
    rows: datasets.Dataset,
    detections: Mapping[KeyFrame, Mapping[str, list]],
    iou_threshold: float = 0.5,
    count: int = 6,
) -> None:
    """Draws detections of random key frames: green if right by the IoU threshold, else red. The truth is gray."""
    names, reader = names_of(rows), KeyFrameReader(rows)
    with_boxes = [index for index, name in enumerate(names) if detections[name]["boxes"]]
    pictures: list[Tensor] = []
    for place in torch.randperm(len(with_boxes), generator=seeded_generator("shown key frames", 0)).tolist():
        try:
            (frame,), row = reader.read(with_boxes[place])
        except BrokenVideoError:
            continue
        found = detections[names[with_boxes[place]]]
        pictures.append(_draw_detections(frame, row, found, class_names(rows), iou_threshold))
        if len(pictures) == count:
            break
    pictures = pictures or [torch.zeros(3, _SIDE, _SIDE, dtype=torch.uint8)]
    size = [max(picture.shape[side] for picture in pictures) for side in (-2, -1)]
    equal = [vision.center_crop(picture, size) for picture in pictures]
    with atomic_write(path) as unfinished:
        vision.to_pil_image(make_grid(equal, min(3, len(equal)), padding=4)).save(unfinished, "png")


def _draw_detections(
    frame: Tensor, row: Mapping[str, Any], found: Mapping[str, list], classes: list[str], iou_threshold: float
) -> Tensor:
    boxes = torch.tensor(found["boxes"]).view(-1, len(classes), 4)[:, 0]
    scores = torch.tensor(found["scores"]).view(-1, len(classes))
    truth = torch.tensor(row["boxes"]).view(-1, 4)
    best, numbers = scores.topk(min(2, len(classes)), dim=1)
    overlaps = box_iou(boxes, truth) >= iou_threshold
    texts, colors = [], []
    for line, shown, values in zip(overlaps.tolist(), numbers.tolist(), best.tolist()):
        true = {label for labels, overlap in zip(row["box_labels"], line) if overlap for label in labels}
        texts.append("\n".join(f"{classes[number]} {value:.2f}" for number, value in zip(shown, values)))
        colors.append(RIGHT if shown[0] in true else WRONG)
        if true and shown[0] not in true:
            texts[-1] += f"\ntruth: {', '.join(classes[label] for label in sorted(true))}"
    return draw_boxes(draw_boxes(frame, truth, None, [TRUTH] * len(truth)), boxes, texts, colors)
