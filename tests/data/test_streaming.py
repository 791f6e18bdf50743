"""Streams: every video once an epoch over all ranks and workers, the same batches again, few bytes."""

from collections import Counter

import datasets
import pytest
import torch

from vididi_hf.data import streaming
from vididi_hf.data.augment import ClipAugmentation
from vididi_hf.data.loading import ClipMaker, TrainingClips
from vididi_hf.data.preparation.prepare import PreparationOptions, prepare_dataset
from vididi_hf.data.preparation.shards import shard_path, write_shard
from vididi_hf.data.streaming import (
    ParquetVideos,
    StreamedBatch,
    StreamedBatches,
    StreamedClips,
    StreamingClipLoader,
    find_shards,
)

CLIPS = {"num_clips": 2, "num_frames": 4, "frame_stride": 2, "extra_frames": 1}
FEATURES = datasets.Features({"video": datasets.Video()})


def make_clips(seed=0):
    return ClipMaker(**CLIPS, augmentation=ClipAugmentation(image_size=16), seed=seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, motion_root):
    """The 16 training videos of a `motion` set in shards of 6, 6 and 4, in row groups of at most 4."""
    folder = tmp_path_factory.mktemp("shards")
    options = {"videos_per_shard": 6, "videos_per_group": 4, "num_workers": 0, "progress": False}
    prepare_dataset(PreparationOptions(dataset=str(motion_root / "clips.csv"), output_dir=str(folder), **options))
    return folder


@pytest.fixture(scope="module")
def videos(folder):
    return ParquetVideos(find_shards(str(folder)))


class CountedVideos(ParquetVideos):
    """Notes which row groups are fetched. Made-up shards: group sizes as given, a video is its number."""

    def __init__(self, sizes):
        self.group_sizes = torch.tensor(sizes)
        self.group_starts = self.group_sizes.cumsum(0) - self.group_sizes
        self.fetched = []

    def read_group(self, group):
        self.fetched.append(group)
        start = int(self.group_starts[group])
        return [{"bytes": b"", "path": str(start + row)} for row in range(int(self.group_sizes[group]))]


UNEVEN = [5, 1, 7, 0, 4, 4, 9, 3, 2, 8, 6, 4]  # 53 videos


def load(videos, epoch=0, first_step=0, batch_size=5, num_workers=0, seed=0, **options):
    loader = StreamingClipLoader(videos, make_clips(seed), batch_size, num_workers=num_workers, **options)
    return list(loader.epoch(epoch, first_step))


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a["clips"], b["clips"])
        and torch.equal(a["indices"], b["indices"])
        and torch.equal(a["rows"], b["rows"])
        and a["broken"] == b["broken"]
        for a, b in zip(first, second)
    )


def asked(videos, epoch=0, first_step=0, batch_size=4, **options):
    batches = StreamedBatches(videos, batch_size, **options)
    batches.set_epoch(epoch, first_step)
    return list(batches)


