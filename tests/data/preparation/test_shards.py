"""Shards are whole or not there, also on a full disk (`/dev/full`); which rows they hold, and when two are the same."""

import os
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from vididi_hf.data.folders import with_video_column
from vididi_hf.data.preparation import shards
from vididi_hf.data.preparation.shards import StoredSplit, common_folder, read_record, shard_path, write_shard

FEATURES = datasets.Features({"video": datasets.Video(), "label": datasets.ClassLabel(names=["a", "b"])})
SCHEMA = FEATURES.arrow_schema
FEATURES_OF_VIDEOS = datasets.Features({"video": datasets.Video()})


def rows(sizes):
    return ({"video": {"bytes": bytes([i]) * size, "path": f"{i}.mp4"}, "label": i % 2} for i, size in enumerate(sizes))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def test_a_shard_holds_rows_in_groups_their_types_and_its_record(tmp_path):
    path = shard_path(tmp_path, "train", 3, 20)
    assert path == tmp_path / "data/train-00003-of-00020.parquet"
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
    assert (column.path_in_schema, column.compression) == ("video.bytes", "UNCOMPRESSED")
    assert not column.has_dictionary_page
    assert files(tmp_path) == [path.name]


def test_long_videos_make_small_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_MAX_GROUP_BYTES", 100)
    path = shard_path(tmp_path, "train", 0, 1)
    write_shard(path, SCHEMA, rows([60, 40, 1, 500, 10, 90]), {}, videos_per_group=10)
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [2, 1, 1, 2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_leaves_nothing_and_is_called_that(tmp_path):
    first, second = (shard_path(tmp_path, "train", index, 2) for index in (0, 1))
    write_shard(first, SCHEMA, rows([10]), {}, videos_per_group=1)
    # Writing to the second one's hidden name is now writing to a full disk.
    os.symlink("/dev/full", second.with_name(f".{second.name}.part"))
    with pytest.raises(OSError, match=r"the disk is full: .*train-00001-of-00002.parquet.* run the same command"):
        write_shard(second, SCHEMA, rows([10_000_000, 10]), {}, videos_per_group=1)
    assert files(tmp_path) == [first.name]


def test_errors_leave_nothing_and_foreign_files_have_no_record(tmp_path):
    def failing():
        yield from rows([10, 10, 10])
        raise KeyboardInterrupt

    path = shard_path(tmp_path, "train", 0, 1)
    with pytest.raises(KeyboardInterrupt):
        write_shard(path, SCHEMA, failing(), {}, videos_per_group=1)
    assert files(tmp_path) == []
    write_shard(path, SCHEMA, rows([]), {"kept": 0}, videos_per_group=2)  # a shard without rows
    assert pq.read_table(path).num_rows == 0
    assert read_record(path) == {"kept": 0}
    assert read_record(tmp_path / "missing.parquet") is None
    (tmp_path / "text.parquet").write_text("no Parquet")
    assert read_record(tmp_path / "text.parquet") is None
    datasets.Dataset.from_dict({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    assert read_record(tmp_path / "other.parquet") is None
    with pytest.raises(OSError, match="Not a directory"):  # other errors of the disk keep their words
        write_shard(shard_path(tmp_path / "text.parquet", "train", 0, 1), SCHEMA, rows([10]), {}, videos_per_group=1)


def split_of(rows, root="/videos", settings=None, videos_per_shard=4, **options):
    return StoredSplit("train", rows, root, settings or {}, videos_per_shard, **options)


def listed(root="/videos", take=range(10)):
    videos, labels = [f"{root}/{i % 2}/{i}.mp4" for i in range(10)], [str(i % 2) for i in range(10)]
    return with_video_column(videos, labels, columns={"take": list(take)})


def test_every_row_is_in_one_shard_in_a_random_order_that_the_seed_decides():
    split = split_of(listed())
    assert [len(shard) for shard in split.shards] == [4, 4, 2]
    order = [row for shard in split.shards for row in shard]
    assert sorted(order) == list(range(10))
    assert split.shards == split_of(listed()).shards
    assert len({str(split_of(listed(), seed=seed).shards) for seed in range(3)}) == 3
    assert split.row(3) == {"video": {"bytes": None, "path": "/videos/1/3.mp4"}, "label": 1, "take": 3}
    # A name is that below the common folder, or the one of an embedded file, or a number.
    names = [split.video_name(3, path) for path in ("/videos/1/3.mp4", "run/3.mp4", None)]
    assert names == ["1/3.mp4", "run/3.mp4", "train/00000003"]
    assert split_of(listed(), root="").video_name(3, "/videos/1/3.mp4") == "3.mp4"
    distant = [split_of(listed(), root="/").video_name(3, path) for path in ("/home/me/3.mp4", "/tmp/3.mp4")]
    assert distant[0] != distant[1]
    assert all(name.endswith("/3.mp4") and "me" not in name and "tmp" not in name for name in distant)
    for paths, folder in (
        (["/a/b/c.mp4", "/a/d/e.mp4", "/a/f.mp4"], "/a"),
        (["/a/b/c.mp4", "/a/b/d.mp4"], "/a/b"),
        (["b/c.mp4", None, "/a/d.mp4"], "/a"),
        ([None], ""),
    ):
        assert common_folder([with_video_column(paths)]) == folder
    assert split_of(listed(), shuffle=False).shards == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_another_file_of_the_same_name_is_another_video(tmp_path):
    identities = []
    for size in (3, 4):
        (tmp_path / "a.mp4").write_bytes(b"0" * size)
        identities.append(split_of(with_video_column([str(tmp_path / "a.mp4")]), root=str(tmp_path)).identity)
    assert identities[0] != identities[1]


def test_the_identity_changes_with_all_that_shards_depend_on():
    rows = listed()
    base = split_of(rows).identity
    assert base == split_of(rows).identity == split_of(listed("/moved"), root="/moved").identity
    embedded = [
        datasets.Dataset.from_list([{"video": {"bytes": b"0" * size, "path": "a.mp4"}}], features=FEATURES_OF_VIDEOS)
        for size in (3, 4)
    ]
    others = [rows.select(range(9)), rows.remove_columns("take"), rows.rename_column("take", "source")]
    others.append(listed(take=[0] * 10))
    others = [*map(split_of, [*others, *embedded]), split_of(rows, settings={"short_side": 64})]
    assert len({base, *(split.identity for split in others)}) == len(others) + 1
