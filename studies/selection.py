"""Parts of data sets: a validation part of the training videos, or a share of them to be trained on."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch

from vididi_hf.data.seeding import seeded_generator
from vididi_hf.evaluation.features import label_names
from vididi_hf.evaluation.retrieval import ROW, RetrievalSplits, load_retrieval_splits
from vididi_hf.files import write_text


@dataclass(frozen=True)
class VideoSource:
    """Videos to evaluate with.

    Attributes:
        dataset: As for `load_video_dataset`.
        root: Where a built-in set lies.
        split: The split that is searched; the split `test`, or the same one, is asked about.
        group_column: A column, if every video is compared with those that differ from it there.
    """

    dataset: str
    root: str | None = None
    split: str = "train"
    group_column: str | None = None

    def load(self) -> RetrievalSplits:
        """Loads gallery and queries."""
        return load_retrieval_splits(
            self.dataset, root=self.root, gallery_split=self.split, group_column=self.group_column
        )


@dataclass(frozen=True)
class Selection:
    """A list of videos that is made of a part of a data set.

    Attributes:
        source: The data set.
        path: The list, a `.csv` with the splits `train` and, where there are videos for it, `test`.
        share: The share of the training videos, of each class, that is chosen.
        seed: The seed of the choice.
        group: A column whose values are chosen together or not at all.
        only_train: Whether the chosen videos are all that `train` has, the queries staying as they are. Otherwise they
            become the queries, and `train` has the others: nothing of the test split is then in the list.
    """

    source: VideoSource
    path: Path
    share: float
    seed: int = 0
    group: str | None = None
    only_train: bool = False

    def write(self) -> Path:
        """Writes the list, which holds the absolute paths of the videos.

        Returns:
            Its path.

        Raises:
            ValueError: If the videos are no files, have no labels, or the column does not exist.
        """
        splits = self.source.load()
        rows = splits.gallery
        for column in ("label", *([self.group] if self.group else [])):
            if column not in rows.column_names:
                raise ValueError(f"{self.source.dataset} has no column {column!r}, only {', '.join(rows.column_names)}")
        groups = rows[self.group][:] if self.group else None
        chosen = set(hold_out(label_names(rows), self.share, self.seed, groups))
        others = [row for row in range(len(rows)) if row not in chosen]
        if self.only_train:
            parts = {"train": rows.select(sorted(chosen))}
            if splits.group_column is None:
                parts["test"] = splits.queries
        else:
            parts = {"train": rows.select(others), "test": rows.select(sorted(chosen))}
        lines = [line for split, part in parts.items() for line in _lines(part, split, self.source.dataset)]
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
        return write_text(self.path, table.getvalue())


def hold_out(
    labels: Sequence[Hashable], share: float, seed: int = 0, groups: Sequence[Hashable] | None = None
) -> list[int]:
    """Chooses a share of the videos of every class, whole groups of them at a time.

    Groups are drawn one after the other, and one is taken unless some class would then have given more than its share:
    `share` times its videos, rounded, of a class of two or more at least one and never all. Without groups every class
    gives exactly that.

    Args:
        labels: The class of each video.
        share: The share, between 0 and 1.
        seed: The seed of the order in which groups are drawn.
        groups: The group of each video; None makes each video one of its own.

    Returns:
        The rows that are chosen, in rising order.

    Example:
        >>> from studies.selection import hold_out
        >>> chosen = hold_out(["run"] * 4 + ["hop"] * 8, share=0.25)
        >>> sum(row < 4 for row in chosen), len(chosen)
        (1, 3)
    """
    sizes = Counter(labels)
    allowed = {label: min(max(1, round(share * size)), size - 1) for label, size in sizes.items()}
    members: dict[Hashable, list[int]] = {}
    for row in range(len(labels)):
        members.setdefault(row if groups is None else groups[row], []).append(row)
    together = list(members.values())
    order = torch.randperm(len(together), generator=seeded_generator("held-out videos", seed)).tolist()
    taken: Counter[Hashable] = Counter()
    chosen: list[int] = []
    for number in order:
        more = Counter(labels[row] for row in together[number])
        if all(taken[label] + count <= allowed[label] for label, count in more.items()):
            taken += more
            chosen += together[number]
    return sorted(chosen)


def _lines(rows: datasets.Dataset, split: str, name: str) -> list[dict[str, Any]]:
    """The lines of a list for some videos."""
    videos = rows.select_columns("video").cast_column("video", datasets.Video(decode=False))["video"][:]
    if not all(video["path"] for video in videos):
        raise ValueError(f"a part of {name} can be listed only if its videos are files")
    labels = label_names(rows)
    others = [column for column in rows.column_names if column not in ("video", "label", ROW)]
    columns = {column: rows[column][:] for column in others}
    return [
        {
            "video": str(Path(video["path"]).resolve()),
            "label": labels[number],
            "split": split,
            **{column: columns[column][number] for column in others},
        }
        for number, video in enumerate(videos)
    ]
