"""Embed a data set once, for every search to come: sharded Parquet that 🤗 Datasets reads, its protocol beside it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate import PartialState
from torch import Tensor
from tqdm.auto import tqdm

from vididi_hf.data.folders import default_root
from vididi_hf.data.preparation.shards import (
    DATA_FOLDER,
    StoredSplit,
    common_folder,
    read_record,
    shard_path,
    write_tables,
)
from vididi_hf.data.registry import ALL_ROWS, DATASETS, load_video_dataset
from vididi_hf.evaluation.arguments import EncoderArguments
from vididi_hf.evaluation.features import EvaluationClips, NothingDecodedError, VideoFeatures, iterate_features
from vididi_hf.evaluation.inputs import INPUTS, check_inputs
from vididi_hf.files import remove_unfinished, write_text
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.options import option
from vididi_hf.search.protocol import differences, embeddings_of, make_protocol
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

EMBEDDINGS_JSON = "embeddings.json"
VIDEO, ROW, EMBEDDING = "video", "row", "embedding"
SCHEMA = 1
_CACHE = "embeddings"
# The slowest process may come as much later than the fastest.
_PATIENCE = timedelta(days=7)


@dataclass(kw_only=True)
class EmbeddingOptions(EncoderArguments):
    """Every choice of an embedding. A field is a flag of `scripts/embed.py`; its `help` says what it means.

    Raises:
        ValueError: If a value is impossible; the message names the field.
    """

    dataset: str = option(
        help="A set in docs/datasets.md, a folder of videos, a CSV or Parquet list, a saved data set, or a Hub id."
    )
    dataset_root: str | None = option(default=None, help="Where a built-in set lies or is made: docs/datasets.md.")
    split: str = option(default=ALL_ROWS, help=f"The split to embed; {ALL_ROWS!r} takes all rows.")
    inputs: str = option(default="frames", help=f"What the encoder is shown, one of {', '.join(INPUTS)}.")
    output: str | None = option(
        default=None, help="The folder of the shards; by default one in the user's cache, named after what it holds."
    )
    videos_per_shard: int = option(
        default=256, help="Videos of a shard: what is computed at least before a kill costs nothing."
    )
    progress: bool = option(default=True, help="Show a progress bar.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_inputs([self.inputs], tuple(INPUTS))
        if self.videos_per_shard < 1:
            raise ValueError(f"videos_per_shard must be at least 1, got {self.videos_per_shard}")


def embed_videos(options: EmbeddingOptions) -> Path:
    """Writes the embeddings of all videos of a split to sharded Parquet.

    Where several processes run (`accelerate launch`, `torchrun`), they share the shards among them. The shards depend
    on the videos and the options alone, not on the number of processes or on interruptions: a call that was killed is
    continued by the same call, which keeps every finished shard. Videos that cannot be decoded have no row.

    The rows have the columns of the data set, except that `video` is the path of the file (or the name that goes with
    stored bytes), and two more: `row`, the number of the row in the split, and `embedding`, a vector of unit length.

    Args:
        options: All choices.

    Returns:
        The folder. In it `embeddings.json` tells the protocol, the number of videos, and those that failed.

    Raises:
        FileNotFoundError: If there is no such model or data set.
        ValueError: If there is no such split, no video can be decoded, an embedding is not finite, or the folder holds
            embeddings of other videos or by another protocol, of which the message names the differences.
        OSError: If the output cannot be written. Finished shards stay.

    Example:
        ```python
        >>> import tempfile
        >>> from vididi_hf import EmbeddingOptions, ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor, embed_videos
        >>> from vididi_hf import load_video_dataset
        >>> from vididi_hf.search.stored import StoredEmbeddings
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1))).save_pretrained(folder)
        ...     _ = ViDiDiVideoProcessor(size=32, crop_size=32).save_pretrained(folder)
        ...     videos = load_video_dataset("motion", split="test", num_train=8, num_test=8)
        ...     videos.save_to_disk(f"{folder}/saved")
        ...     shards = embed_videos(
        ...         EmbeddingOptions(
        ...             model=folder, dataset=f"{folder}/saved", output=f"{folder}/embeddings", num_clips=1,
        ...             num_workers=0, progress=False,
        ...         )
        ...     )
        ...     StoredEmbeddings.open(shards).vectors.shape
        (8, 8)

        ```
    """
    state = PartialState(cpu=options.device == "cpu" or not torch.accelerator.is_available(), timeout=_PATIENCE)
    if options.device == "auto":
        options = replace(options, device=str(state.device))
    elif state.num_processes > 1 and options.device != "cpu":
        raise ValueError(f"with several processes, device must be auto or cpu, got {options.device!r}")
    with state.main_process_first():  # in case something has to be made or downloaded
        rows = load_video_dataset(options.dataset, root=options.dataset_root, split=options.split)
        model, processor = options.load()
    work = _Work(options, model, processor, rows)
    if state.is_main_process:
        remove_unfinished(work.folder / DATA_FOLDER)
    missing = work.missing_shards()
    state.wait_for_everyone()  # nobody writes before all have looked
    mine = missing[state.process_index :: state.num_processes]
    with tqdm(
        total=sum(len(work.split.shards[number]) for number in mine),
        desc=f"embed (1 of {state.num_processes} processes)" if state.num_processes > 1 else "embed",
        unit="video",
        disable=not (options.progress and state.is_main_process),
    ) as bar:
        for number in mine:
            work.write_shard(number, bar)
    state.wait_for_everyone()
    if state.is_main_process:
        work.write_report()
    state.wait_for_everyone()
    if not read_report(work.folder)["embedded"]:
        raise ValueError(
            f"none of the {len(rows)} videos can be decoded; {work.folder / EMBEDDINGS_JSON} says why of each"
        )
    return work.folder


def read_report(folder: str | Path) -> dict[str, Any]:
    """Reads what `embed_videos` wrote beside the shards.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is another one.
    """
    path = Path(folder) / EMBEDDINGS_JSON
    if not path.is_file():
        unfinished = (
            " whose embedding is not finished: run the same command again"
            if (path.parent / DATA_FOLDER).is_dir()
            else ""
        )
        raise FileNotFoundError(f"{folder} is no folder of embeddings{unfinished}: it holds no {EMBEDDINGS_JSON}")
    try:
        report = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(report, dict) or report.get("schema") != SCHEMA or "protocol" not in report:
        raise ValueError(f"{path} does not describe embeddings: it has no 'protocol', or its 'schema' is not {SCHEMA}")
    return report


def summarize(report: dict[str, Any]) -> str:
    """Returns in a few lines how many videos were embedded, and which failed."""
    failed = report["failed_videos"]
    lines = [
        f"{report['embedded']} of {report['videos']} videos embedded, {report['dimensions']} dimensions, "
        f"{len(report['shards'])} shards"
    ]
    if failed:
        lines.append(f"{len(failed)} videos could not be decoded and are left out:")
        lines += [f"  {video['video']}: {video['reason']}" for video in failed]
    return "\n".join(lines)


class _Work:
    """The shards of one call, those of all processes.

    Args:
        options: All choices.
        model: The encoder.
        processor: Its processor.
        rows: The videos.
    """

    def __init__(
        self,
        options: EmbeddingOptions,
        model: ViDiDiModel,
        processor: ViDiDiVideoProcessor,
        rows: datasets.Dataset,
    ):
        if len(rows) == 0:
            raise ValueError(f"{options.dataset} holds no videos")
        if taken := {ROW, EMBEDDING} & set(rows.column_names):
            raise ValueError(f"{options.dataset} has a column {min(taken)!r}, which is the name of one that is added")
        self.options, self.model, self.processor = options, model, processor
        self.rows = rows.cast_column(VIDEO, datasets.Video(decode=False))
        self.protocol = make_protocol(model, processor, options.inputs, options.num_clips)
        self.settings = {**self.protocol, "videos_per_shard": options.videos_per_shard}
        # As 🤗 Datasets calls the split of a data set that has but one, and in letters that it takes.
        name = "train" if options.split == ALL_ROWS else re.sub(r"\W", "_", options.split)
        settings = {**self.settings, "files": _files_digest(self.rows)}
        self.split = StoredSplit(name, rows, common_folder([rows]), settings, options.videos_per_shard, shuffle=False)
        self.folder = Path(options.output or default_root(_CACHE) / self.split.identity[:16])
        count = len(self.split.shards)
        self.paths = [shard_path(self.folder, name, number, count) for number in range(count)]
        self.orders = INPUTS[options.inputs]
        self.dimensions = model.config.hidden_size * len(self.orders)
        others = {column: kind for column, kind in rows.features.items() if column != VIDEO}
        self.features = datasets.Features(
            {
                VIDEO: datasets.Value("string"),
                **others,
                ROW: datasets.Value("int64"),
                EMBEDDING: datasets.List(datasets.Value("float32"), length=self.dimensions),
            }
        )

    def missing_shards(self) -> list[int]:
        """Lists the shards that no earlier call has finished.

        Raises:
            ValueError: If there are shards that this call would not write.
        """
        for path in sorted((self.folder / DATA_FOLDER).glob("*.parquet")):
            record = read_record(path)
            if record is None or record.get("identity") != self.split.identity or path not in self.paths:
                changed = differences(record["settings"], self.settings) if record else []
                raise ValueError(
                    f"{path} is no shard of these embeddings: {'; '.join(changed) or 'it was made of other videos'}. "
                    "Choose another output, or remove that folder"
                )
        return [number for number, path in enumerate(self.paths) if not path.exists()]

    def write_shard(self, number: int, bar: tqdm) -> None:
        """Embeds the videos of a shard, and writes it whole.

        Raises:
            ValueError: If an embedding is not finite.
        """
        chosen = self.split.shards[number]
        rows = self.rows.select(chosen)
        table = rows.with_format("arrow")[:]
        names = [self._name(row, path) for row, path in zip(chosen, pc.struct_field(table[VIDEO], "path").to_pylist())]
        clips = EvaluationClips(rows, self.processor, self.options.num_clips, max(self.orders))
        good, vectors = [], torch.empty(0, self.dimensions)
        for batch, features in self._features(clips):
            part = embeddings_of(VideoFeatures(features, torch.tensor(batch)), self.options.inputs)
            if not part.isfinite().all():
                [at, *_] = (~part.isfinite().all(dim=1)).nonzero().flatten().tolist()
                raise ValueError(f"the embedding of {names[batch[at]]} is not finite: does the model hold NaN?")
            good += batch
            vectors = torch.cat([vectors, part])
            bar.update(len(batch))
        failed = [{"video": names[row], "reason": reason} for row, reason in sorted(clips.broken_rows.items())]
        bar.update(len(failed))
        embeddings = pa.FixedSizeListArray.from_arrays(pa.array(vectors.numpy().ravel()), self.dimensions)
        columns = {name: table[name].take(pa.array(good, pa.int64())) for name in table.column_names if name != VIDEO}
        columns[VIDEO] = pa.array([names[row] for row in good], pa.string())
        columns[ROW] = pa.array([chosen[row] for row in good], pa.int64())
        columns[EMBEDDING] = embeddings
        schema = self.features.arrow_schema
        stored = pa.table([columns[name] for name in schema.names], schema=schema)
        record = {"identity": self.split.identity, "settings": self.settings, "videos": len(chosen), "failed": failed}
        # 🤗 Datasets cannot read a row group without rows.
        write_tables(self.paths[number], schema, [stored] if good else [], record)

    def write_report(self) -> None:
        """Writes what all shards hold, once they are all there."""
        records = [read_record(path) or {} for path in self.paths]
        failed = [video for record in records for video in record["failed"]]
        options = self.options
        is_path = options.dataset not in DATASETS and os.path.exists(options.dataset)
        report = {
            "schema": SCHEMA,
            "model": options.model,
            "random_init": options.random_init,
            "seed": options.seed,
            "dataset": os.path.abspath(options.dataset) if is_path else options.dataset,
            "dataset_root": options.dataset_root and os.path.abspath(options.dataset_root),
            "split": options.split,
            "protocol": self.protocol,
            "dimensions": self.dimensions,
            "videos": len(self.rows),
            "embedded": len(self.rows) - len(failed),
            "failed_videos": failed,
            "shards": [
                {"file": path.name, "rows": record["videos"] - len(record["failed"])}
                for path, record in zip(self.paths, records)
            ],
        }
        write_text(self.folder / EMBEDDINGS_JSON, json.dumps(report, indent=2, ensure_ascii=False) + "\n")

    def _features(self, clips: EvaluationClips) -> Iterator[tuple[list[int], dict[int, Tensor]]]:
        """Yields the features of the videos that can be decoded, of which there may be none."""
        try:
            yield from iterate_features(
                self.model, clips, self.orders, self.options.batch_size, self.options.num_workers
            )
        except NothingDecodedError:
            return

    def _name(self, row: int, path: str | None) -> str:
        """Names a video by where its file lies, or else by what goes with its bytes."""
        if path is not None and os.path.isfile(path):
            return os.path.abspath(path)
        return self.split.video_name(row, path)


def _files_digest(rows: datasets.Dataset) -> str:
    """Digests where the files of a data set lie, their sizes, and when they were last written."""
    digest = hashlib.sha256()
    for table in rows.select_columns(VIDEO).with_format("arrow").iter(1000):
        for path in pc.struct_field(table[VIDEO], "path").to_pylist():
            if path is not None and os.path.isfile(path):
                status = os.stat(path)
                digest.update(repr((os.path.abspath(path), status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()
