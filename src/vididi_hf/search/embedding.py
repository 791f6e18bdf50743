"""Embedding a data set once, into Parquet shards that 🤗 Datasets reads, with the protocol next to them."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate import PartialState
from torch.distributed.elastic.multiprocessing.errors import record
from tqdm.auto import tqdm

from vididi_hf.containers_vididi import local_path
from vididi_hf.data.folders import default_root
from vididi_hf.data.preparation import shards
from vididi_hf.data.preparation.shards import DATA_FOLDER, StoredSplit, read_record
from vididi_hf.data.registry import ALL_ROWS, DATASETS, load_video_dataset
from vididi_hf.data.saved import DatasetObject, object_name
from vididi_hf.evaluation.features import EvaluationClips, NothingDecodedError, VideoFeatures, iterate_features
from vididi_hf.evaluation.inputs import INPUTS
from vididi_hf.evaluation.loading import load_encoder
from vididi_hf.files import lock_output_dir, printable, remove_unfinished, write_text
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.reading import read_json, reading
from vididi_hf.search.options import EmbeddingOptions
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor, ViDiDiVideoProcessorKwargs

EMBEDDINGS_JSON = "embeddings.json"
VIDEO, ROW, EMBEDDING = "video", "row", "embedding"
SCHEMA = 1
_PATIENCE = timedelta(days=7)  # the slowest process may finish this much later than the fastest
# What a processor does to a video. The other settings are number of clips, orders and place of computation.
_OTHER_SETTINGS = ("num_clips", "derivative_orders", "device", "return_tensors", "do_sample_frames")
_PROCESSING = tuple(name for name in ViDiDiVideoProcessorKwargs.__annotations__ if name not in _OTHER_SETTINGS)


@record  # so that a launcher of several processes reports the error of the one that failed first
def run(options: EmbeddingOptions) -> None:
    """Runs `vididi embed`."""
    folder = embed_videos(options)
    if PartialState().is_main_process:
        report = read_report(folder)
        sizes = f"{report['dimensions']} dimensions, {len(report['shards'])} shards"
        print(f"{report['embedded']} of {report['videos']} videos embedded, {sizes}\nin {folder}")
        for video in report["failed_videos"]:
            print(f"cannot be decoded and is skipped: {printable(video['video'])}: {video['reason']}")


def embed_videos(options: EmbeddingOptions, dataset: DatasetObject | None = None) -> Path:
    """Writes the embeddings of all videos of a split to Parquet shards.

    Several processes (`accelerate launch`, `torchrun`) share the shards. The shards depend only on the videos and the
    options. After an interruption, the same call continues and keeps every finished shard. Videos that cannot be
    decoded have no row.

    The rows have the columns of the data set, where `video` is now the path of the file (or the name stored with its
    bytes), and two more: `row`, the row in the split, and `embedding`, a vector of unit length.

    Args:
        options: All choices.
        dataset: The videos, as an object of 🤗 Datasets, instead of those of `options.dataset`.

    Returns:
        The folder. Its `embeddings.json` contains the protocol, the number of videos, and those that failed.

    Raises:
        FileNotFoundError: If the model or the data set does not exist.
        ValueError: If the split does not exist, no video can be decoded, an embedding is not finite, or the folder has
            embeddings of other videos or of another protocol.
        BlockingIOError: If another process uses the folder.
        OSError: If the output cannot be written. Finished shards stay.

    Example:
        >>> import tempfile
        >>> from vididi_hf import EmbeddingOptions, embed_videos
        >>> from vididi_hf.search.search import StoredEmbeddings
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     videos = load_video_dataset("motion", split="test", num_train=8, num_test=8)
        ...     videos.save_to_disk(f"{folder}/saved")
        ...     options = EmbeddingOptions(dataset=f"{folder}/saved", num_clips=1, num_workers=0, progress=False)
        ...     StoredEmbeddings.open(embed_videos(options)).vectors.shape
        (8, 64)
    """
    options = options if dataset is None else replace(options, dataset=object_name(dataset))
    state = PartialState(cpu=options.device == "cpu" or not torch.accelerator.is_available(), timeout=_PATIENCE)
    if options.device == "auto":
        options = replace(options, device=str(state.device))
    elif state.num_processes > 1 and options.device != "cpu":
        raise ValueError(f"with several processes, device must be auto or cpu, got {options.device!r}")
    with state.main_process_first():  # in case something has to be generated or downloaded
        rows = load_video_dataset(dataset or options.dataset, **options.place(), split=options.split)
        model, processor = load_encoder(options)
    work = _Work(options, model, processor, rows)
    lock = lock_output_dir(work.folder)
    if state.is_main_process:
        remove_unfinished(work.folder / DATA_FOLDER)
    missing = work.missing_shards()
    state.wait_for_everyone()  # no process writes before all have looked
    mine = missing[state.process_index :: state.num_processes]
    total = sum(len(work.split.shards[number]) for number in mine)
    title = f"embed (1 of {state.num_processes} processes)" if state.num_processes > 1 else "embed"
    hidden = not (options.progress and state.is_main_process)
    with lock, tqdm(total=total, desc=title, unit="video", disable=hidden) as bar:
        for number in mine:
            work.write_shard(number, bar)
        state.wait_for_everyone()
        if state.is_main_process:
            work.write_report()
    state.wait_for_everyone()
    if not read_report(work.folder)["embedded"]:
        raise ValueError(f"none of the {len(rows)} videos can be decoded; see {work.folder / EMBEDDINGS_JSON}")
    return work.folder


def read_report(folder: str | Path) -> dict[str, Any]:
    """Reads the `embeddings.json` of a folder; a FileNotFoundError or ValueError says what is wrong with it."""
    path = Path(folder) / EMBEDDINGS_JSON
    if not path.exists():
        started = (path.parent / DATA_FOLDER).is_dir()
        hint = "; the embedding is not finished: run the same command again" if started else ""
        raise FileNotFoundError(f"{folder} is not a folder of embeddings: it has no {EMBEDDINGS_JSON}{hint}")
    report = read_json(path)
    if report.get("schema") != SCHEMA or "protocol" not in report:
        raise ValueError(f"{path} does not describe embeddings: it has no 'protocol', or its 'schema' is not {SCHEMA}")
    counts = {name: report.get(name) for name in ("videos", "embedded", "dimensions")}
    if not all(type(number) is int and number >= 0 for number in counts.values()) or counts["dimensions"] == 0:
        raise ValueError(f"{path} is damaged: it counts {counts}")
    protocol, shards = report["protocol"], report.get("shards")
    wanted = {*_PROCESSING, "num_clips", "encoder"} - {"frame_interval"}  # which older embeddings lack
    if not isinstance(protocol, dict) or protocol.get("inputs") not in tuple(INPUTS) or not wanted <= protocol.keys():
        raise ValueError(f"{path} is damaged: its protocol is incomplete")
    rows = 0
    for shard in shards if isinstance(shards, list) else [None]:
        name, count = (shard.get("file"), shard.get("rows")) if isinstance(shard, dict) else (None, None)
        if not isinstance(name, str) or name in ("", "..") or Path(name).name != name or type(count) is not int:
            raise ValueError(f"{path} is damaged: it lists the shard {str(shard)[:99]}")
        rows += count
    if (embedded := report["embedded"]) != rows:
        raise ValueError(f"{path} is damaged: its shards have {rows} rows, and {embedded} videos are embedded")
    return report


def make_protocol(model: ViDiDiModel, processor: ViDiDiVideoProcessor, inputs: str, num_clips: int) -> dict[str, Any]:
    """Returns, as JSON, everything that an embedding depends on apart from the video."""
    processing = {name: getattr(processor, name) for name in _PROCESSING}
    protocol = {"inputs": inputs, "num_clips": num_clips, "encoder": encoder_digest(model), **processing}
    return json.loads(json.dumps(protocol, default=dict))  # sizes are mappings of another class


def processor_of(protocol: Mapping[str, Any]) -> ViDiDiVideoProcessor:
    """Builds the processor of a protocol."""
    with reading("the protocol of the embeddings"):
        settings = {name: protocol[name] for name in _PROCESSING if protocol.get(name) is not None}
        return ViDiDiVideoProcessor(num_clips=protocol["num_clips"], **settings)


def encoder_digest(model: ViDiDiModel) -> str:
    """Returns 16 hexadecimal digits that identify what an encoder computes, the same on every device."""
    unseen = ("backbone", "batch_norm", "derivative_orders", "derivative_scale")  # by the weights
    choices = [getattr(model.config, name) for name in unseen]
    if (encoder := model.config.backbone_config) is not None:
        fields = {name: one for name, one in encoder.to_dict().items() if name != "transformers_version"}
        choices += [model.config.pooling, json.dumps(fields, sort_keys=True)]
    digest = hashlib.sha256(repr(choices).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


class _Work:
    """The shards of one call, those of all processes."""

    def __init__(
        self, options: EmbeddingOptions, model: ViDiDiModel, processor: ViDiDiVideoProcessor, rows: datasets.Dataset
    ):
        if len(rows) == 0:
            raise ValueError(f"{options.dataset} has no videos")
        if taken := {ROW, EMBEDDING} & set(rows.column_names):
            raise ValueError(f"{options.dataset} has a column {min(taken)!r}, which the embeddings need: rename it")
        self.options, self.model, self.processor = options, model, processor
        self.rows = rows.cast_column(VIDEO, datasets.Video(decode=False))
        self.protocol = make_protocol(model, processor, options.inputs, options.num_clips)
        self.settings = self.protocol | {"videos_per_shard": options.videos_per_shard}
        # The name that 🤗 Datasets gives to a single split, in characters that it accepts.
        name = "train" if options.split == ALL_ROWS else re.sub(r"\W", "_", options.split)
        settings = {**self.settings, "files": _files_digest(self.rows)}
        root = shards.common_folder([rows])
        self.split = StoredSplit(name, rows, root, settings, options.videos_per_shard, shuffle=False)
        self.folder = Path(options.output_dir or default_root("embeddings") / self.split.identity[:16])
        count = len(self.split.shards)
        self.paths = [shards.shard_path(self.folder, name, number, count) for number in range(count)]
        self.orders = INPUTS[options.inputs]
        self.dimensions = model.config.hidden_size * len(self.orders)
        added = {VIDEO: datasets.Value("string"), ROW: datasets.Value("int64")}
        self.features = datasets.Features(rows.features | added)
        self.features[EMBEDDING] = datasets.List(datasets.Value("float32"), length=self.dimensions)

    def missing_shards(self) -> list[int]:
        """Lists the unfinished shards, or raises a ValueError if the folder has shards of another call."""
        for path in sorted((self.folder / DATA_FOLDER).glob("*.parquet")):
            found = read_record(path)
            if found is None or found.get("identity") != self.split.identity or path not in self.paths:
                was = found["settings"] if found else self.settings
                changed = "; ".join(
                    f"{name} was {was.get(name)!r} and is {self.settings.get(name)!r}"
                    for name in dict.fromkeys([*was, *self.settings])
                    if was.get(name) != self.settings.get(name)
                )
                raise ValueError(
                    f"{path} is not a shard of these embeddings: {changed or 'it has other videos'}. "
                    "Choose another output_dir, or remove that folder"
                )
        return [number for number, path in enumerate(self.paths) if not path.exists()]

    def write_shard(self, number: int, bar: tqdm) -> None:
        """Embeds the videos of a shard and writes it atomically."""
        chosen = self.split.shards[number]
        rows = self.rows.select(chosen)
        table = rows.with_format("arrow")[:]
        paths, files = pc.struct_field(table[VIDEO], "path").to_pylist(), _files(table[VIDEO])
        names = [file or self.split.video_name(row, path) for row, path, file in zip(chosen, paths, files)]
        clips = EvaluationClips(rows, self.processor, self.options.num_clips, max(self.orders))
        loading = self.options.batch_size, self.options.num_workers, False
        good, vectors = [], torch.empty(0, self.dimensions)
        with suppress(NothingDecodedError):
            for batch, features in iterate_features(self.model, clips, self.orders, *loading):
                part = VideoFeatures(features, torch.tensor(batch)).embeddings(self.orders)
                for row, finite in zip(batch, part.isfinite().all(dim=1)):
                    if not finite:
                        raise ValueError(f"the embedding of {names[row]} is not finite: check the model for NaN")
                good += batch
                vectors = torch.cat([vectors, part])
                bar.update(len(batch))
        failed = [{"video": names[row], "reason": reason} for row, reason in sorted(clips.broken_rows.items())]
        bar.update(len(failed))
        columns = {name: table[name].take(pa.array(good, pa.int64())) for name in table.column_names if name != VIDEO}
        columns[VIDEO] = pa.array([names[row] for row in good], pa.string())
        columns[ROW] = pa.array([chosen[row] for row in good], pa.int64())
        columns[EMBEDDING] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.numpy().ravel()), self.dimensions)
        schema = self.features.arrow_schema
        stored = pa.table([columns[name] for name in schema.names], schema=schema)
        footer = {"identity": self.split.identity, "settings": self.settings, "videos": len(chosen), "failed": failed}
        # 🤗 Datasets cannot read a row group without rows.
        shards.write_tables(self.paths[number], schema, [stored] if good else [], footer)

    def write_report(self) -> None:
        """Writes what all shards contain, once they are finished."""
        records = [read_record(path) or {} for path in self.paths]
        failed = [video for found in records for video in found["failed"]]
        rows = [found["videos"] - len(found["failed"]) for found in records]
        options = self.options
        is_path = options.dataset not in DATASETS and os.path.exists(options.dataset)
        report = {
            "schema": SCHEMA,
            "model": options.model,
            "random_init": options.random_init,
            "seed": options.seed,
            "dataset": os.path.abspath(options.dataset) if is_path else options.dataset,
            "dataset_root": options.dataset_root and os.path.abspath(options.dataset_root),
            **{name: getattr(options, name) for name in ("dataset_config", "video_column", "label_column", "split")},
            "protocol": self.protocol,
            "dimensions": self.dimensions,
            "videos": len(self.rows),
            "embedded": sum(rows),
            "failed_videos": failed,
            "shards": [{"file": path.name, "rows": count} for path, count in zip(self.paths, rows)],
        }
        write_text(self.folder / EMBEDDINGS_JSON, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def _files(videos: pa.ChunkedArray) -> list[str | None]:
    """Returns the absolute paths of the files of videos; None where the bytes are stored, with any name."""
    rows = zip(pc.struct_field(videos, "path").to_pylist(), pc.struct_field(videos, "bytes").is_valid().to_pylist())
    known = [path if path and not stored and os.path.isfile(local_path(path)) else None for path, stored in rows]
    return [path and os.path.abspath(path) for path in known]


def _files_digest(rows: datasets.Dataset) -> str:
    """Digests the paths, sizes and modification times of the files of a data set."""
    digest = hashlib.sha256()
    for table in rows.select_columns(VIDEO).with_format("arrow").iter(1000):
        for path in filter(None, _files(table[VIDEO])):
            status = os.stat(local_path(path))
            digest.update(repr((path, status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()
