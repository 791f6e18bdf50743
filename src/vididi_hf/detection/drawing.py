"""Pictures of detections: boxes, the classes with the highest scores, and whether they are right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional as vision
from torchvision.utils import draw_bounding_boxes, make_grid

from vididi_hf.data.decoding import BrokenVideoError
from vididi_hf.data.seeding import seeded_generator
from vididi_hf.detection.key_frames import KeyFrameReader, class_names, names_of
from vididi_hf.evaluation.detection import DetectionEvaluator

# The colors of `vididi_hf.visualization`: right, wrong, and the ground truth.
RIGHT, WRONG, TRUTH = "#2e8540", "#c0392b", "#e8e8e8"
_SIDE = 320
_SHOWN_CLASSES = 2


def draw_boxes(
    frame: Tensor, boxes: Tensor, labels: Sequence[str] | None, colors: Sequence[str], side: int = _SIDE
) -> Tensor:
    """Draws labeled boxes into a frame.

    Args:
        frame: uint8 (3, height, width).
        boxes: (boxes, 4), x1, y1, x2, y2 as fractions of width and height.
        labels: The text of each box; it may have several lines. None for boxes without text.
        colors: The color of each box.
        side: The shorter side of the result in pixels: small frames are enlarged, so that the text can be read.

    Returns:
        uint8 (3, height', width').

    Example:
        ```python
        >>> import torch
        >>> from vididi_hf.detection.drawing import draw_boxes
        >>> frame = torch.zeros(3, 96, 128, dtype=torch.uint8)
        >>> draw_boxes(frame, torch.tensor([[0.1, 0.1, 0.5, 0.9]]), ["run 0.93"], ["red"]).shape
        torch.Size([3, 320, 427])

        ```
    """
    height, width = frame.shape[-2:]
    scale = side / min(height, width)
    frame = vision.resize(frame, [round(height * scale), round(width * scale)], antialias=True)
    if not len(boxes):
        return frame
    height, width = frame.shape[-2:]
    corners = boxes * boxes.new_tensor([width - 1, height - 1, width - 1, height - 1])
    return draw_bounding_boxes(
        frame, corners, labels and list(labels), list(colors), width=2, label_colors="white", fill_labels=True
    )


def save_picture(path: str | Path, evaluator: DetectionEvaluator, count: int = 6, columns: int = 3) -> Path:
    """Draws what a detector says about some key frames, chosen at random but always the same.

    Each box has the classes with the highest scores for the first of the evaluator's inputs. It is green if the first
    of them is right for a person of the ground truth whom it overlaps by the evaluator's IoU. Otherwise it is red, with
    what that person does. Boxes of the ground truth are gray, and seen where they differ.

    Args:
        path: The picture, `.png`.
        evaluator: After its call.
        count: Key frames to show, out of those with boxes.
        columns: Pictures side by side.

    Returns:
        The path.

    Raises:
        ValueError: If the evaluator has not been called.
    """
    if not evaluator.detections:
        raise ValueError("there are no detections to draw: call the evaluator first")
    detections = next(iter(evaluator.detections.values()))
    names, classes = names_of(evaluator.rows), class_names(evaluator.rows)
    with_boxes = [index for index, name in enumerate(names) if detections[name]["boxes"]]
    shuffled = torch.randperm(len(with_boxes), generator=seeded_generator("shown key frames", 0)).tolist()
    reader = KeyFrameReader(evaluator.rows, num_frames=1, stride=1, extra_frames=0)
    pictures: list[Tensor] = []
    for index in (with_boxes[place] for place in shuffled):
        if len(pictures) == count:
            break
        try:
            frame = reader.read_key_frame(index)
        except BrokenVideoError:
            continue
        found, row = detections[names[index]], reader.rows[index]
        boxes = torch.tensor(found["boxes"]).view(-1, len(classes), 4)[:, 0]
        scores = torch.tensor(found["scores"]).view(-1, len(classes))
        truth = torch.tensor(row["boxes"]).view(-1, 4)
        best, numbers = scores.topk(min(_SHOWN_CLASSES, len(classes)), dim=1)
        overlaps = box_iou(boxes, truth) >= evaluator.iou_threshold
        texts, colors = [], []
        for line, shown, values in zip(overlaps.tolist(), numbers.tolist(), best.tolist()):
            true = {label for labels, one in zip(row["box_labels"], line) if one for label in labels}
            texts.append("\n".join(f"{classes[number]} {value:.2f}" for number, value in zip(shown, values)))
            colors.append(RIGHT if shown[0] in true else WRONG)
            if true and shown[0] not in true:
                texts[-1] += f"\ntruth: {', '.join(classes[label] for label in sorted(true))}"
        picture = draw_boxes(frame, truth, None, [TRUTH] * len(truth))
        pictures.append(draw_boxes(picture, boxes, texts, colors))
    if not pictures:
        pictures = [torch.zeros(3, _SIDE, _SIDE, dtype=torch.uint8)]
    size = [max(picture.shape[side] for picture in pictures) for side in (-2, -1)]
    grid = make_grid(
        [vision.center_crop(picture, size) for picture in pictures], min(columns, len(pictures)), padding=4
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(grid.permute(1, 2, 0).numpy())).save(path)
    return path
