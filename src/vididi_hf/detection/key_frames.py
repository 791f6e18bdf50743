"""Key frames: which there are, what they are called, and the clips around them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor

from vididi_hf.data.decoding import BrokenVideoError
from vididi_hf.data.readers.detection import key_frames
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.decoding_vididi import VideoReader

KeyFrame = tuple[str, int]
"""What a key frame is called in lists: AVA's video and second, or `folder/name` of a video and a frame's number."""

# Files kept open: key frames of one video follow one another when they are tested.
_OPEN_VIDEOS = 4


def load_key_frames(
    dataset: str | Path,
    *,
    root: str | Path | None = None,
    split: str | None = "train",
    every: int = 1,
    include_empty: bool = False,
) -> datasets.Dataset:
    """Loads the key frames of a data set with boxes.

    Args:
        dataset: As for `load_video_dataset`: "jhmdb", "ucf101-24", "ava", or any data set with their columns.
        root: Where a built-in set lies.
        split: The split.
        every: Take frames 0, `every`, 2·`every` … of each video. Of AVA, whose key frames lie a second apart, all are
            taken.
        include_empty: Take the frames without boxes too; of AVA the seconds 902 to 1798 that are not excluded.

    Raises:
        ValueError: If the data set has no boxes, or `every` is not positive.
    """
    options = {"include_empty": True} if include_empty and str(dataset) in ("ava", "ava-2.1") else {}
    rows = load_video_dataset(dataset, root=root, split=split, **options)
    if "boxes" not in rows.column_names:
        raise ValueError(f"detection needs boxes, and {dataset} has no column 'boxes', only {rows.column_names}")
    return key_frames(rows, every, include_empty) if "frames" in rows.column_names else rows


def class_names(rows: datasets.Dataset) -> list[str]:
    """Returns the names of the classes of boxes, in the order of their numbers."""
    return list(rows.features["box_labels"].feature.feature.names)


def is_ava(rows: datasets.Dataset) -> bool:
    """Tells key frames of AVA, which have seconds, from others, which have frames."""
    return "second" in rows.column_names


def names_of(rows: datasets.Dataset) -> list[KeyFrame]:
    """Names the key frames for lists in AVA's format.

    Returns:
        For each row the video and a number: AVA's own, or else the last two parts of the path and the frame.
    """
    if is_ava(rows):
        return list(zip(rows["video_id"], rows["second"]))
    videos = rows.select_columns("video").cast_column("video", datasets.Video(decode=False))["video"]
    named = [Path(video["path"] or "video") for video in videos]
    return [("/".join((*path.parts[:-1][-1:], path.stem)), frame) for path, frame in zip(named, rows["frame"])]


def centerd_clip(center: int, num_video_frames: int, num_frames: int, stride: int, extra_frames: int = 0) -> Tensor:
    """Chooses the frames of a clip around a key frame.

    The key frame is frame `num_frames // 2` of the clip. Where the video begins or ends too early, its first or last
    frame is repeated, as in the protocol of AVA.

    Args:
        center: The key frame.
        num_video_frames: Number of frames of the video; a center beyond the end counts as the last frame.
        num_frames: Frames of the clip.
        stride: Frames of the video from one frame of the clip to the next.
        extra_frames: Further frames at the end, which derivatives use up.

    Returns:
        int64 (num_frames + extra_frames,).

    Example:
        >>> centerd_clip(center=5, num_video_frames=10, num_frames=4, stride=3, extra_frames=1).tolist()
        [0, 2, 5, 8, 9]
    """
    center = min(center, num_video_frames - 1)
    offsets = (torch.arange(num_frames + extra_frames) - num_frames // 2) * stride
    return (center + offsets).clamp(0, num_video_frames - 1)


class KeyFrameReader:
    """Reads the clips around key frames, keeping the last few files open.

    Args:
        rows: Key frames.
        num_frames: Frames per clip.
        stride: Frames of the video from one frame of a clip to the next.
        extra_frames: Further frames per clip.
    """

    def __init__(self, rows: datasets.Dataset, num_frames: int, stride: int, extra_frames: int) -> None:
        columns = ["video", "boxes", "box_labels", "timestamp" if "timestamp" in rows.column_names else "frame"]
        if missing := [name for name in columns if name not in rows.column_names]:
            raise ValueError(f"the data set has no column {', '.join(missing)}: its rows are no key frames")
        # Paths or bytes, not decoders: each worker opens its own, since a decoder does not survive a fork.
        self.rows = rows.select_columns(columns).cast_column("video", datasets.Video(decode=False))
        self.num_frames, self.stride, self.extra_frames = num_frames, stride, extra_frames
        self._open: OrderedDict[str | int, VideoReader] = OrderedDict()

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        """Reads the clip around a key frame.

        Returns:
            uint8 (frames + extra_frames, 3, height, width), and the row.

        Raises:
            BrokenVideoError: If the video cannot be decoded.
        """
        row = self.rows[index]
        reader = self._reader(row["video"], index)
        center = round(row["timestamp"] * reader.frame_rate) if "timestamp" in row else row["frame"]
        return reader.read(
            lambda length: centerd_clip(center, length, self.num_frames, self.stride, self.extra_frames)
        ), row

    def read_key_frame(self, index: int) -> Tensor:
        """Reads the key frame itself: uint8 (3, height, width).

        Raises:
            BrokenVideoError: If the video cannot be decoded.
        """
        row = self.rows[index]
        reader = self._reader(row["video"], index)
        center = round(row["timestamp"] * reader.frame_rate) if "timestamp" in row else row["frame"]
        return reader.read(lambda length: centerd_clip(center, length, 1, 1))[0]

    def _reader(self, video: dict[str, Any] | None, index: int) -> VideoReader:
        if video is None or (video["path"] is None and video["bytes"] is None):
            raise BrokenVideoError(f"<row {index}>", "the row holds no video")
        key = video["path"] if video["bytes"] is None else hash(video["bytes"])
        if key not in self._open:
            self._open[key] = VideoReader(video)
        self._open.move_to_end(key)
        while len(self._open) > _OPEN_VIDEOS:
            self._open.popitem(last=False)
        return self._open[key]
