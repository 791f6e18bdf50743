"""Shared by all readers: the folder of a data set, its lists, and rows for the videos that exist."""

import re
import unicodedata
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets

from vididi_hf.data import folders
from vididi_hf.data.folders import VIDEO_SUFFIXES, find_files, no_such_split, standard_split
from vididi_hf.files import printable, storable

# Usual folders of lists, next to the folder of the videos.
LIST_FOLDERS = (
    *("annotations", "annotation", "labels", "splits", "ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask"),
    *("testTrainMulti_7030_splits", "test_train_splits", "puppet_mask"),
)


class AbsentVideosWarning(UserWarning):
    """Some listed videos, `videos`, do not exist. The rows are the others."""

    def __init__(self, message: str, videos: Sequence[str]) -> None:
        super().__init__(message)
        self.videos = tuple(videos)


class DatasetFolder:
    """The folder of a data set, by default the one of that name in the user's cache."""

    def __init__(self, name: str, root: str | Path | None = None, least: float = 0.5) -> None:
        self.name = name
        # The share of a list's videos that must exist. JHMDB and UCF101-24, whose videos have the same names as those
        # of HMDB51 and UCF101, hold less than half.
        self.least = least
        self.root = (Path(root) if root is not None else folders.default_root(name)).expanduser().absolute()
        if not self.root.is_dir():
            advice = "pass the folder of the data set (root=…, --dataset_root …)"
            raise FileNotFoundError(f"{name}: there is no folder {self.root}; {advice}")
        self.skipped: dict[str, str] = {}
        self.files = find_files(self.root, self.skipped)

    @cached_property
    def videos(self) -> dict[str, str]:
        """Paths by name without suffix, with the name of the last folder (`run/a`) and without it (`a`)."""
        found: dict[str, str] = {}
        for file in self.files:
            if (stem := without_suffix(file)) != file:
                folder, _, name = stem.rpartition("/")
                for key in (f"{folder.rpartition('/')[2]}/{name}", name):
                    found.setdefault(_normalized(key), storable(f"{self.root}/{file}"))
        return found

    @cached_property
    def _list_candidates(self) -> list[Path]:
        """First those in the folder, less deep first, then those next to it."""
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
        looked = f"anywhere in {self.root}, in {self.root.parent}, and there in the folders {', '.join(LIST_FOLDERS)}"
        return FileNotFoundError(f"{self.name}: found no {description}; looked {looked}. {self._content()}")

    def _content(self) -> str:
        if not self.files:
            return f"{self.root} is empty"
        why = _few([f"{name} ({reason})" for name, reason in self.skipped.items()])
        unread = f"; {len(self.skipped):,} cannot be read: {why}" if why else ""
        return f"{self.root} holds {len(self.files):,} files: {_few(self.files)}{unread}"

    def locate(self, name: str) -> str | None:
        """The path of a video named `folder/stem` or `stem`, in a folder of any name."""
        name = _normalized(name)
        return self.videos.get(name) or self.videos.get(name.rpartition("/")[2])

    def rows(
        self, listed: Sequence[str], labels: Sequence[str | None] | None = None, *types: Any, **columns: Sequence
    ) -> datasets.Dataset:
        """Builds the rows of the listed videos that exist, like `with_video_column`, and warns of the others."""
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
            skipped = f"listed videos are not under {self.root} and are skipped: {_few(absent)}"
            message = f"{self.name}: {len(absent):,} of the {len(distinct):,} {skipped}"
            message += f". {self._content()}" if self.skipped else ""
            warnings.warn(AbsentVideosWarning(message, absent), stacklevel=3)
        videos = [str(paths[index]) for index in kept]
        labels = labels and [labels[index] for index in kept]
        others: dict[str, Any] = {name: [values[index] for index in kept] for name, values in columns.items()}
        names, features = (*types, None, None)[:2]
        return folders.with_video_column(videos, labels, names, features, others)


def choose_splits(name: str, split: str | None, offered: Sequence[str], official_split: int = 1) -> list[str]:
    """Returns the parts of an official split that a call asks for; None asks for all."""
    if official_split not in (1, 2, 3):
        raise ValueError(f"{name}: official_split must be 1, 2 or 3, got {official_split!r}")
    if split is None:
        return list(offered)
    if standard_split(split) not in offered:
        raise no_such_split(name, split, offered)
    return [standard_split(split)]


def without_suffix(video: str) -> str:
    """Removes the suffix of a video file. Other dots are part of the name."""
    stem, _, suffix = video.rpartition(".")
    return stem if f".{suffix.lower()}" in VIDEO_SUFFIXES else video


def _few(names: Sequence[str]) -> str:
    return printable(", ".join(names[:3]) + (", …" if len(names) > 3 else ""))


def _normalized(name: str) -> str:
    return unicodedata.normalize("NFC", storable(name))
