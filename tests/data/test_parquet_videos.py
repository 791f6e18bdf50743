"""Shards are found wherever they lie, and no byte is read that is not needed."""

import io

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from vididi_hf.data.preparation.shards import shard_path, write_shard
from vididi_hf.data.streaming import ParquetVideos, find_shards

FEATURES = datasets.Features({"video": datasets.Video(), "label": datasets.ClassLabel(names=["a", "b"])})


def content(row):
    """What stands for the bytes of a video: 10,000 of them, and others for each row."""
    return (
        torch.randint(256, (10_000,), generator=torch.Generator().manual_seed(row), dtype=torch.uint8).numpy().tobytes()
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards of 5, 0 and 7 rows for training and one of 2 for testing, in row groups of at most 3."""
    folder = tmp_path_factory.mktemp("set")
    first = 0
    for split, index, count, rows in (("train", 0, 3, 5), ("train", 1, 3, 0), ("train", 2, 3, 7), ("test", 0, 1, 2)):
        numbers = range(first, first + rows)
        first += rows
        videos = ({"video": {"bytes": content(row), "path": f"{row}.mp4"}, "label": row % 2} for row in numbers)
        write_shard(shard_path(folder, split, index, count), FEATURES.arrow_schema, videos, {}, videos_per_group=3)
    return folder


class CountedFile(io.BytesIO):
    def read(self, *args):
        data = super().read(*args)
        CountedFiles.bytes_read += len(data)
        return data


class CountedFiles(MemoryFileSystem):
    """Stands for remote files: a file system that nothing but fsspec can read, and that counts what is read."""

    protocol = "counted"
    bytes_read = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("counted://", "memory://"))

    def _open(self, path, mode="rb", **kwargs):
        if mode != "rb":
            return super()._open(path, mode, **kwargs)
        return CountedFile(self.store[path].getvalue())


@pytest.fixture(scope="module")
def remote(folder):
    fsspec.register_implementation("counted", CountedFiles, clobber=True)
    filesystem = fsspec.filesystem("counted")
    for path in sorted((folder / "data").glob("*.parquet")):
        filesystem.pipe(f"/far/set/data/{path.name}", path.read_bytes())
    return "counted://far/set"


def names(shards):
    return [shard.rpartition("/")[2] for shard in shards]


TRAIN = [f"train-{index:05d}-of-00003.parquet" for index in range(3)]


def test_shards_of_folders_urls_files_and_patterns(folder, remote):
    for place in (str(folder), remote):
        assert names(find_shards(place)) == TRAIN
        assert names(find_shards(place, "test")) == ["test-00000-of-00001.parquet"]
        assert (
            names(find_shards(place, None))
            == names(find_shards(place, "all"))
            == ["test-00000-of-00001.parquet", *TRAIN]
        )
        assert names(find_shards(f"{place}/data/train-*.parquet")) == TRAIN
        assert names(find_shards(f"{place}/data/{TRAIN[2]}")) == [TRAIN[2]]
        assert len(ParquetVideos(find_shards(place))) == 12


def test_a_data_set_card_decides_which_file_belongs_to_which_split(folder, tmp_path):
    (tmp_path / "x.parquet").write_bytes(shard_path(folder, "train", 0, 3).read_bytes())
    (tmp_path / "y.parquet").write_bytes(shard_path(folder, "train", 2, 3).read_bytes())
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: y.parquet\n  - split: test\n    path: x.parquet\n---\n"
    )
    assert names(find_shards(str(tmp_path))) == ["y.parquet"]
    assert names(find_shards(str(tmp_path), "test")) == ["x.parquet"]


def test_what_cannot_be_streamed_is_refused_with_advice(folder, motion_root, tmp_path):
    with pytest.raises(ValueError, match=r"motion is a built-in set, and .* scripts/prepare_dataset.py"):
        find_shards("motion")
    with pytest.raises(ValueError, match=r"holds no Parquet files, and .* scripts/prepare_dataset.py"):
        find_shards(str(motion_root))
    with pytest.raises(ValueError, match="has no split 'validation'; it has test, train"):
        find_shards(str(folder), "validation")
    with pytest.raises(FileNotFoundError):
        find_shards(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError):
        find_shards(str(tmp_path / "nowhere-*.parquet"))
    other = tmp_path / "list.parquet"
    datasets.Dataset.from_dict({"video": ["a.mp4"], "label": [0]}).to_parquet(other)
    with pytest.raises(
        ValueError, match=r"list.parquet has no column 'video' that holds the bytes of videos, only label"
    ):
        ParquetVideos([str(other)])
    with pytest.raises(ValueError, match="holds no videos"):
        ParquetVideos([str(shard_path(folder, "train", 1, 3))])


def test_rows_are_counted_through_all_files(folder):
    videos = ParquetVideos(find_shards(str(folder)))
    assert videos.group_sizes.tolist() == [3, 2, 3, 3, 1]
    assert videos.group_starts.tolist() == [0, 3, 5, 8, 11]
    rows = torch.arange(12)
    assert videos.groups_of(rows).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4]
    read = [video for group in range(5) for video in videos.read_group(group)]
    assert read == [{"bytes": content(row), "path": f"{row}.mp4"} for row in range(12)]


def test_a_video_without_a_name_is_called_by_its_place(tmp_path):
    rows = [{"video": {"bytes": b"1", "path": None}, "label": 0}, {"video": None, "label": 0}]
    rows.append({"video": {"bytes": None, "path": "elsewhere.mp4"}, "label": 0})
    pq.write_table(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema), tmp_path / "a.parquet")
    videos = ParquetVideos([str(tmp_path / "a.parquet")]).read_group(0)
    assert videos == [{"bytes": b"1", "path": "a.parquet, row 0 of group 0"}, None, None]


def test_no_more_is_read_than_footers_and_the_row_groups_asked_for(remote):
    CountedFiles.bytes_read = 0
    videos = ParquetVideos(find_shards(remote))
    shards = [pq.ParquetFile(fsspec.open(url).open()).metadata for url in videos.shards]
    CountedFiles.bytes_read = 0
    videos = ParquetVideos(find_shards(remote))
    sizes = [fsspec.filesystem("counted").size(url) for url in videos.shards]
    # Arrow reads the last 64 KiB of a file, in which it expects the whole footer.
    assert CountedFiles.bytes_read <= sum(min(size, 64 * 1024) for size in sizes)
    CountedFiles.bytes_read = 0
    assert len(videos.read_group(2)) == 3  # the first group of the last file
    group = shards[2].row_group(0)
    needed = sum(group.column(i).total_compressed_size for i in range(2))
    assert 30_000 < needed <= CountedFiles.bytes_read <= needed + 1000
    assert CountedFiles.bytes_read < sizes[2] / 2
