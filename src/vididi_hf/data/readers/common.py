"""What all readers share: one walk over the folder of a data set, its lists, and rows for the videos that are there."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets

from vididi_hf.data.files import VIDEO_SUFFIXES, default_root, find_files
from vididi_hf.data.folders import no_such_split, standard_split, with_video_column

# Where people keep the lists of a set whose videos lie in a folder beside them.
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
    """Some videos that a list names are not on the disk; the rows are the others.

    Attributes:
        videos: All that are missing, as the list names them.
    """

    def __init__(self, dataset: str, root: Path, videos: Sequence[str], listed: int) -> None:
        super().__init__(dataset, root, videos, listed)
        self.videos = tuple(videos)
        self._message = (
            f"{dataset}: {len(videos):,} of the {listed:,} listed videos are not under {root} and are left out: "
            f"{_few(videos)}"
        )

    def __str__(self) -> str:
        return self._message


class DatasetFolder:
    """The folder of a data set, walked over once.

    Args:
        name: The data set, for messages and the default folder.
        root: The folder; by default the one of that name in the user's cache.
        least: The share of a list's videos below which a folder is no copy of the data set. By default half: JHMDB and
            UCF101-24, whose videos have the names that they have in HMDB51 and UCF101, hold less than that of these.

    Attributes:
        root: The absolute folder.
        files: Paths of all files in it, relative to it and sorted.

    Raises:
        FileNotFoundError: If there is no such folder.
    """

    def __init__(self, name: str, root: str | Path | None = None, least: float = 0.5) -> None:
        self.name = name
        self.least = least
        self.root = (Path(root) if root is not None else default_root(name)).expanduser().absolute()
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"{name}: there is no folder {self.root}; say where the data set lies (root=…, --dataset_root …)"
            )
        self.files = find_files(self.root)

    @cached_property
    def videos(self) -> dict[str, str]:
        """Paths by name without suffix, both with the name of the folder before it (`run/a`) and without (`a`).

        Names without their suffix find videos that were encoded anew into another container.
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
        """Files that may be lists, in order of preference: those in the folder, less deep first, then those beside."""
        inside = sorted((file for file in self.files if _is_no_video(file)), key=lambda file: file.count("/"))
        parent = self.root.parent
        beside = sorted(path for path in parent.iterdir() if path.is_file()) if parent != self.root else []
        for folder in (parent / name for name in LIST_FOLDERS):
            if folder.is_dir() and folder != self.root:
                beside += [folder / file for file in find_files(folder)]
        return [self.root / file for file in inside] + beside

    def find_lists(self, pattern: str) -> list[Path]:
        """Finds list files by a regular expression for their whole names, whatever the case of letters.

        They may lie anywhere in the folder, beside it, or in one of `LIST_FOLDERS` beside it.
        """
        expression = re.compile(pattern, re.IGNORECASE)
        return [path for path in self._list_candidates if expression.fullmatch(path.name)]

    def find_list(self, pattern: str, description: str) -> Path:
        """Finds the first list file of that pattern.

        Raises:
            FileNotFoundError: If there is none; it says what was looked for (`description`), where, and what is there.
        """
        for path in self.find_lists(pattern):
            return path
        raise self.missing(description)

    def missing(self, description: str) -> FileNotFoundError:
        """The error that says what is not there, where it was looked for, and what is there."""
        return FileNotFoundError(
            f"{self.name}: found no {description}; looked anywhere in {self.root}, in {self.root.parent}, and there in "
            f"the folders {', '.join(LIST_FOLDERS)}. {self._holds()}"
        )

    def _holds(self) -> str:
        if not self.files:
            return f"{self.root} is empty"
        return f"{self.root} holds {len(self.files):,} files: {_few(self.files)}"

    def locate(self, name: str) -> str | None:
        """The path of a video named `folder/stem` or `stem`, or None. A folder of another name is no obstacle."""
        return self.videos.get(name) or self.videos.get(name.rpartition("/")[2])

    def rows(
        self,
        listed: Sequence[str],
        labels: Sequence[str | None] | None = None,
        names: list[str] | None = None,
        features: dict[str, Any] | None = None,
        **columns: Sequence,
    ) -> datasets.Dataset:
        """Makes the rows of those listed videos that are there.

        Args:
            listed: The videos, named as for `locate`; the same one may come several times.
            labels: The class name of each.
            names: All class names in the order of their numbers.
            features: Types of further columns, where their values do not tell.
            **columns: Further columns, one value for each listed video.

        Raises:
            FileNotFoundError: If no listed video is there, or a smaller share of them than `least`.

        Warns:
            AbsentVideosWarning: If some are not.
        """
        paths = [self.locate(name) for name in listed]
        kept = [index for index, path in enumerate(paths) if path is not None]
        distinct = dict.fromkeys(listed)
        absent = list(dict.fromkeys(name for name, path in zip(listed, paths) if path is None))
        if not kept or len(absent) > (1 - self.least) * len(distinct):
            there = f"only {len(distinct) - len(absent):,}" if kept else "none"
            raise FileNotFoundError(
                f"{self.name}: {there} of the {len(distinct):,} listed videos found in {self.root}; looked there "
                f"at any depth for {_few(absent)} (any of {', '.join(VIDEO_SUFFIXES)}). {self._holds()}. "
                "A part of a data set is read as a folder of videos or a list (video,label,split)"
            )
        if absent:
            warnings.warn(AbsentVideosWarning(self.name, self.root, absent, len(distinct)), stacklevel=3)
        return with_video_column(
            [str(paths[index]) for index in kept],
            [labels[index] for index in kept] if labels is not None else None,
            names,
            features,
            **{column: [values[index] for index in kept] for column, values in columns.items()},
        )


def choose_splits(name: str, split: str | None, offered: Sequence[str]) -> list[str]:
    """The official splits that a call asks for: one by any of its names, or all of them for None.

    Raises:
        MissingSplitError: If the data set has no such split.
    """
    if split is None:
        return list(offered)
    if standard_split(split) not in offered:
        raise no_such_split(name, split, offered)
    return [standard_split(split)]


def check_official_split(name: str, number: int) -> None:
    """Raises ValueError unless `number` is that of one of the three official splits."""
    if number not in (1, 2, 3):
        raise ValueError(f"{name}: official_split must be 1, 2 or 3, got {number!r}")


def without_suffix(video: str) -> str:
    """The name of a video file without its suffix; other dots are parts of the name."""
    stem, _, suffix = video.rpartition(".")
    return stem if f".{suffix.lower()}" in VIDEO_SUFFIXES else video


def _is_no_video(file: str) -> bool:
    return without_suffix(file) == file


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
