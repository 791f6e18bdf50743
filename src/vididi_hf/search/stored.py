"""Embeddings on the disk: the vectors, what is known about their videos, and the videos most like given ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vididi_hf.data.preparation.shards import DATA_FOLDER
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.search.embedding import EMBEDDING, ROW, VIDEO, read_report
from vididi_hf.search.exact import search_exact

INDEXES = ("exact", "faiss")


@dataclass
class StoredEmbeddings:
    """What `embed_videos` wrote.

    Attributes:
        folder: Where it lies.
        report: What `embeddings.json` holds.
        rows: Everything but the vectors: `video`, `row` and, where they are known, `label` and others.
        vectors: float32 (videos, dimensions), of unit length.
    """

    folder: Path
    report: dict[str, Any]
    rows: datasets.Dataset
    vectors: NDArray[np.float32]

    @classmethod
    def open(cls, folder: str | Path) -> StoredEmbeddings:
        """Reads the embeddings in a folder.

        Raises:
            FileNotFoundError: If it holds none, they are not finished, or a shard is missing.
            ValueError: If it holds something else.
        """
        folder = Path(folder)
        report = read_report(folder)
        if not report["embedded"]:
            raise ValueError(f"{folder} holds no embeddings: none of the {report['videos']} videos could be decoded")
        vectors = np.empty((report["embedded"], report["dimensions"]), np.float32)
        tables, start = [], 0
        for shard in report["shards"]:
            path = folder / DATA_FOLDER / shard["file"]
            if not path.is_file():
                raise FileNotFoundError(f"{folder} lacks a shard of its embeddings: {path}")
            table = pq.read_table(path)
            if table.num_rows != shard["rows"]:
                raise ValueError(f"{path} has {table.num_rows} rows, and should have {shard['rows']}")
            if table.num_rows == 0:
                continue
            numbers = table[EMBEDDING].combine_chunks().flatten().to_numpy()
            vectors[start : start + table.num_rows] = numbers.reshape(-1, report["dimensions"])
            start += table.num_rows
            tables.append(datasets.Dataset(datasets.table.InMemoryTable(table)).remove_columns(EMBEDDING))
        return cls(folder, report, datasets.concatenate_datasets(tables), vectors)

    def search(
        self, queries: NDArray[np.float32], k: int, index: str = "exact", faiss_factory: str = "Flat"
    ) -> list[tuple[list[float], list[int]]]:
        """Finds the videos most like given ones.

        Args:
            queries: float32 (queries, dimensions), of unit length.
            k: How many to find.
            index: `"exact"`, or `"faiss"` by way of 🤗 Datasets, which needs faiss-cpu or faiss-gpu.
            faiss_factory: What kind of index FAISS builds, as it names them: `"Flat"`, `"HNSW32"`, `"IVF1024,Flat"` …

        Returns:
            For each query the cosines of the videos found, the most similar first, and their rows; fewer than k where
            there are no more.

        Raises:
            ImportError: If FAISS is not installed.
            ValueError: If there is no such index, or a query has another number of dimensions.
        """
        if index not in INDEXES:
            raise ValueError(f"unknown index {index!r}; choose from {', '.join(INDEXES)}")
        if queries.ndim != 2 or queries.shape[1] != self.vectors.shape[1]:
            raise ValueError(f"queries must be (number, {self.vectors.shape[1]}), got {tuple(queries.shape)}")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        k = min(k, len(self.vectors))
        if index == "exact":
            scores, rows = search_exact(queries, self.vectors, k)
        else:
            scores, rows = _search_with_faiss(queries, self.vectors, k, faiss_factory)
        answers = []
        for some, found in zip(scores, rows):
            exists = found >= 0  # FAISS says −1 where an index that is not exact finds fewer
            answers.append((some[exists].tolist(), found[exists].tolist()))
        return answers

    def playable(self, rows: Sequence[int]) -> datasets.Dataset:
        """Returns some of the rows with their videos, as they were embedded.

        Raises:
            FileNotFoundError: If neither the files nor the data set are where they were.
            ValueError: If the data set is no longer the one that was embedded.
        """
        stored = self.rows.select(rows)
        if all(map(os.path.isfile, stored[VIDEO])):
            return stored.cast_column(VIDEO, datasets.Video())
        name, split = self.report["dataset"], self.report["split"]
        source = load_video_dataset(name, root=self.report["dataset_root"], split=split)
        if len(source) != self.report["videos"]:
            raise ValueError(
                f"{name} has {len(source)} videos, and had {self.report['videos']} when {self.folder} was made of it"
            )
        videos = source.select(stored[ROW][:]).select_columns(VIDEO)
        return datasets.concatenate_datasets([videos, stored.remove_columns(VIDEO)], axis=1)


def _search_with_faiss(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int, factory: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"FAISS is not installed ({error}): pip install 'vididi-hf[faiss]'") from error
    numbered = datasets.Dataset.from_dict({ROW: range(len(vectors))})  # the index belongs to this data set
    try:
        numbered.add_faiss_index_from_external_arrays(
            vectors,
            EMBEDDING,
            string_factory=factory,
            metric_type=faiss.METRIC_INNER_PRODUCT,
            train_size=len(vectors),
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"FAISS cannot build an index {factory!r} of {len(vectors)} vectors: {reason}") from error
    found = numbered.search_batch(EMBEDDING, queries, k=k)
    return found.total_scores, found.total_indices
