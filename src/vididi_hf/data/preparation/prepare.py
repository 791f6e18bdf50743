"""Prepare a data set once, for every training to come: sharded Parquet of videos that can be decoded."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import HfApi
from tqdm.auto import tqdm

from vididi_hf.data.folders import SPLIT_NAMES, MissingSplitError
from vididi_hf.data.preparation.card import dataset_card
from vididi_hf.data.preparation.shards import DATA_FOLDER, read_record, shard_path, write_shard
from vididi_hf.data.preparation.treatment import (
    DROPPED,
    KEPT,
    PARTIAL,
    REENCODED,
    REPAIRED,
    TreatedVideo,
    Treatment,
    treat_video,
)
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.data.stored_splits import FACTS, StoredSplit, common_folder
from vididi_hf.data.workers import ordered_map
from vididi_hf.files import remove_unfinished, write_text
from vididi_hf.options import option

REPORT_FILE = "preparation.json"
_SMALLEST = {
    **dict.fromkeys(("min_frames", "videos_per_shard", "videos_per_group", "key_frame_interval"), 1),
    **dict.fromkeys(("crf", "seed", "num_workers"), 0),
    "short_side": 16,
}
# What the shards depend on, beside the videos themselves.
_SETTINGS = (
    *("partial", "min_frames", "short_side", "key_frame_interval", "crf"),
    *("shuffle", "seed", "videos_per_shard", "videos_per_group"),
)


@dataclass(kw_only=True)
class PreparationOptions:
    """Every choice of a preparation. A field is a flag of `scripts/prepare_dataset.py`; its `help` says what it means.

    Raises:
        ValueError: If a value is impossible; the message names the field.
    """

    dataset: str = option(
        help="A set in docs/datasets.md, a folder of videos, a CSV or Parquet list, a saved data set, or a Hub id."
    )
    output_dir: str = option(help="Folder of the shards, the data set card and preparation.json.")
    dataset_root: str | None = option(default=None, help="Where a built-in set lies or is made: docs/datasets.md.")
    splits: list[str] | None = option(
        default=None, help=f"The splits to prepare; by default those of {', '.join(SPLIT_NAMES)} that there are."
    )
    partial: str = option(
        default="repair",
        help="Videos that promise more frames than can be decoded: 'repair' encodes anew the frames that there are, "
        "'keep' leaves the file as it is, 'drop' leaves it out.",
    )
    min_frames: int = option(default=1, help="Drop videos of fewer frames.")
    short_side: int | None = option(default=None, help="Shrink larger videos to this height or width in pixels.")
    key_frame_interval: int | None = option(
        default=None, help="Encode all videos anew with a key frame at least every so many frames: faster seeking."
    )
    crf: int = option(default=18, help="x264's rate factor of what is encoded anew: 0 is lossless, 51 worst.")
    shuffle: bool = option(
        default=True, help="Store rows in a random order: streaming, which shuffles near ones only, then mixes classes."
    )
    seed: int = option(default=0, help="Seed of that order.")
    videos_per_shard: int = option(default=256, help="Videos of a shard, before any is dropped.")
    videos_per_group: int = option(default=16, help="Videos of a row group, the least that streaming fetches.")
    num_workers: int = option(
        default_factory=lambda: os.cpu_count() or 1, help="Processes that decode; 0 works in the main process."
    )
    license: str | None = option(default=None, help="License of the videos for the data set card, as the Hub names it.")
    push_to_hub: str | None = option(default=None, help="Upload the result to this data set of the Hub, owner/name.")
    private: bool = option(default=True, help="Make that data set a private one, if it is new.")
    progress: bool = option(default=True, help="Show a progress bar.")

    def __post_init__(self) -> None:
        if self.partial not in PARTIAL:
            raise ValueError(f"partial must be one of {', '.join(PARTIAL)}, got {self.partial!r}")
        for name, least in _SMALLEST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.crf > 51:
            raise ValueError(f"crf must be at most 51, got {self.crf}")
        for split in self.splits or []:
            if not re.fullmatch(r"\w+(\.\w+)*", split):
                raise ValueError(f"splits: {split!r} is no name that 🤗 Datasets takes: letters, digits and _ only")
        if self.push_to_hub is not None and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", self.push_to_hub):
            raise ValueError(f"push_to_hub must be the id of a data set, owner/name, got {self.push_to_hub!r}")

    def settings(self) -> dict[str, Any]:
        """Returns the options that shards depend on, beside the videos themselves."""
        return {name: getattr(self, name) for name in _SETTINGS}

    def treatment(self) -> Treatment:
        """Returns what shall be done to each video."""
        return Treatment(self.partial, self.min_frames, self.short_side, self.key_frame_interval, self.crf)


@dataclass(frozen=True)
class _Shard:
    split: StoredSplit
    path: Path
    rows: list[int]


def prepare_dataset(options: PreparationOptions) -> dict[str, Any]:
    """Writes the splits of a data set as sharded Parquet, with a data set card.

    Every frame of every file is decoded once, in parallel. The shards depend on the videos and the options alone, not
    on the number of processes or on interruptions: a call that was killed is continued by the same call, which keeps
    every finished shard.

    Args:
        options: All choices.

    Returns:
        The report that also lies in `preparation.json`: for each split the numbers of videos that were kept,
        re-encoded, repaired and dropped, the latter two by name and with the reason.

    Raises:
        FileNotFoundError: If there is no such data set.
        ValueError: If it has no such split, splits do not fit together, no video can be decoded, or `output_dir` holds
            other shards.
        OSError: If the output cannot be written, for example to a full disk. Finished shards stay.

    Example:
        ```python
        >>> import tempfile
        >>> from vididi_hf import load_video_dataset
        >>> from vididi_hf.data.preparation.prepare import PreparationOptions, prepare_dataset
        >>> rows = load_video_dataset("motion", split="test", num_train=8, num_test=8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rows.save_to_disk(f"{folder}/saved")
        ...     report = prepare_dataset(
        ...         PreparationOptions(
        ...             dataset=f"{folder}/saved", output_dir=f"{folder}/shards", splits=["test"], num_workers=0,
        ...             progress=False,
        ...         )
        ...     )
        >>> report["splits"]["test"]["kept"], report["splits"]["test"]["dropped"]
        (8, [])

        ```
    """
    splits = _load_splits(options)
    output_dir = Path(options.output_dir)
    shards = [
        _Shard(split, shard_path(output_dir, split.name, index, len(split.shards)), rows)
        for split in splits
        for index, rows in enumerate(split.shards)
    ]
    remove_unfinished(output_dir / DATA_FOLDER)
    finished = _finished_shards(output_dir, shards, options)
    missing = [shard for shard in shards if shard.path not in finished]
    total = sum(len(shard.rows) for shard in shards)
    done = total - sum(len(shard.rows) for shard in missing)
    jobs = (shard.split.row(row)["video"] for shard in missing for row in shard.rows)
    results = ordered_map(
        partial(treat_video, treatment=options.treatment()),
        jobs,
        options.num_workers,
        crashed=lambda _: TreatedVideo(DROPPED, "it crashes the decoder"),
    )
    bar = tqdm(total=total, initial=done, desc="prepare", unit="video", disable=not options.progress)
    with closing(results), bar:  # type: ignore[type-var]  # a generator, which can be closed
        for shard in missing:
            record = _new_record(shard, options)
            rows = _stored_rows(shard, islice(results, len(shard.rows)), record, bar)
            write_shard(shard.path, shard.split.features.arrow_schema, rows, record, options.videos_per_group)
            finished[shard.path] = record
    report = _report(options, splits, [finished[shard.path] | {"path": shard.path} for shard in shards])
    write_text(output_dir / REPORT_FILE, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    write_text(output_dir / "README.md", dataset_card(report, options.license))
    if not any(split["stored"] for split in report["splits"].values()):
        raise ValueError(f"none of the {total} videos can be decoded; {output_dir / REPORT_FILE} says why")
    if options.push_to_hub is not None:
        push_to_hub(output_dir, options.push_to_hub, options.private)
    return report


def push_to_hub(folder: str | Path, name: str, private: bool = True) -> str:
    """Uploads a prepared data set in one commit, and returns its address.

    Args:
        folder: What `prepare_dataset` wrote.
        name: `owner/name` of the data set on the Hub; made if missing.
        private: Whether a new one is private.
    """
    api = HfApi()
    api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=name,
        repo_type="dataset",
        folder_path=folder,
        allow_patterns=["README.md", REPORT_FILE, f"{DATA_FOLDER}/*.parquet"],
        commit_message="Add videos prepared by vididi_hf",
    )
    return str(commit.commit_url)


def _load_splits(options: PreparationOptions) -> list[StoredSplit]:
    loaded: dict[str, datasets.Dataset] = {}
    missing: MissingSplitError | None = None
    for name in options.splits or SPLIT_NAMES:
        try:
            loaded[name] = load_video_dataset(options.dataset, root=options.dataset_root, split=name)
        except MissingSplitError as error:
            if options.splits:
                raise
            missing = error
    if not loaded:
        raise missing or ValueError(f"{options.dataset} has no splits")
    root = common_folder(loaded.values())
    splits = [
        StoredSplit(name, rows, root, options.settings(), options.videos_per_shard, options.shuffle, options.seed)
        for name, rows in loaded.items()
    ]
    for split in splits[1:]:
        if split.features != splits[0].features:
            raise ValueError(
                f"splits {splits[0].name} and {split.name} have different columns or classes, and cannot be one data "
                f"set: {splits[0].features} and {split.features}; prepare them one by one, with --splits"
            )
    return splits


def _finished_shards(output_dir: Path, shards: list[_Shard], options: PreparationOptions) -> dict[Path, dict[str, Any]]:
    """The records of the shards that an earlier call has finished.

    Raises:
        ValueError: If there are shards that this call would not write.
    """
    expected = {shard.path: shard.split.identity for shard in shards}
    finished = {}
    for path in sorted((output_dir / DATA_FOLDER).glob("*.parquet")):
        record = read_record(path)
        if record is None or expected.get(path) != record["identity"]:
            was = record["settings"] if record else {}
            changed = [
                f"{name} was {was[name]!r} and is {now!r}"
                for name, now in options.settings().items()
                if name in was and was[name] != now
            ]
            raise ValueError(
                f"{path} is no shard of this preparation: {'; '.join(changed) or 'it was made from other videos'}. "
                "Choose another output_dir, or remove that folder"
            )
        finished[path] = record
    return finished


def _new_record(shard: _Shard, options: PreparationOptions) -> dict[str, Any]:
    record = {"identity": shard.split.identity, "settings": options.settings(), "split": shard.split.name}
    return {**record, "videos": len(shard.rows), "stored": 0, KEPT: 0, REENCODED: 0, REPAIRED: [], DROPPED: []}


def _stored_rows(
    shard: _Shard, results: Iterator[TreatedVideo], record: dict[str, Any], bar: tqdm
) -> Iterator[dict[str, Any]]:
    """Yields the rows to store, and notes in the record what became of each video."""
    for index, result in zip(shard.rows, results, strict=True):
        row = shard.split.row(index)
        name = shard.split.video_name(index, row["video"] and row["video"]["path"])
        if result.status in (REPAIRED, DROPPED):
            record[result.status].append({"video": name, "reason": result.reason})
        else:
            record[result.status] += 1
        if result.facts is not None:
            record["stored"] += 1
            if result.status in (REPAIRED, REENCODED):
                name = Path(name).with_suffix(".mp4").as_posix()
            facts = {fact: getattr(result.facts, fact) for fact in FACTS}
            yield {**row, **facts, "video": {"bytes": result.encoded, "path": name}}
        bar.update()


def _report(options: PreparationOptions, splits: list[StoredSplit], records: list[dict[str, Any]]) -> dict[str, Any]:
    report: dict[str, Any] = {"dataset": Path(options.dataset).stem, "settings": options.settings(), "splits": {}}
    for split in splits:
        mine = [record for record in records if record["split"] == split.name]
        counts = {name: sum(record[name] for record in mine) for name in ("videos", "stored", KEPT, REENCODED)}
        named = {name: [video for record in mine for video in record[name]] for name in (REPAIRED, DROPPED)}
        shards = [
            {"file": record["path"].name, "rows": record["stored"], "bytes": record["path"].stat().st_size}
            for record in mine
        ]
        report["splits"][split.name] = {**counts, **named, "shards": shards}
    return report


def summarize(report: dict[str, Any]) -> str:
    """Returns a report in a few lines: what became of the videos of each split, and the reasons by their number."""
    lines = []
    for name, split in report["splits"].items():
        size = sum(shard["bytes"] for shard in split["shards"])
        lines.append(
            f"{name}: {split['stored']} of {split['videos']} videos in {len(split['shards'])} shards, {size:,} bytes; "
            f"{split[KEPT]} kept, {split[REENCODED]} re-encoded, {len(split[REPAIRED])} repaired; "
            f"{len(split[DROPPED])} dropped"
        )
        for status in (REPAIRED, DROPPED):
            # Numbers differ from video to video; the reason is the same.
            reasons = Counter(re.sub(r"\d+", "…", video["reason"]) for video in split[status])
            lines += [f"  {count} {status}: {reason}" for reason, count in reasons.most_common()]
    return "\n".join(lines)
