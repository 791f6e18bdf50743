"""Shards are whole or not there, also on a disk that is full: `/dev/full` is one."""

import os
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from vididi_hf.data import shards
from vididi_hf.data.preparation.shards import read_record, shard_path, write_shard

FEATURES = datasets.Features({"video": datasets.Video(), "label": datasets.ClassLabel(names=["a", "b"])})
SCHEMA = FEATURES.arrow_schema


def rows(sizes):
    return ({"video": {"bytes": bytes([i]) * size, "path": f"{i}.mp4"}, "label": i % 2} for i, size in enumerate(sizes))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def test_names():
    assert shard_path("out", "train", 3, 20) == Path("out/data/train-00003-of-00020.parquet")


def test_a_shard_holds_rows_in_groups_their_types_and_its_record(tmp_path):
    path = shard_path(tmp_path, "train", 0, 1)
    record = {"dropped": []}

    def rows_that_note():
        yield from rows([10, 20, 30, 40, 50])
        record["dropped"].append("ö.mp4")  # after the last row

    write_shard(path, SCHEMA, rows_that_note(), record, videos_per_group=2)
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 2, 1]
    assert file.read().to_pylist() == list(rows([10, 20, 30, 40, 50]))
    assert read_record(path) == {"dropped": ["ö.mp4"]}
    assert datasets.Features.from_arrow_schema(file.schema_arrow) == FEATURES
    column = file.metadata.row_group(0).column(0)
    assert column.path_in_schema == "video.bytes"
    assert column.compression == "UNCOMPRESSED"
    assert not column.has_dictionary_page
    assert files(tmp_path) == [path.name]


def test_long_videos_make_small_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_MAX_GROUP_BYTES", 100)
    path = shard_path(tmp_path, "train", 0, 1)
    write_shard(path, SCHEMA, rows([60, 40, 1, 500, 10, 90]), {}, videos_per_group=10)
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [2, 1, 1, 2]


def test_a_shard_without_rows_can_be_read(tmp_path):
    path = shard_path(tmp_path, "train", 0, 1)
    write_shard(path, SCHEMA, rows([]), {"kept": 0}, videos_per_group=2)
    assert pq.read_table(path).num_rows == 0
    assert read_record(path) == {"kept": 0}


def test_an_error_between_rows_leaves_nothing(tmp_path):
    def failing():
        yield from rows([10, 10, 10])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(shard_path(tmp_path, "train", 0, 1), SCHEMA, failing(), {}, videos_per_group=1)
    assert files(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_leaves_nothing_and_is_called_that(tmp_path):
    first, second = (shard_path(tmp_path, "train", index, 2) for index in (0, 1))
    write_shard(first, SCHEMA, rows([10]), {}, videos_per_group=1)
    # Writing to the second one's hidden name is now writing to a full disk.
    os.symlink("/dev/full", second.with_name(f".{second.name}.part"))
    with pytest.raises(
        OSError, match=r"the disk is full: .*train-00001-of-00002.parquet .* run the same command again"
    ):
        write_shard(second, SCHEMA, rows([10_000_000, 10]), {}, videos_per_group=1)
    assert files(tmp_path) == [first.name]


def test_other_errors_of_the_disk_keep_their_words(tmp_path):
    (tmp_path / "data").write_text("a file where the folder shall be")
    with pytest.raises(OSError, match="File exists"):
        write_shard(shard_path(tmp_path, "train", 0, 1), SCHEMA, rows([10]), {}, videos_per_group=1)


def test_records_of_what_is_no_shard_of_ours(tmp_path):
    assert read_record(tmp_path / "missing.parquet") is None
    (tmp_path / "text.parquet").write_text("no Parquet")
    assert read_record(tmp_path / "text.parquet") is None
    datasets.Dataset.from_dict({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    assert read_record(tmp_path / "other.parquet") is None
