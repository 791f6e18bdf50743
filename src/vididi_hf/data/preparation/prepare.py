"""Prepare a data set once for every training to come: sharded Parquet of videos that can be decoded."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from tqdm.auto import tqdm

from vididi_hf.data.folders import MissingSplitError
from vididi_hf.data.options import SPLIT_NAMES
from vididi_hf.data.preparation.card import dataset_card
from vididi_hf.data.preparation.options import PreparationOptions
from vididi_hf.data.preparation.output import OutputFolder
from vididi_hf.data.preparation.shards import DATA_FOLDER, FACTS, StoredSplit, common_folder, shard_path, write_shard
from vididi_hf.data.preparation.treatment import DROPPED, KEPT, REENCODED, REPAIRED, TreatedVideo, treat_video
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.data.workers import ordered_map
from vididi_hf.files import printable
from vididi_hf.public import public_name

REPORT_FILE = "preparation.json"


def run(options: PreparationOptions) -> None:
    report = prepare_dataset(options)
    print(summarize(report))
    if missing := report.get("missing_shards"):
        print(f"{len(missing)} shards of other parts are missing, such as {missing[0]}; the last part writes the card")
    elif options.push_to_hub is not None:
        print(f"uploaded to https://huggingface.co/datasets/{options.push_to_hub}")


class _Shard(NamedTuple):
    split: StoredSplit
    name: str
    rows: list[int]


def prepare_dataset(options: PreparationOptions) -> dict[str, Any]:
    """Writes the splits of a data set as sharded Parquet, with a data set card.

    Every frame of every file is decoded once, in parallel. The shards depend only on the videos and the options, not on
    the number of processes. To continue an interrupted call, repeat it: it keeps all finished shards. Several calls
    with different `part`s, on one or more machines, fill one folder. The last one to end writes the report and card.

    Args:
        options: All choices.

    Returns:
        The report that is also in `preparation.json`: for each split the numbers of videos that were kept and
        re-encoded, and the names and reasons of those that were repaired and dropped. While other parts are missing,
        it counts only finished shards, and `missing_shards` names the others.

    Raises:
        FileNotFoundError: If the data set does not exist.
        ValueError: If a split does not exist, splits do not fit together, no video can be decoded, or `output_dir`
            has other shards.
        BlockingIOError: If another process writes the same part.
        OSError: If the output cannot be written, for example to a full disk. Finished shards stay.

    Example:
        >>> import tempfile
        >>> from vididi_hf import PreparationOptions, load_video_dataset, prepare_dataset
        >>> rows = load_video_dataset("motion", num_train=8, num_test=8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rows.save_to_disk(f"{folder}/saved")
        ...     made = {"dataset": f"{folder}/saved", "output_dir": f"{folder}/shards", "splits": ["train"]}
        ...     report = prepare_dataset(PreparationOptions(**made, num_workers=0, progress=False))
        >>> report["splits"]["train"]["kept"], report["splits"]["train"]["dropped"]
        (8, [])
    """
    output, (number, count) = OutputFolder(options.output_dir), options.part_of()
    with output.lock("vididi" if count == 1 else f"part-{number}-of-{count}"):
        splits = _load_splits(options)
        shards = [
            _Shard(split, shard_path("", split.name, index, len(split.shards)).name, rows)
            for split in splits
            for index, rows in enumerate(split.shards)
        ]
        finished = _finished_shards(output, shards, options)
        _write_shards(output, shards[number - 1 :: count], finished, options)
        finished = _finished_shards(output, shards, options)  # other parts have gone on
        records = [finished[shard.name] | {"file": shard.name} for shard in shards if shard.name in finished]
        report = _report(options, splits, records, output)
        if missing := [shard.name for shard in shards if shard.name not in finished]:
            return report | {"missing_shards": missing}
        with suppress(BlockingIOError), output.lock("report"):  # if several end together, one of them writes
            _finish(output, report, options)
    return report


def _write_shards(
    output: OutputFolder, shards: list[_Shard], finished: dict[str, Any], options: PreparationOptions
) -> None:
    """Writes the shards of this part that are not finished."""
    missing = [shard for shard in shards if shard.name not in finished]
    total = sum(len(shard.rows) for shard in shards)
    done = total - sum(len(shard.rows) for shard in missing)
    jobs = (shard.split.row(row)["video"] for shard in missing for row in shard.rows)
    crashed = TreatedVideo(DROPPED, "it crashes the decoder")
    results = ordered_map(partial(treat_video, options=options), jobs, options.num_workers, lambda _: crashed)
    bar = tqdm(total=total, initial=done, desc="prepare", unit="video", disable=not options.progress)
    with closing(results), bar:  # type: ignore[type-var]  # a generator, which can be closed
        for shard in missing:
            record: dict[str, Any] = {"identity": shard.split.identity, "settings": options.settings()}
            record["split"] = shard.split.name
            record |= {"videos": len(shard.rows), "stored": 0, KEPT: 0, REENCODED: 0, REPAIRED: [], DROPPED: []}
            rows = _stored_rows(shard, islice(results, len(shard.rows)), record, bar)
            with output.lock(shard.name), output.writing(shard.name) as path:
                write_shard(path, shard.split.features.arrow_schema, rows, record, options.videos_per_group)


def _finish(output: OutputFolder, report: dict[str, Any], options: PreparationOptions) -> None:
    """Writes what describes all shards, and uploads the folder if asked."""
    output.remove_unfinished()
    output.put_text(REPORT_FILE, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    output.put_text("README.md", dataset_card(report, options.license))
    if not any(split["stored"] for split in report["splits"].values()):
        total = sum(split["videos"] for split in report["splits"].values())
        raise ValueError(f"none of the {total} videos can be decoded; {output.name}/{REPORT_FILE} says why")
    if options.push_to_hub is not None:
        push_to_hub(output.name, options.push_to_hub, options.private)


def push_to_hub(folder: str | Path, name: str, private: bool = True) -> str:
    """Uploads a prepared data set in one commit to `owner/name` on the Hub, and returns the address of the commit."""
    api, patterns = HfApi(), ["README.md", REPORT_FILE, f"{DATA_FOLDER}/*.parquet"]
    if private:
        with suppress(RepositoryNotFoundError):
            if api.dataset_info(name).private is False:
                raise ValueError(f"{name} exists and is public: set --private false to upload there")
    api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
    what: Any = {
        "folder_path": folder,
        "allow_patterns": patterns,
        "delete_patterns": f"{DATA_FOLDER}/*.parquet",  # of an earlier version
        "commit_message": "Add videos prepared by vididi_hf",
    }
    return str(api.upload_folder(repo_id=name, repo_type="dataset", **what).commit_url)


def _load_splits(options: PreparationOptions) -> list[StoredSplit]:
    loaded: dict[str, datasets.Dataset] = {}
    missing: MissingSplitError | None = None
    for name in options.splits or SPLIT_NAMES:
        try:
            loaded[name] = load_video_dataset(options.dataset, **options.place(), split=name)
        except MissingSplitError as error:
            if options.splits:
                raise
            missing = error
    if not loaded:
        raise missing or ValueError(f"{options.dataset} has no splits")
    root = common_folder(loaded.values())
    how = (options.settings(), options.videos_per_shard, options.shuffle, options.seed)
    splits = [StoredSplit(name, rows, root, *how) for name, rows in loaded.items()]
    first = splits[0]
    for split in splits[1:]:
        if split.features != first.features:
            differ = f"{first.features} and {split.features}; prepare them one by one, with --splits"
            raise ValueError(f"splits {first.name} and {split.name} have different columns or classes: {differ}")
    return splits


def _finished_shards(
    output: OutputFolder, shards: list[_Shard], options: PreparationOptions
) -> dict[str, dict[str, Any]]:
    """Returns the records of finished shards. Shards that this call would not write are an error."""
    expected = {shard.name: shard.split.identity for shard in shards}
    finished = {}
    for name in output.shards():
        record = output.read_record(name)
        if record is None or expected.get(name) != record.get("identity"):
            was = record.get("settings", {}) if record else {}
            pairs = [(name, was.get(name, now), now) for name, now in options.settings().items()]
            changed = "; ".join(f"{name} was {old!r} and is {now!r}" for name, old, now in pairs if old != now)
            reason = f"{changed or 'it was made from other videos'}. Choose another output_dir, or remove that folder"
            raise ValueError(f"{output.name}/{DATA_FOLDER}/{name} is not a shard of this preparation: {reason}")
        finished[name] = record
    return finished


def _stored_rows(
    shard: _Shard, results: Iterator[TreatedVideo], record: dict[str, Any], bar: tqdm
) -> Iterator[dict[str, Any]]:
    """Yields the rows to store, and notes in the record what happened to each video."""
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


def _report(
    options: PreparationOptions, splits: list[StoredSplit], records: list[dict[str, Any]], output: OutputFolder
) -> dict[str, Any]:
    name = printable(Path(public_name(options.dataset)).stem)
    report: dict[str, Any] = {"dataset": name, "settings": options.settings(), "splits": {}}
    for split in splits:
        mine = [record for record in records if record["split"] == split.name]
        counts = {name: sum(record[name] for record in mine) for name in ("videos", "stored", KEPT, REENCODED)}
        named = {name: [video for record in mine for video in record[name]] for name in (REPAIRED, DROPPED)}
        files = [(record["file"], record["stored"]) for record in mine]
        shards = [{"file": name, "rows": rows, "bytes": output.size(name)} for name, rows in files]
        report["splits"][split.name] = {**counts, **named, "shards": shards}
    return report


def summarize(report: dict[str, Any]) -> str:
    """Says in a few lines what happened to the videos of each split, and the most common reasons."""
    lines = []
    for name, split in report["splits"].items():
        size = sum(shard["bytes"] for shard in split["shards"])
        stored = f"{split['stored']} of {split['videos']} videos in {len(split['shards'])} shards, {size:,} bytes"
        kept = f"{split[KEPT]} kept, {split[REENCODED]} re-encoded, {len(split[REPAIRED])} repaired"
        lines.append(f"{name}: {stored}; {kept}; {len(split[DROPPED])} dropped")
        for status in (REPAIRED, DROPPED):
            # The numbers in a reason differ from video to video.
            reasons = Counter(re.sub(r"\d+", "…", video["reason"]) for video in split[status])
            lines += [f"  {count} {status}: {reason}" for reason, count in reasons.most_common()]
    return "\n".join(lines)
