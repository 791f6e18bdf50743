"""The videos most like this one: from video files to their neighbors among all videos of a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from matplotlib.figure import Figure

from vididi_hf.data.folders import with_video_column
from vididi_hf.data.registry import ALL_ROWS
from vididi_hf.evaluation.arguments import EncoderArguments
from vididi_hf.evaluation.features import extract_features
from vididi_hf.evaluation.inputs import INPUTS
from vididi_hf.options import option
from vididi_hf.search.embedding import VIDEO, EmbeddingOptions, embed_videos
from vididi_hf.search.protocol import embeddings_of, encoder_digest, processor_of
from vididi_hf.search.stored import INDEXES, StoredEmbeddings
from vididi_hf.visualization.neighbors import plot_retrieval, video_label


@dataclass(kw_only=True)
class SearchOptions(EncoderArguments):
    """Every choice of a search. A field is a flag of `scripts/search.py`; its `help` says what it means.

    Raises:
        ValueError: If a value is impossible; the message names the field.
    """

    query: list[str] = option(help="The video files to find similar ones of.")
    embeddings: str | None = option(
        default=None, help="A folder that embed.py wrote; its protocol is used for the queries too."
    )
    dataset: str | None = option(
        default=None,
        help="The videos to search, where there are no embeddings: a built-in set, a folder of videos, a CSV or "
        "Parquet list, a saved data set, or a Hub id. They are embedded once, into the user's cache.",
    )
    dataset_root: str | None = option(default=None, help="Where a built-in set lies or is made: docs/datasets.md.")
    split: str = option(default=ALL_ROWS, help=f"The split to search; {ALL_ROWS!r} takes all rows.")
    inputs: str = option(default="frames", help=f"What the encoder is shown, one of {', '.join(INPUTS)}.")
    k: int = option(default=10, help="How many videos to find.")
    index: str = option(default="exact", help=f"One of {', '.join(INDEXES)}.")
    faiss_factory: str = option(default="Flat", help="The kind of index that FAISS builds: Flat, HNSW32, …")
    progress: bool = option(default=True, help="Show a progress bar.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.embeddings is None) == (self.dataset is None):
            raise ValueError("give either embeddings, a folder that embed.py wrote, or dataset, the videos to search")
        if not self.query:
            raise ValueError("give at least one query")
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")
        if self.index not in INDEXES:
            raise ValueError(f"index must be one of {', '.join(INDEXES)}, got {self.index!r}")

    def embedding_options(self) -> EmbeddingOptions:
        """Returns the options for embedding `dataset` into the user's cache."""
        shared = {field.name for field in fields(EmbeddingOptions)} & {field.name for field in fields(SearchOptions)}
        return EmbeddingOptions(**{name: getattr(self, name) for name in shared})


@dataclass
class FoundVideo:
    """A video that was found.

    Attributes:
        rank: 1 is the most similar one.
        score: The cosine similarity.
        label: The name of its class, where that is known.
        video: The path of its file, or the name that goes with stored bytes.
        row: Its row among the embeddings.
    """

    rank: int
    score: float
    label: str | None
    video: str
    row: int


@dataclass
class SearchAnswer:
    """What was found for one query.

    Attributes:
        query: The path of the query.
        label: The name of its class, where it is one of the videos searched and labeled.
        found: The videos most like it, but for itself.
    """

    query: str
    label: str | None
    found: list[FoundVideo]


