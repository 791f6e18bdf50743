"""Figures of retrieval: query videos and their nearest neighbors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from vididi_hf.data.decoding import decode_clips
from vididi_hf.data.seeding import seeded_generator
from vididi_hf.visualization.style import FAINT, OTHER, QUERY, SAME, SIDE, TEXT, show_frame

STRIP_FRAMES = 3
_THUMBNAIL = 96  # pixels


def choose_queries(labels: Tensor, count: int, seed: int = 0) -> Tensor:
    """Chooses random queries of as many different labels (queries,) as possible, and returns their positions."""
    shuffled = torch.randperm(len(labels), generator=seeded_generator("shown queries", seed))
    same = labels[shuffled, None] == labels[shuffled]
    earlier = same.tril(-1).sum(dim=1)  # videos with the same label that come before
    return shuffled[earlier.argsort(stable=True)][:count]


def plot_retrieval(
    queries: datasets.Dataset,
    query_rows: Sequence[int] | Tensor,
    gallery: datasets.Dataset,
    neighbors: Mapping[str, Sequence[Sequence[int]] | Tensor],
    num_neighbors: int = 5,
    title: str | None = None,
) -> Figure:
    """Shows queries and the videos retrieved for them by several encoders.

    Each video is a strip of three frames, at a quarter, half and three quarters of its length. The border of a found
    video is green if it has the query's label, red if it has another one, and gray if a label is unknown.

    Args:
        queries: Data set with the column `video` and, if labels are known, `label`.
        query_rows: The rows of `queries` to show.
        gallery: The data set that was searched, with the same columns.
        neighbors: Name of an encoder -> for each query, the rows of `gallery` that it found, nearest first; -1 is none.
        num_neighbors: The number of neighbors to show.
        title: A line above the figure.
    """
    found = {name: torch.as_tensor(rows)[:, :num_neighbors].tolist() for name, rows in neighbors.items()}
    for name, rows in found.items():
        if not len(rows) == len(query_rows) > 0:
            raise ValueError(f"neighbors of {name!r} are for {len(rows)} queries, but {len(query_rows)} are shown")
    asked = [_middle_frames(queries, int(row)) for row in query_rows]
    aspect = asked[0].shape[-1] / asked[0].shape[-2]
    shape = [_THUMBNAIL, round(_THUMBNAIL * aspect)]  # of every frame, cropped at its center

    # Positions are in inches from the top left, so that all figures have strips of the same size.
    strip, gap = STRIP_FRAMES * aspect * SIDE, 0.1
    left = strip + 2 * gap + 0.085 * max(map(len, found))
    top, row_height = (0.65 if title else 0.25), SIDE + 0.27
    block_height = len(found) * row_height + 0.2
    columns = max(len(ranked) for rows in found.values() for ranked in rows)
    width, height = left + columns * (strip + gap), top + len(query_rows) * block_height
    figure = Figure(figsize=(width, height))

    def draw(x: float, y: float, frames: Tensor, color: str, label: str) -> None:
        axis = figure.add_axes((x / width, 1 - (y + SIDE) / height, strip / width, SIDE / height))
        scale = max(side / length for side, length in zip(shape, frames.shape[-2:]))
        covering = [math.ceil(length * scale) for length in frames.shape[-2:]]
        frames = vision.center_crop(vision.resize(frames, covering, antialias=True), shape)
        show_frame(axis, torch.cat(frames.unbind(), dim=-1))
        for seam in range(1, len(frames)):
            axis.axvline(seam * shape[1] - 0.5, color="white", linewidth=1.5)
        for spine in axis.spines.values():
            spine.set(visible=True, color=color, linewidth=2.5)
        axis.set_xlabel(label, fontsize=8, color=color, labelpad=3, parse_math=False)

    def write(x: float, y: float, text: str, size: int = 9, **style: Any) -> None:
        figure.text(
            x / width, 1 - y / height, text, fontsize=size, va="center", parse_math=False, **{"color": TEXT, **style}
        )

    if title:
        write(0, 0.15, title, size=12)
    write(strip / 2, top - 0.12, "query", color=FAINT, ha="center")
    for rank in range(columns):
        write(left + rank * (strip + gap) + strip / 2, top - 0.12, str(rank + 1), color=FAINT, ha="center")
    for number, (row, frames) in enumerate(zip(query_rows, asked)):
        block = top + number * block_height
        wanted = video_label(queries, int(row))
        draw(0, block + (len(found) - 1) * row_height / 2, frames, QUERY, wanted or "")
        for line, (name, rows) in enumerate(found.items()):
            y = block + line * row_height
            write(left - gap, y + SIDE / 2, name, ha="right")
            for rank, neighbor in enumerate(rows[number]):
                if neighbor < 0:
                    continue
                label, color = video_label(gallery, neighbor), FAINT
                if label is not None and wanted is not None:
                    color, mark = (SAME, "✓") if label == wanted else (OTHER, "✗")
                    label = f"{mark} {label}"
                draw(left + rank * (strip + gap), y, _middle_frames(gallery, neighbor), color, label or "")
    return figure


def _middle_frames(rows: datasets.Dataset, row: int) -> Tensor:
    """Decodes uint8 (STRIP_FRAMES, 3, height, width), evenly spread between the ends of a video."""
    [sample] = rows.select([row]).select_columns("video").cast_column("video", datasets.Video(decode=False))
    places = torch.arange(1, STRIP_FRAMES + 1)
    return decode_clips(sample["video"], lambda length: (places * length // (STRIP_FRAMES + 1))[None])[0]


def video_label(rows: datasets.Dataset, row: int) -> str | None:
    """Names the label of a video, if it is known."""
    if "label" not in rows.column_names:
        return None
    label, feature = rows.select_columns("label")[row]["label"], rows.features["label"]
    if label is None or label == -1:
        return None
    return feature.int2str(label) if isinstance(feature, datasets.ClassLabel) else str(label)