# The order


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 7])
@pytest.mark.parametrize("shuffle_window", [1, 8, 1000])
def test_every_video_comes_once_an_epoch_over_all_ranks(world_size, batch_size, shuffle_window):
    videos = CountedVideos(UNEVEN)
    for epoch in (0, 1):
        options = {"world_size": world_size, "shuffle_window": shuffle_window}
        ranks = [asked(videos, epoch, batch_size=batch_size, rank=rank, **options) for rank in range(world_size)]
        steps = -(-53 // (batch_size * world_size))
        assert [len(rank) for rank in ranks] == [steps] * world_size
        assert all(len(batch.asked) == batch_size for rank in ranks for batch in rank)
        counts = Counter(row for rank in ranks for batch in rank for row in batch.asked)
        assert set(counts) == set(range(53))
        # Only what fills up the last global batch comes a second time.
        assert sum(counts.values()) - 53 == steps * batch_size * world_size - 53 < batch_size * world_size
        assert max(counts.values()) <= 2


def test_every_video_comes_with_its_own_bytes():
    for batch in asked(CountedVideos(UNEVEN)):
        assert set(batch.asked) <= set(batch.videos)
        assert all(video["path"] == str(row) for row, video in batch.videos.items())


def test_orders_depend_on_seed_epoch_and_rank_alone():
    videos = CountedVideos(UNEVEN)

    def order(epoch, **options):
        return tuple(row for batch in asked(videos, epoch, **options) for row in batch.asked)

    assert order(3, seed=1) == order(3, seed=1)
    assert order(3, seed=1, num_threads=1) == order(3, seed=1, num_threads=7)
    different = {order(epoch, seed=seed) for epoch in (0, 1) for seed in (0, 1)}
    assert len(different | {tuple(range(53))}) == 5


def test_the_window_says_how_far_rows_move():
    """Against the definition: i comes before j at once if it lies a window or more before it in the shards' order."""
    videos = CountedVideos([4] * 100)

    def places(shuffle_window):
        batches = StreamedBatches(videos, 4, shuffle_window=shuffle_window)
        order = batches.order(0)
        groups = torch.randperm(100, generator=streaming.seeded_generator("stream-groups", 0, 0))
        unshuffled = (groups[:, None] * 4 + torch.arange(4)).flatten()
        return torch.argsort(order)[unshuffled]  # where each row of the shards' order went

    assert torch.equal(places(1), torch.arange(400))
    moved = places(40)
    for distance in (40, 41, 100):
        assert (moved[distance:] > moved[:-distance]).all()
    assert (moved[1:] < moved[:-1]).float().mean() > 0.3
    assert (moved - torch.arange(400)).abs().max() <= 40
    # With a window as long as the data set, its first row can come almost anywhere.
    assert (places(400) - torch.arange(400)).abs().max() > 150


def test_neighbors_in_a_shard_are_torn_apart():
    videos = CountedVideos([16] * 40)
    batches = asked(videos, batch_size=16, shuffle_window=256)
    in_one_group = [Counter(row // 16 for row in batch.asked).most_common(1)[0][1] for batch in batches]
    assert max(in_one_group) <= 8
    assert sum(in_one_group) / len(in_one_group) < 5


def test_too_few_videos_and_impossible_windows_are_refused(videos):
    with pytest.raises(ValueError, match=r"16 videos, fewer than one global batch: batch_size 9 × 2 processes; lower"):
        StreamingClipLoader(videos, make_clips(), 9, world_size=2)
    with pytest.raises(ValueError, match="shuffle_window must be at least 1, got 0"):
        StreamingClipLoader(videos, make_clips(), 2, shuffle_window=0)


# What is fetched


def test_each_row_group_is_fetched_once_and_ranks_share_only_those_that_they_meet_in():
    videos = CountedVideos([4] * 60)
    asked(videos, shuffle_window=30)
    assert Counter(videos.fetched) == Counter(range(60))
    shared = CountedVideos([4] * 60)
    for rank in range(3):
        asked(shared, rank=rank, world_size=3, shuffle_window=30)
    assert set(shared.fetched) == set(range(60))
    assert len(shared.fetched) <= 60 + 2


def test_nothing_that_is_over_is_fetched_after_a_resume():
    videos = CountedVideos([4] * 60)
    asked(videos, first_step=50, shuffle_window=16)  # 40 of 240 videos remain
    assert len(videos.fetched) <= 10 + (16 + 21) / 4 + 1
    assert len(set(videos.fetched)) == len(videos.fetched)


def test_little_more_than_the_window_is_fetched_ahead():
    videos = CountedVideos([4] * 500)
    batches = StreamedBatches(videos, 4, shuffle_window=40)
    iterator = iter(batches)
    for step in range(1, 200):
        next(iterator)
        used = 4 * step
        assert 4 * len(videos.fetched) <= used + 40 + 21 + 3 * 4 + 8
    iterator.close()


def test_an_error_of_the_storage_is_raised():
    class Failing(CountedVideos):
        def read_group(self, group):
            raise OSError("the network is gone")

    with pytest.raises(OSError, match="the network is gone"):
        asked(Failing(UNEVEN))


# Batches


def test_a_sample_is_that_of_the_loader_that_has_the_whole_data_set(folder, videos, tmp_path):
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path))
    whole = TrainingClips(rows, **CLIPS, augmentation=ClipAugmentation(image_size=16), seed=0)
    for batch in load(videos, epoch=2):
        assert torch.equal(batch["indices"], batch["rows"])
        for clips, index in zip(batch["clips"], batch["indices"].tolist()):
            assert torch.equal(clips, whole[2, index]["clips"])


def test_workers_change_nothing(videos):
    here = [load(videos, epoch) for epoch in (0, 1)]
    assert len(here[0]) == 4
    assert here[0][0]["clips"].shape == (5, 2, 5, 3, 16, 16)
    for num_workers in (1, 2):
        loader = StreamingClipLoader(videos, make_clips(), 5, num_workers=num_workers)
        assert loader.steps_per_epoch == 4
        for epoch in (0, 1):  # the same workers in both
            assert same(list(loader.epoch(epoch)), here[epoch])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_starting_later_continues_the_same_epoch_bit_by_bit(videos, num_workers):
    options = {"rank": 1, "world_size": 2, "batch_size": 2, "shuffle_window": 6}
    whole = load(videos, **options)
    assert len(whole) == 4
    loader = StreamingClipLoader(
        videos, make_clips(), 2, num_workers=num_workers, rank=1, world_size=2, shuffle_window=6
    )
    for first_step in (3, 1, 4):
        assert same(list(loader.epoch(0, first_step)), whole[first_step:])
    assert same(list(loader.epoch(0)), whole)


def test_an_epoch_that_was_left_early_does_not_touch_the_next(videos):
    loader = StreamingClipLoader(videos, make_clips(), 5, num_workers=1)
    next(loader.epoch(0))
    assert same(list(loader.epoch(1)), load(videos, epoch=1))


def test_seeds_and_epochs_differ_in_their_clips(videos):
    batches = [load(videos, epoch, seed=seed)[0]["clips"] for seed in (0, 1) for epoch in (0, 1)]
    assert not any(torch.equal(batches[i], batches[j]) for i in range(4) for j in range(i))


# Broken videos


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, motion_root, broken_videos):
    """Shards of 12 good videos and of one broken one of each kind (which a shard of another origin may hold)."""
    folder = tmp_path_factory.mktemp("damaged")
    good = sorted((motion_root / "train").rglob("*.mp4"))[:12]
    bad = [broken_videos[kind] for kind in ("empty", "text", "truncated")]
    rows = [{"video": {"bytes": path.read_bytes(), "path": path.name}} for path in [*good, *bad]]
    for index in (0, 1):
        path = shard_path(folder, "train", index, 2)
        write_shard(path, FEATURES.arrow_schema, rows[index::2], {}, videos_per_group=3)
    return ParquetVideos(find_shards(str(folder)))


