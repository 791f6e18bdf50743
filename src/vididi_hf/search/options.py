"""The options of `vididi embed` and `vididi search`."""

from dataclasses import dataclass, fields

from vididi_hf.data.options import ALL_ROWS, DATASET_HELP
from vididi_hf.evaluation.inputs import INPUTS
from vididi_hf.evaluation.options import MODEL_HELP, DatasetOptions
from vididi_hf.options import option
from vididi_hf.reading import REFERENCE


@dataclass(kw_only=True)
class _EmbeddedOptions(DatasetOptions):
    model: str = option(default=REFERENCE, help=MODEL_HELP)
    split: str = option(default=ALL_ROWS, help=f"Split to embed or to search; {ALL_ROWS!r} takes all rows.")
    inputs: str = option(default="frames", choices=tuple(INPUTS), help="What the encoder sees.")


@dataclass(kw_only=True)
class EmbeddingOptions(_EmbeddedOptions):
    """The options of `vididi embed`. The `help` of a field says what it means.

    Raises:
        ValueError: If a value is impossible. The message names the field.

    Example:
        >>> from vididi_hf import EmbeddingOptions
        >>> EmbeddingOptions(dataset="path/to/videos", num_clips=4).model
        'reference'
    """

    dataset: str = option(help=DATASET_HELP, positional=True)
    output_dir: str | None = option(
        default=None, old_names=("output",), help="Folder of the shards. Default: one in the cache."
    )
    videos_per_shard: int = option(
        default=256, at_least=1, help="Videos per shard. An interrupted run repeats at most one shard per process."
    )


@dataclass(kw_only=True)
class SearchOptions(_EmbeddedOptions):
    """The options of `vididi search`. The `help` of a field says what it means.

    Raises:
        ValueError: If a value is impossible. The message names the field.

    Example:
        >>> from vididi_hf import SearchOptions
        >>> SearchOptions(dataset="path/to/videos", query=["clip.mp4"]).k
        10
    """

    query: list[str] = option(help="Query video files.")
    dataset: str | None = option(  # type: ignore[assignment]
        default=None, positional=True, help=f"{DATASET_HELP} Its embeddings are cached for the next search."
    )
    embeddings: str | None = option(
        default=None, help="Folder that `vididi embed` wrote, instead of a data set. Queries follow its protocol."
    )
    k: int = option(default=10, at_least=1, help="How many videos to find.")
    index: str = option(default="exact", choices=("exact", "faiss"), help="How to search.")
    faiss_factory: str = option(default="Flat", help="Type of the FAISS index: Flat, HNSW32, ...")
    output_dir: str = option(default="search", old_names=("output",), help="Folder of search.json and search.png.")
    pictured: int = option(default=8, at_least=0, help="Queries in the picture; 0 draws none.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.embeddings is None) == (self.dataset is None):
            raise ValueError("give either dataset, the videos to search, or embeddings, a folder of `vididi embed`")
        if not self.query:
            raise ValueError("give at least one query")

    def embedding_options(self) -> EmbeddingOptions:
        """Returns the options for embedding `dataset` into the user's cache."""
        return EmbeddingOptions(**{spec.name: getattr(self, spec.name) for spec in fields(_EmbeddedOptions)})
