"""Shared by all readers: the folder of a data set, its lists, and rows for the videos that exist."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets

from vididi_hf.data.folders import (
    VIDEO_SUFFIXES,
    default_root,
    find_files,
    no_such_split,
    standard_split,
    with_video_column,
)

# Usual folders of lists, next to the folder of the videos.
LIST_FOLDERS = (
    "annotations",
    "annotation",
    "labels",
    "splits",
    "ucfTrainTestlist",
    "UCF101TrainTestSplits-RecognitionTask",
    "testTrainMulti_7030_splits",
    "test_train_splits",
    "puppet_mask",
)


class AbsentVideosWarning(UserWarning):
    """Some listed videos, `videos`, do not exist. The rows are the others."""

    def __init__(self, message: str, videos: Sequence[str]) -> None:
        super().__init__(message)
        self.videos = tuple(videos)


class DatasetFolder:
    """The folder of a data set, by default the one of that name in the user's cache.

    `least` is the share of a list's videos that must exist. By default half: JHMDB and UCF101-24, whose videos have the
    same names as those of HMDB51 and UCF101, hold less than that.
    """

    def __init__(self, name: str, root: str | Path | None = None, least: float = 0.5) -> None:
        self.name = name
        self.least = least
        self.root = (Path(root) if root is not None else default_root(name)).expanduser().absolute()
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"{name}: there is no folder {self.root}; pass the folder of the data set (root=…, --dataset_root …)"
            )
        self.files = find_files(self.root)

    @cached_property
    def videos(self) -> dict[str, str]:
        """Paths by name without suffix, with the name of the last folder (`run/a`) and without it (`a`).

        The suffix may differ from the list's, because videos are often re-encoded into another container.
        """
        found: dict[str, str] = {}
        for file in self.files:
            stem, _, suffix = file.rpartition(".")
            if f".{suffix.lower()}" in VIDEO_SUFFIXES:
                folders, _, name = stem.rpartition("/")
                path = f"{self.root}/{file}"
                found.setdefault(f"{folders.rpartition('/')[2]}/{name}", path)
                found.setdefault(name, path)
        return found

    @cached_property
    def _list_candidates(self) -> list[Path]:
        """Files that may be lists: first those in the folder, less deep first, then those next to it."""
        inside = sorted((file for file in self.files if without_suffix(file) == file), key=lambda file: file.count("/"))
        parent = self.root.parent
        beside = sorted(path for path in parent.iterdir() if path.is_file()) if parent != self.root else []
        for folder in (parent / name for name in LIST_FOLDERS):
            if folder.is_dir() and folder != self.root:
                beside += [folder / file for file in find_files(folder)]
        return [self.root / file for file in inside] + beside

    def find_lists(self, pattern: str) -> list[Path]:
        """Finds list files in or next to the folder, or in `LIST_FOLDERS` there, by a pattern of the whole name."""
        expression = re.compile(pattern, re.IGNORECASE)
        return [path for path in self._list_candidates if expression.fullmatch(path.name)]

    def find_list(self, pattern: str, description: str) -> Path:
        """Finds the first list file of that pattern, or raises `FileNotFoundError`."""
        for path in self.find_lists(pattern):
            return path
        raise self.missing(description)

    def missing(self, description: str) -> FileNotFoundError:
        """Builds the error that says what is missing, where it was searched, and what exists."""
        return FileNotFoundError(
            f"{self.name}: found no {description}; looked anywhere in {self.root}, in {self.root.parent}, and there in "
            f"the folders {', '.join(LIST_FOLDERS)}. {self._content()}"
        )

    def _content(self) -> str:
        if not self.files:
            return f"{self.root} is empty"
        return f"{self.root} holds {len(self.files):,} files: {_few(self.files)}"

    def locate(self, name: str) -> str | None:
        """The path of a video named `folder/stem` or `stem`, in a folder of any name, or None."""
        return self.videos.get(name) or self.videos.get(name.rpartition("/")[2])

    def rows(
        self,
        listed: Sequence[str],
        labels: Sequence[str | None] | None = None,
        names: list[str] | None = None,
        features: dict[str, Any] | None = None,
        **columns: Sequence,
    ) -> datasets.Dataset:
        """Builds the rows of the listed videos that exist; see `with_video_column`.

        Videos are named as for `locate`. Columns have one value per listed video. If some videos do not exist, this
        warns; if fewer than `least` exist, it raises `FileNotFoundError`.
        """
        paths = [self.locate(name) for name in listed]
        kept = [index for index, path in enumerate(paths) if path is not None]
        distinct = dict.fromkeys(listed)
        absent = list(dict.fromkeys(name for name, path in zip(listed, paths) if path is None))
        if not kept or len(absent) > (1 - self.least) * len(distinct):
            there = f"only {len(distinct) - len(absent):,}" if kept else "none"
            raise FileNotFoundError(
                f"{self.name}: {there} of the {len(distinct):,} listed videos found in {self.root}; looked there "
                f"at any depth for {_few(absent)} (any of {', '.join(VIDEO_SUFFIXES)}). {self._content()}. "
                "To read a part of a data set, use a folder of videos or a list (video,label,split)"
            )
        if absent:
            message = (
                f"{self.name}: {len(absent):,} of the {len(distinct):,} listed videos are not under {self.root} and "
                f"are skipped: {_few(absent)}"
            )
            warnings.warn(AbsentVideosWarning(message, absent), stacklevel=3)
        return with_video_column(
            [str(paths[index]) for index in kept],
            [labels[index] for index in kept] if labels is not None else None,
            names,
            features,
            **{column: [values[index] for index in kept] for column, values in columns.items()},
        )


def choose_splits(name: str, split: str | None, offered: Sequence[str]) -> list[str]:
    """Returns the official splits that a call asks for; None asks for all."""
    if split is None:
        return list(offered)
    if standard_split(split) not in offered:
        raise no_such_split(name, split, offered)
    return [standard_split(split)]


def check_official_split(name: str, number: int) -> None:
    """Checks that an official split is 1, 2 or 3."""
    if number not in (1, 2, 3):
        raise ValueError(f"{name}: official_split must be 1, 2 or 3, got {number!r}")


def without_suffix(video: str) -> str:
    """Removes the suffix of a video file. Other dots are part of the name."""
    stem, _, suffix = video.rpartition(".")
    return stem if f".{suffix.lower()}" in VIDEO_SUFFIXES else video


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