def test_broken_videos_are_replaced_and_named_and_all_good_ones_are_seen(damaged):
    batches = load(damaged, batch_size=4)
    assert same(batches, load(damaged, batch_size=4, num_workers=2))
    named = {name: reason for batch in batches for name, reason in batch["broken"].items()}
    assert set(named) == {"empty.mp4", "text.mp4", "truncated.mp4"}
    assert named["empty.mp4"] == "it is empty"
    assert {index for batch in batches for index in batch["indices"].tolist()} == set(range(15))
    replaced = {i for b in batches for i, row in zip(b["indices"].tolist(), b["rows"].tolist()) if i != row}
    assert len(replaced) == 3
    assert all(batch["clips"].shape == (4, 2, 5, 3, 16, 16) for batch in batches)


def test_a_batch_of_one_broken_video_is_replaced_too(damaged):
    batches = load(damaged, batch_size=1)
    assert len(batches) == 15
    assert sum(len(batch["broken"]) > 0 for batch in batches) == 3


def test_a_row_without_video_is_replaced_and_named(videos):
    good = videos.read_group(0)[0]
    sample = StreamedClips(make_clips())[StreamedBatch(epoch=0, asked=[7], videos={7: None, 3: good})][0]
    assert sample["broken"] == {"<row 7>": "the row holds no video"}
    assert (sample["index"], sample["row"]) == (7, 3)
    assert torch.equal(sample["clips"], make_clips()(good, (0, 7)))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_shards_of_broken_videos_stop_and_say_so(tmp_path, num_workers):
    rows = [{"video": {"bytes": b"no video", "path": f"{row}.mp4"}} for row in range(30)]
    write_shard(shard_path(tmp_path, "train", 0, 1), FEATURES.arrow_schema, rows, {}, videos_per_group=4)
    with pytest.raises(ValueError, match=r"21 videos in a row cannot be decoded, among them .*\.mp4: it is no video"):
        load(ParquetVideos(find_shards(str(tmp_path))), batch_size=2, num_workers=num_workers)
