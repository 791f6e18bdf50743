"""Parts of data sets: a validation part of the training videos, or a share of them to train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import pandas as pd
import torch

from vididi_hf.data.seeding import seeded_generator
from vididi_hf.evaluation.features import label_names
from vididi_hf.evaluation.retrieval import ROW, RetrievalSplits, load_retrieval_splits
from vididi_hf.files import write_text


@dataclass(frozen=True)
class VideoSource:
    """Videos to evaluate with. The queries are the split `test`, or else the gallery itself."""

    dataset: str  # as for load_video_dataset
    root: str | None = None  # folder of a built-in set
    split: str = "train"  # the gallery
    group_column: str | None = None  # compare each video only with videos that differ in this column

    def load(self) -> RetrievalSplits:
        """Loads gallery and queries."""
        return load_retrieval_splits(
            self.dataset, root=self.root, gallery_split=self.split, group_column=self.group_column
        )


@dataclass(frozen=True)
class Selection:
    """A CSV list of a part of a data set."""

    source: VideoSource
    path: Path
    share: float  # of the training videos of each class
    seed: int = 0
    group: str | None = None  # a column whose values stay together
    # True trains on the chosen videos and keeps the queries. False makes the chosen videos the queries and trains on
    # the others; the list then has no video of the test split.
    only_train: bool = False

    def write(self) -> Path:
        """Writes the list, with absolute paths of the videos."""
        splits = self.source.load()
        rows = splits.gallery
        for column in ("label", *([self.group] if self.group else [])):
            if column not in rows.column_names:
                raise ValueError(f"{self.source.dataset} has no column {column!r}, only {', '.join(rows.column_names)}")
        chosen = hold_out(label_names(rows), self.share, self.seed, rows[self.group][:] if self.group else None)
        if self.only_train:
            parts = {"train": rows.select(chosen)}
            if splits.group_column is None:
                parts["test"] = splits.queries
        else:
            parts = {"train": rows.select(sorted({*range(len(rows))} - {*chosen})), "test": rows.select(chosen)}
        table = pd.concat([_table(part, split, self.source.dataset) for split, part in parts.items()])
        return write_text(self.path, table.to_csv(index=False))


def hold_out(
    labels: Sequence[Hashable], share: float, seed: int = 0, groups: Sequence[Hashable] | None = None
) -> list[int]:
    """Chooses a share of the videos of every class without splitting groups.

    Groups are drawn in random order. A group is skipped if some class would exceed its quota: `share` times its videos,
    rounded, at least one and never all. Without groups every class gives exactly its quota.

    Example:
        >>> chosen = hold_out(["run"] * 4 + ["hop"] * 8, share=0.25)
        >>> sum(row < 4 for row in chosen), len(chosen)
        (1, 3)
    """
    quota = {label: min(max(1, round(share * size)), size - 1) for label, size in Counter(labels).items()}
    members: dict[Hashable, list[int]] = {}
    for row in range(len(labels)):
        members.setdefault(row if groups is None else groups[row], []).append(row)
    together = list(members.values())
    order = torch.randperm(len(together), generator=seeded_generator("held-out videos", seed)).tolist()
    taken: Counter[Hashable] = Counter()
    chosen: list[int] = []
    for number in order:
        more = Counter(labels[row] for row in together[number])
        if all(taken[label] + count <= quota[label] for label, count in more.items()):
            taken += more
            chosen += together[number]
    return sorted(chosen)


def _table(rows: datasets.Dataset, split: str, name: str) -> pd.DataFrame:
    videos = rows.select_columns("video").cast_column("video", datasets.Video(decode=False))["video"][:]
    if not all(video["path"] for video in videos):
        raise ValueError(f"a part of {name} can be listed only if its videos are files")
    others = [column for column in rows.column_names if column not in ("video", "label", ROW)]
    return pd.DataFrame(
        {
            "video": [str(Path(video["path"]).resolve()) for video in videos],
            "label": label_names(rows),
            "split": split,
            **{column: rows[column][:] for column in others},
        }
    )
