"""Which videos are asked about, and which are searched."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import datasets

from vididi_hf.data.folders import MissingSplitError
from vididi_hf.data.registry import load_video_dataset

ROW = "row"
"""A column that numbers the videos: leaving out one value of it leaves out the video itself."""


class RetrievalSplits(NamedTuple):
    """The two sides of retrieval.

    Attributes:
        gallery: The videos searched.
        queries: The videos asked about; `gallery` itself where the set has no test split.
        group_column: The column by which a query's own kind is left out of the gallery, or None.
    """

    gallery: datasets.Dataset
    queries: datasets.Dataset
    group_column: str | None


def load_retrieval_splits(
    name: str | Path,
    *,
    root: str | Path | None = None,
    gallery_split: str = "train",
    query_split: str = "test",
    group_column: str | None = None,
) -> RetrievalSplits:
    """Loads gallery and queries of a data set, whatever splits it has.

    Args:
        name: As for `load_video_dataset`.
        root: Where a built-in set lies.
        gallery_split: The split searched.
        query_split: The split asked about. Where the set has no such split, every video of `gallery_split` is compared
            with all the others.
        group_column: Compare every video of `gallery_split` with those that differ from it in this column (the recording
            that a clip was cut from, say), whatever other splits there are.

    Raises:
        FileNotFoundError: If there is no such data set.
        ValueError: If there is no split `gallery_split`.
    """
    gallery = load_video_dataset(name, root=root, split=gallery_split)
    if group_column is not None:
        return RetrievalSplits(gallery, gallery, group_column)
    try:
        return RetrievalSplits(gallery, load_video_dataset(name, root=root, split=query_split), None)
    except MissingSplitError:
        gallery = gallery.add_column(ROW, list(range(len(gallery))))
        return RetrievalSplits(gallery, gallery, ROW)
