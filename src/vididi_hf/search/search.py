"""Finding the videos of a data set that are most similar to a query video."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vididi_hf.containers_vididi import local_path
from vididi_hf.data.folders import with_video_column
from vididi_hf.data.preparation.shards import DATA_FOLDER
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.evaluation.features import extract_features
from vididi_hf.evaluation.inputs import INPUTS
from vididi_hf.evaluation.knn import nearest_neighbors
from vididi_hf.evaluation.loading import load_encoder
from vididi_hf.files import printable, storable, write_text
from vididi_hf.reading import check_file, reading
from vididi_hf.search import embedding
from vididi_hf.search.embedding import EMBEDDING, ROW, VIDEO, embed_videos
from vididi_hf.search.options import SearchOptions
from vididi_hf.visualization import plot_retrieval, save_figure
from vididi_hf.visualization.neighbors import video_label

_SCORES_AT_ONCE = 2**24  # limits the memory
_CHOICES = ("split", "dataset_config", "video_column", "label_column")  # of the data set, in the report


def run(options: SearchOptions) -> None:
    """Runs `vididi search`: prints a table for each query, and writes search.json and search.png."""
    stored, answers = search_videos(options)
    print(format_answers(answers))
    output = Path(options.output_dir)
    report = {
        "embeddings": str(stored.folder),
        "index": options.index if options.index == "exact" else f"faiss, {options.faiss_factory}",
        "videos": len(stored.vectors),
        "protocol": stored.report["protocol"],
        "answers": [asdict(answer) for answer in answers],
    }
    write_text(output / "search.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    if options.pictured > 0 and any(answer.found for answer in answers):
        save_figure(plot_answers(stored, answers[: options.pictured]), output / "search.png")


@dataclass
class StoredEmbeddings:
    """The output of `embed_videos`."""

    folder: Path
    report: dict[str, Any]  # the content of `embeddings.json`
    rows: datasets.Dataset  # everything but the vectors: `video`, `row`, and the other columns of the data set
    vectors: NDArray[np.float32]  # (videos, dimensions), of unit length

    @classmethod
    def open(cls, folder: str | Path) -> "StoredEmbeddings":
        """Reads the embeddings in a folder; a FileNotFoundError or ValueError says what is wrong with it."""
        folder = Path(folder)
        report = embedding.read_report(folder)
        if not report["embedded"]:
            raise ValueError(f"{folder} has no embeddings: none of the {report['videos']} videos could be decoded")
        tables = []
        for shard in report["shards"]:
            path = folder / DATA_FOLDER / shard["file"]
            if not path.exists():
                raise FileNotFoundError(f"{folder} lacks a shard of its embeddings: {path}")
            with reading(path):
                metadata = pq.read_metadata(check_file(path))
                if (count := metadata.num_rows) != shard["rows"]:
                    raise ValueError(f"{path} has {count} rows instead of {shard['rows']}")
                tables.append(pq.read_table(path))
                if (found := tables[-1].schema.field(EMBEDDING).type.list_size) != report["dimensions"]:
                    raise ValueError(f"{path} has {found} dimensions instead of {report['dimensions']}")
        table = pa.concat_tables(tables)
        vectors = np.array(table[EMBEDDING].combine_chunks().flatten()).reshape(-1, report["dimensions"])  # writable
        rows = datasets.Dataset(datasets.table.InMemoryTable(table)).remove_columns(EMBEDDING)
        return cls(folder, report, rows, vectors)

    def search(
        self, queries: NDArray[np.float32], k: int, index: str = "exact", faiss_factory: str = "Flat"
    ) -> list[tuple[list[float], list[int]]]:
        """Returns the cosines and the rows of the k videos most similar to each query, a unit vector."""
        k = min(k, len(self.vectors))
        if index == "exact":
            scores, rows = search_exact(queries, self.vectors, k)
        else:
            scores, rows = _search_with_faiss(queries, self.vectors, k, faiss_factory)
        # FAISS returns −1 if an approximate index finds fewer.
        return [(some[found >= 0].tolist(), found[found >= 0].tolist()) for some, found in zip(scores, rows)]

    def playable(self, rows: Sequence[int]) -> datasets.Dataset:
        """Returns some of the rows with their videos; an error says if neither the files nor the data set exist."""
        stored = self.rows.select(rows)
        if all(os.path.isabs(video) and os.path.isfile(local_path(video)) for video in stored[VIDEO]):
            return stored.cast_column(VIDEO, datasets.Video())
        name, split = self.report["dataset"], self.report["split"]
        columns = {column: self.report.get(column) for column in ("video_column", "label_column")}
        how = {"root": self.report["dataset_root"], "config": self.report.get("dataset_config"), **columns}
        source = load_video_dataset(name, split=split, **how)
        if len(source) != (before := self.report["videos"]):
            raise ValueError(f"{name} has {len(source)} videos, but had {before} when {self.folder} was written")
        videos = source.select(stored[ROW][:]).select_columns(VIDEO)
        return datasets.concatenate_datasets([videos, stored.remove_columns(VIDEO)], axis=1)


def search_exact(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """Returns the cosines of the k vectors most similar to each query and their rows, both (queries, k)."""
    chunk = max(1, _SCORES_AT_ONCE // len(vectors))
    rows = nearest_neighbors(torch.from_numpy(queries), torch.from_numpy(vectors), k, chunk).numpy()
    return np.einsum("qd,qkd->qk", queries, vectors[rows], dtype=np.float64), rows


def _search_with_faiss(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int, factory: str
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"FAISS is not installed ({error}): pip install 'vididi-hf[faiss]'") from error
    try:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"FAISS cannot build an index {factory!r} of {len(vectors)} vectors: {reason}") from error
    return index.search(queries, k)


@dataclass
class FoundVideo:
    """A video that was found."""

    rank: int  # from 1, the most similar one
    score: float
    label: str | None
    video: str
    row: int  # among the embeddings


@dataclass
class SearchAnswer:
    """The videos found for one query. It has a label if it is one of the labeled videos of the data set."""

    query: str
    label: str | None
    found: list[FoundVideo]


def search_videos(options: SearchOptions) -> tuple[StoredEmbeddings, list[SearchAnswer]]:
    """Finds the videos most similar to query videos, by the cosine of their embeddings.

    A query does not find itself if it is one of the videos searched (by its path).

    Args:
        options: All choices.

    Returns:
        The embeddings that were searched, and an answer for each query.

    Raises:
        FileNotFoundError: If a query, the model, the data set or the folder of embeddings does not exist.
        ImportError: If FAISS is requested and not installed.
        ValueError: If a query cannot be decoded, or the embeddings have another encoder or protocol than requested.

    Example:
        >>> from vididi_hf import SearchOptions, load_video_dataset, search_videos
        >>> import datasets, tempfile
        >>> rows = load_video_dataset("motion", split="test", num_train=8, num_test=8)
        >>> clip = rows.cast_column("video", datasets.Video(decode=False))[0]["video"]["path"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rows.save_to_disk(folder)
        ...     _, [answer] = search_videos(SearchOptions(dataset=folder, query=[clip], k=3, progress=False))
        >>> [video.rank for video in answer.found]
        [1, 2, 3]
    """
    for query in options.query:
        if not os.path.isfile(query):  # say so before embedding the videos
            raise FileNotFoundError(f"there is no query video {query!r}")
    queries = list(map(storable, options.query))
    folder = options.embeddings or embed_videos(options.embedding_options())
    stored = StoredEmbeddings.open(folder)
    protocol = stored.report["protocol"]
    followed = {**protocol, **{name: stored.report.get(name) for name in _CHOICES}}
    for spec in fields(SearchOptions):  # do not ignore a choice that the embeddings do not follow
        chosen, stored_choice = getattr(options, spec.name), followed.get(spec.name)
        if spec.name in followed and chosen not in (spec.default, stored_choice):
            raise ValueError(f"{spec.name} is {chosen!r}, but {folder} was embedded with {stored_choice!r}")
    model, _ = load_encoder(options)
    if (digest := embedding.encoder_digest(model)) != protocol["encoder"]:
        other = f"{stored.report['model']}, {protocol['encoder']}"
        raise ValueError(
            f"{folder} has embeddings of another encoder ({other}) than {options.model} ({digest}): "
            "set model to that one, or embed the videos again"
        )
    processor, inputs = embedding.processor_of(protocol), protocol["inputs"]
    how: Any = {"orders": INPUTS[inputs], "num_clips": protocol["num_clips"], "batch_size": options.batch_size}
    how["num_workers"] = min(options.num_workers, len(queries) - 1)
    features = extract_features(model, processor, with_video_column(queries), **how)
    if features.broken:
        raise ValueError("; ".join(f"cannot read the video {video}: {why}" for video, why in features.broken.items()))
    videos = np.array(stored.rows[VIDEO][:])
    places = {query: np.flatnonzero(videos == os.path.abspath(query)).tolist() for query in queries}
    most = options.k + max(map(len, places.values()))
    neighbors = stored.search(features.embeddings(INPUTS[inputs]).numpy(), most, options.index, options.faiss_factory)
    answers = []
    for query, (scores, rows) in zip(queries, neighbors):
        own = places[query]  # among the videos searched
        others = [(score, row) for score, row in zip(scores, rows) if row not in own][: options.k]
        found = [
            FoundVideo(rank, score, video_label(stored.rows, row), stored.rows[row][VIDEO], row)
            for rank, (score, row) in enumerate(others, start=1)
        ]
        answers.append(SearchAnswer(query, video_label(stored.rows, own[0]) if own else None, found))
    return stored, answers


def format_answers(answers: Sequence[SearchAnswer]) -> str:
    """Formats answers as aligned tables, one per query."""
    lines = []
    for answer in answers:
        lines.append(f"most similar to {printable(answer.query)}" + (f" ({answer.label})" if answer.label else ""))
        if not answer.found:
            lines.append("no other videos")
            continue
        table = pd.DataFrame(map(asdict, answer.found), columns=["rank", "score", "label", "video"])
        table["video"] = table["video"].map(printable)
        if table["label"].isna().all():
            table = table.drop(columns="label")
        lines.append(table.fillna("").to_string(index=False, float_format="{:.3f}".format))
    return "\n".join(lines)


def plot_answers(stored: StoredEmbeddings, answers: Sequence[SearchAnswer], shown: int = 8) -> Figure:
    """Draws queries with the first `shown` videos that were found for them; see `plot_retrieval` and `playable`."""
    labels = [answer.label for answer in answers]
    queries = with_video_column([answer.query for answer in answers], labels if any(labels) else None)
    rows = list(dict.fromkeys(video.row for answer in answers for video in answer.found[:shown]))
    place = {row: number for number, row in enumerate(rows)}
    found = [[place[video.row] for video in answer.found[:shown]] for answer in answers]
    padded = [places + [-1] * (max(map(len, found)) - len(places)) for places in found]
    return plot_retrieval(queries, range(len(answers)), stored.playable(rows), {"": padded}, num_neighbors=shown)
