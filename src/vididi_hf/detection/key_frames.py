"""Key frames: loading them, naming them, and reading the clips around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
from torch import Tensor

from vididi_hf.clips_vididi import centered_clip, frame_step
from vididi_hf.data.decoding import BrokenVideoError
from vididi_hf.data.readers.detection import check_boxes, key_frames
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.data.saved import DatasetObject, object_name
from vididi_hf.decoding_vididi import VideoReader

KeyFrame = tuple[str, int]
"""The name of a key frame: AVA's video and second, or `folder/name` of a video and the number of a frame."""

# Files kept open. When a detector is tested, the key frames of one video follow one another.
_OPEN_VIDEOS = 4


def load_key_frames(
    dataset: str | Path | DatasetObject,
    *,
    split: str | None = "train",
    every: int = 1,
    include_empty: bool = False,
    **place: Any,
) -> datasets.Dataset:
    """Loads frames 0, `every`, 2·`every` … of videos with boxes, or all of AVA, with `load_video_dataset`."""
    name = str(dataset) if isinstance(dataset, str | Path) else object_name(dataset)
    options: dict[str, Any] = {"include_empty": True} if include_empty and name in ("ava", "ava-2.1") else {}
    rows = load_video_dataset(dataset, split=split, **options, **place)
    if "boxes" not in rows.column_names:
        raise ValueError(f"detection needs boxes, and {name} has no column 'boxes', only {rows.column_names}")
    rows = check_boxes(rows, name)
    return key_frames(rows, every, include_empty) if "frames" in rows.column_names else rows


def class_names(rows: datasets.Dataset) -> list[str]:
    return list(rows.features["box_labels"].feature.feature.names)


def is_ava(rows: datasets.Dataset) -> bool:
    """Returns whether these are key frames of AVA, which have seconds instead of frame numbers."""
    return "second" in rows.column_names


def names_of(rows: datasets.Dataset) -> list[KeyFrame]:
    if is_ava(rows):
        return list(zip(rows["video_id"], rows["second"]))
    videos = rows.select_columns("video").cast_column("video", datasets.Video(decode=False))["video"]
    named = [Path(video["path"] or "video") for video in videos]
    return [("/".join((*path.parts[:-1][-1:], path.stem)), frame) for path, frame in zip(named, rows["frame"])]


class KeyFrameReader:
    """Reads the clips around key frames, by default the frames alone, and keeps the last few files open."""

    def __init__(
        self,
        rows: datasets.Dataset,
        num_frames: int = 1,
        stride: int = 1,
        extra_frames: int = 0,
        interval: float | None = None,
    ) -> None:
        columns = ["video", "boxes", "box_labels", "timestamp" if "timestamp" in rows.column_names else "frame"]
        # Paths or bytes, not decoders: each worker opens its own, since a decoder does not survive a fork.
        self.rows = rows.select_columns(columns).cast_column("video", datasets.Video(decode=False))
        self.num_frames, self.stride, self.extra_frames, self.interval = num_frames, stride, extra_frames, interval
        self._open: dict[str | int, Any] = {}  # the last used one is at the end

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        """Returns the clip around a key frame, uint8 (frames + extra_frames, 3, height, width), and the row."""
        row = self.rows[index]
        video = row["video"]
        if video is None or (video["path"] is None and video["bytes"] is None):
            raise BrokenVideoError(f"<row {index}>", "the row has no video")
        key = video["path"] if video["bytes"] is None else hash(video["bytes"])
        reader = self._open[key] = self._open.pop(key, None) or VideoReader(video)
        if len(self._open) > _OPEN_VIDEOS:
            del self._open[next(iter(self._open))]
        step = frame_step(self.num_frames, reader.frame_rate, self.stride, self.interval)
        if "timestamp" in row:
            center = reader.position_at(row["timestamp"])
        else:
            center = reader.position_of(row["frame"]) if isinstance(step, float) else row["frame"]
        clip = reader.read(lambda length: centered_clip(center, length, self.num_frames, step, self.extra_frames))
        return clip, row
