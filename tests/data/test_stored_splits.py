"""Which row is stored where and under which name, and when two preparations are the same."""

import datasets
import pytest

from vididi_hf.data.folders import with_video_column
from vididi_hf.data.preparation.shards import StoredSplit, common_folder


def split_of(rows, root="/videos", settings=None, videos_per_shard=4, **options):
    return StoredSplit("train", rows, root, settings or {}, videos_per_shard, **options)


@pytest.fixture
def rows():
    return with_video_column(
        [f"/videos/{i % 2}/{i}.mp4" for i in range(10)], [str(i % 2) for i in range(10)], take=[*range(10)]
    )


def test_every_row_is_in_one_shard_in_a_random_order_that_the_seed_decides(rows):
    split = split_of(rows)
    assert [len(shard) for shard in split.shards] == [4, 4, 2]
    order = [row for shard in split.shards for row in shard]
    assert sorted(order) == list(range(10))
    assert split.shards == split_of(rows).shards
    assert len({str(split_of(rows, seed=seed).shards) for seed in range(3)}) == 3
    assert split_of(rows, shuffle=False).shards == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_columns_are_those_of_the_rows_and_what_is_measured(rows):
    split = split_of(rows)
    assert set(split.features) == {"video", "label", "take", "num_frames", "fps", "height", "width"}
    assert split.features["label"].names == ["0", "1"]
    assert split.features["video"] == datasets.Video()
    assert split.row(3) == {"video": {"bytes": None, "path": "/videos/1/3.mp4"}, "label": 1, "take": 3}


def test_names(rows):
    split = split_of(rows)
    assert split.video_name(3, "/videos/1/3.mp4") == "1/3.mp4"
    assert split.video_name(3, "run/3.mp4") == "run/3.mp4"  # of embedded files
    assert split.video_name(3, None) == "train/00000003"
    assert split_of(rows, root="").video_name(3, "/videos/1/3.mp4") == "3.mp4"


def test_the_common_folder():
    assert common_folder([with_video_column(["/a/b/c.mp4"]), with_video_column(["/a/d/e.mp4", "/a/f.mp4"])]) == "/a"
    assert common_folder([with_video_column(["/a/b/c.mp4", "/a/b/d.mp4"])]) == "/a/b"
    assert common_folder([with_video_column(["b/c.mp4", None, "/a/d.mp4"])]) == "/a"
    assert common_folder([with_video_column([None])]) == ""


def test_the_identity_changes_with_all_that_shards_depend_on(rows):
    moved = with_video_column(
        [f"/moved/{i % 2}/{i}.mp4" for i in range(10)], [str(i % 2) for i in range(10)], take=[*range(10)]
    )
    base = split_of(rows).identity
    assert base == split_of(rows).identity == split_of(moved, root="/moved").identity
    embedded = [
        datasets.Dataset.from_list(
            [{"video": {"bytes": b"0" * size, "path": "a.mp4"}}],
            features=datasets.Features({"video": datasets.Video()}),
        )
        for size in (3, 4)
    ]
    others = [
        split_of(rows.select(range(9))),
        split_of(rows.remove_columns("take")),
        split_of(
            rows.map(lambda row: {"take": 0}, remove_columns="video")
            .add_column("video", rows.cast_column("video", datasets.Video(decode=False))["video"][:])
            .cast_column("video", datasets.Video())
        ),
        split_of(rows, settings={"short_side": 64}),
        split_of(rows.rename_column("take", "source")),
        *map(split_of, embedded),
    ]
    assert len({base, *(split.identity for split in others)}) == len(others) + 1