def search_videos(options: SearchOptions) -> tuple[StoredEmbeddings, list[SearchAnswer]]:
    """Finds the videos most like given ones, by the cosine of their embeddings.

    A query that is itself among the videos searched (by its path) is not among those found.

    Args:
        options: All choices.

    Returns:
        The embeddings that were searched, and an answer for each query.

    Raises:
        FileNotFoundError: If there is no such model, data set or folder of embeddings.
        ImportError: If FAISS is asked for and not installed.
        ValueError: If a query cannot be decoded, the embeddings were made with another model or by another protocol
            than the one asked for, or an option does not fit.
    """
    folder = options.embeddings or embed_videos(options.embedding_options())
    stored = StoredEmbeddings.open(folder)
    protocol = stored.report["protocol"]
    _check_choices(options, protocol, str(folder))
    model, _ = options.load()
    if (digest := encoder_digest(model)) != protocol["encoder"]:
        raise ValueError(
            f"{folder} was made with another encoder ({stored.report['model']}, {protocol['encoder']}) than "
            f"{options.model} ({digest}): vectors of different encoders cannot be compared"
        )
    inputs = protocol["inputs"]
    features = extract_features(
        model,
        processor_of(protocol),
        with_video_column(options.query),
        orders=INPUTS[inputs],
        num_clips=protocol["num_clips"],
        batch_size=options.batch_size,
        num_workers=min(options.num_workers, len(options.query) - 1),
    )
    if features.broken:
        raise ValueError(
            "; ".join(f"cannot read the video {video}: {reason}" for video, reason in features.broken.items())
        )
    places: dict[str, list[int]] = {}  # of each query among the videos searched
    asked = {os.path.abspath(query) for query in options.query}
    for row, video in enumerate(stored.rows[VIDEO]):
        if video in asked:
            places.setdefault(video, []).append(row)
    most = options.k + max(map(len, places.values()), default=0)
    neighbors = stored.search(embeddings_of(features, inputs).numpy(), most, options.index, options.faiss_factory)
    answers = []
    for query, (scores, rows) in zip(options.query, neighbors):
        own = places.get(os.path.abspath(query), [])
        others = [(score, row) for score, row in zip(scores, rows) if row not in own][: options.k]
        found = [
            FoundVideo(rank, score, video_label(stored.rows, row), stored.rows[row][VIDEO], row)
            for rank, (score, row) in enumerate(others, start=1)
        ]
        answers.append(SearchAnswer(query, video_label(stored.rows, own[0]) if own else None, found))
    return stored, answers


def _check_choices(options: SearchOptions, protocol: dict[str, Any], folder: str) -> None:
    """Refuses a choice that the embeddings do not follow, instead of passing over it."""
    for field in fields(SearchOptions):
        chosen = getattr(options, field.name)
        if field.name in protocol and chosen != field.default and chosen != protocol[field.name]:
            raise ValueError(
                f"{field.name} is {chosen!r}, but {folder} was made with {protocol[field.name]!r}, which queries share"
            )


def answers_report(stored: StoredEmbeddings, answers: Sequence[SearchAnswer], options: SearchOptions) -> dict[str, Any]:
    """Collects what the JSON file of a search holds."""
    return {
        "embeddings": str(stored.folder),
        "index": options.index if options.index == "exact" else f"faiss, {options.faiss_factory}",
        "videos": len(stored.vectors),
        "protocol": stored.report["protocol"],
        "answers": [asdict(answer) for answer in answers],
    }


def format_answers(answers: Sequence[SearchAnswer]) -> str:
    """Formats answers as aligned tables, one for each query."""
    lines = []
    for answer in answers:
        known = f" ({answer.label})" if answer.label else ""
        lines.append(f"most like {answer.query}{known}")
        width = max((len(video.label or "") for video in answer.found), default=0)
        lines.append(f"{'rank':>4}  {'score':>6}  " + (f"{'label':<{max(width, 5)}}  " if width else "") + "video")
        for video in answer.found:
            label = f"{video.label or '':<{max(width, 5)}}  " if width else ""
            lines.append(f"{video.rank:>4}  {video.score:>6.3f}  {label}{video.video}")
    return "\n".join(lines)


def plot_answers(stored: StoredEmbeddings, answers: Sequence[SearchAnswer], shown: int = 8) -> Figure:
    """Shows queries with the videos that were found for them.

    Args:
        stored: The embeddings that were searched.
        answers: The answers to show.
        shown: How many of the videos found to show.

    Returns:
        The figure; see `plot_retrieval`.

    Raises:
        FileNotFoundError: If the videos are no longer where they were.
        ValueError: If the data set is no longer the one that was embedded, or a video cannot be decoded.
    """
    labeled = any(answer.label for answer in answers)
    queries = with_video_column(
        [answer.query for answer in answers], [answer.label for answer in answers] if labeled else None
    )
    rows = list(dict.fromkeys(video.row for answer in answers for video in answer.found[:shown]))
    place = {row: number for number, row in enumerate(rows)}
    found = [[place[video.row] for video in answer.found[:shown]] for answer in answers]
    longest = max(map(len, found))
    padded = [places + [-1] * (longest - len(places)) for places in found]
    return plot_retrieval(queries, range(len(answers)), stored.playable(rows), {"": padded}, num_neighbors=shown)
