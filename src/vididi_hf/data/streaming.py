"""Train from sharded Parquet without downloading it. The order of an epoch depends only on the footers.

So, unlike with the shuffle buffer of 🤗 Datasets, a run resumes exactly. A process fetches, and its workers decode.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow.parquet as pq
import torch
from datasets.data_files import DataFilesDict, get_data_patterns
from datasets.exceptions import DatasetNotFoundError
from torch import Tensor
from torch.utils.data import Dataset

from vididi_hf.data.folders import no_such_split
from vididi_hf.data.inventory import VideoList
from vididi_hf.data.loading import SUBSTITUTES, ClipMaker, EpochLoader, EpochSampler, make_or_replace
from vididi_hf.data.options import ALL_ROWS
from vididi_hf.data.registry import DATASETS
from vididi_hf.data.seeding import seeded_generator

_FOOTERS_AT_ONCE = 16
_GROUPS_AT_ONCE = 4
_PREPARE_FIRST = "streaming reads sharded Parquet: run `vididi prepare` first"
_CANDIDATES = SUBSTITUTES + 1  # a batch knows so many videos, to replace a broken one without another fetch
_BATCHES_AHEAD = 2  # row groups are fetched for so many batches beyond those that workers have been given


def find_shards(name: str, split: str | None = "train", config: str | None = None) -> list[str]:
    """Finds the Parquet files of a split, sorted, in a folder, a URL, or a data set on the Hub, or by a pattern."""
    if name in DATASETS:
        raise ValueError(f"{name} is a built-in set, but {_PREPARE_FIRST}")
    if name.endswith(".parquet"):
        files = datasets.load_dataset_builder("parquet", data_files={"train": name}).config.data_files
        if not files["train"]:
            raise FileNotFoundError(f"no file matches {name}")
        return sorted(files["train"])
    if "://" in name:
        files = DataFilesDict.from_patterns(get_data_patterns(name), base_path=name)
    else:
        if Path(name).expanduser().is_dir():
            name = str(Path(name).expanduser().resolve())  # otherwise a folder "csv" is taken for a format
        try:
            files = datasets.load_dataset_builder(name, config).config.data_files
        except (DatasetNotFoundError, ConnectionError) as error:
            raise FileNotFoundError(f"no data set {name!r}: not a folder, and the Hub says: {error}") from error
    shards: dict[str, list[str]] = {}
    for key, found in (files or {}).items():
        if parquet := sorted(str(file) for file in found if str(file).endswith(".parquet")):
            shards[str(key)] = parquet
    if not shards:
        raise ValueError(f"{name} contains no Parquet files, but {_PREPARE_FIRST}")
    if split in (None, ALL_ROWS):
        return sorted(file for found in shards.values() for file in found)
    if split not in shards:
        raise no_such_split(name, str(split), shards)
    return shards[str(split)]


class ParquetVideos:
    """The videos, numbered by rows, of Parquet files (paths or fsspec URLs). Opening them reads only the footers."""

    def __init__(self, shards: Sequence[str]):
        self.shards = list(shards)
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            self._footers = list(pool.map(_read_footer, self.shards))
        counts = [footer.num_row_groups for footer in self._footers]
        self._groups = [(file, group) for file, count in enumerate(counts) for group in range(count)]
        sizes = [self._footers[file].row_group(group).num_rows for file, group in self._groups]
        # The number of videos and the first video of each row group: int64 (row groups,).
        self.group_sizes = torch.tensor(sizes, dtype=torch.int64)
        self.group_starts = self.group_sizes.cumsum(0) - self.group_sizes
        if len(self) == 0:
            raise ValueError(f"{', '.join(self.shards[:3]) or 'an empty list of shards'} holds no videos")

    def __len__(self) -> int:
        return int(self.group_sizes.sum())

    def list_shards(self) -> VideoList:
        """Lists the shards with the bytes of their row groups."""
        groups = [
            [footer.row_group(i).total_byte_size for i in range(footer.num_row_groups)] for footer in self._footers
        ]
        return VideoList([(url.rpartition("/")[2], sum(sizes)) for url, sizes in zip(self.shards, groups)])

    def groups_of(self, rows: Tensor) -> Tensor:
        return torch.searchsorted(self.group_starts + self.group_sizes, rows, right=True)

    def read_group(self, group: int) -> list[dict[str, Any] | None]:
        """Fetches the videos of one row group, and no other byte of its file; None where there are no bytes."""
        file, group_in_file = self._groups[group]
        url = self.shards[file]
        with _open(url) as source:
            reader = pq.ParquetFile(source, metadata=self._footers[file], pre_buffer=True)
            rows = reader.read_row_group(group_in_file, columns=["video"], use_threads=False)["video"].to_pylist()
        for row, video in enumerate(rows):
            if video is not None and not video["path"]:
                video["path"] = f"{url.rpartition('/')[2]}, row {row} of group {group_in_file}"
        return [video if video is not None and video["bytes"] is not None else None for video in rows]


def _open(url: str) -> Any:
    filesystem, path = fsspec.core.url_to_fs(url)
    # Row groups are read whole and once, so read-ahead and caches would only waste memory.
    return filesystem.open(path, "rb", cache_type="none")


def _read_footer(url: str) -> pq.FileMetaData:
    with _open(url) as file:
        footer = pq.read_metadata(file)
    columns = {footer.schema.column(i).path for i in range(footer.num_columns)}
    if not {"video.bytes", "video.path"} <= columns:
        found = ", ".join(sorted(columns))
        raise ValueError(f"{url} has no column 'video' with the bytes of videos, only {found}; {_PREPARE_FIRST}")
    return footer


@dataclass(frozen=True)
class StreamedBatch:
    """What a worker needs to make a batch: the numbers asked for, and these and maybe other videos by number."""

    epoch: int
    asked: list[int]
    videos: dict[int, dict[str, Any] | None]


class StreamedClips(Dataset):
    """Makes the training samples of a `StreamedBatch`, as `TrainingClips` does from a data set."""

    def __init__(self, make_clips: ClipMaker):
        self.make_clips = make_clips

    def __getitem__(self, batch: StreamedBatch) -> list[dict[str, Any]]:
        def make(index: int, row: int) -> dict[str, Any]:
            return self.make_clips.sample(batch.videos[row], (batch.epoch, index), row)

        seed, rows = self.make_clips.seed, list(batch.videos)
        return [make_or_replace(partial(make, index), index, rows, seed, batch.epoch) for index in batch.asked]


class StreamedBatches(EpochSampler[StreamedBatch]):
    """The batches of one rank with the bytes of their videos, in an order that moves rows by about `shuffle_window`."""

    def __init__(self, videos: ParquetVideos, batch_size: int, *, shuffle_window: int = 1024, **of_the_rank: Any):
        super().__init__(len(videos), batch_size, **of_the_rank)
        if shuffle_window < 1:
            raise ValueError(f"shuffle_window must be at least 1, got {shuffle_window}")
        self.videos = videos
        self.shuffle_window = shuffle_window

    def order(self, epoch: int) -> Tensor:
        """Returns this rank's videos in an epoch, in order: int64 (steps_per_epoch · batch_size,)."""
        # Row groups in random order, their rows numbered consecutively.
        generator = seeded_generator("stream-groups", self.seed, epoch)
        groups = torch.randperm(len(self.videos.group_sizes), generator=generator)
        sizes = self.videos.group_sizes[groups]
        shifts = self.videos.group_starts[groups] - (sizes.cumsum(0) - sizes)
        rows = torch.arange(len(self.videos)) + shifts.repeat_interleave(sizes)
        # The part of this rank.
        length = self.steps_per_epoch * self.batch_size
        places = torch.arange(self.rank * length, (self.rank + 1) * length)
        rows = rows[places % len(rows)]
        # Rows wait, and others overtake them.
        generator = seeded_generator("stream-rows", self.seed, epoch, self.rank)
        delays = self.shuffle_window * torch.rand(length, generator=generator, dtype=torch.float64)
        return rows[torch.argsort(torch.arange(length) + delays, stable=True)]

    def __iter__(self) -> Iterator[StreamedBatch]:
        epoch, order = self.epoch, self.order(self.epoch)
        asked = order.split(self.batch_size)[self.first_step :]
        # The candidates start with the batch itself, except at the end of the order.
        count = min(max(self.batch_size, _CANDIDATES), len(order))
        starts = range(self.first_step * self.batch_size, len(order), self.batch_size)
        candidates = [order[min(start, len(order) - count) :][:count] for start in starts]
        for rows, videos in zip(asked, self._fetch(candidates)):
            yield StreamedBatch(epoch, rows.tolist(), videos)

    def _fetch(self, batches: list[Tensor]) -> Iterator[dict[int, dict[str, Any] | None]]:
        """Yields the videos of each batch of row numbers. A row group is in memory from its first to its last use."""
        needed = [self.videos.groups_of(rows).unique().tolist() for rows in batches]
        last_use = {group: step for step, groups in enumerate(needed) for group in groups}
        fetched: dict[int, Future[list[dict[str, Any] | None]]] = {}
        pool, ahead = ThreadPoolExecutor(_GROUPS_AT_ONCE), iter(needed)
        try:
            for step, rows in enumerate(batches):
                for groups in islice(ahead, 1 + _BATCHES_AHEAD if step == 0 else 1):
                    for group in groups:
                        if group not in fetched:
                            fetched[group] = pool.submit(self.videos.read_group, group)
                place = self.videos.groups_of(rows)
                offsets = rows - self.videos.group_starts[place]
                places = zip(rows.tolist(), place.tolist(), offsets.tolist())
                yield {row: fetched[group].result()[offset] for row, group, offset in places}
                for group in needed[step]:
                    if last_use[group] == step:
                        del fetched[group]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class StreamingClipLoader(EpochLoader):
    """Like `ClipLoader`, but from sharded Parquet anywhere. Threads fetch; `num_workers` processes decode."""

    def __init__(
        self,
        videos: ParquetVideos,
        make_clips: ClipMaker,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        shuffle_window: int = 1024,
        **how: Any,
    ):
        of_the_rank = {"seed": make_clips.seed, "rank": rank, "world_size": world_size}
        batches = StreamedBatches(videos, batch_size, shuffle_window=shuffle_window, **of_the_rank)
        # The samples are batches already, so the data loader makes none.
        self.list_videos = videos.list_shards
        super().__init__(StreamedClips(make_clips), batches, sampler=batches, batch_size=None, **how)
