"""The loaders: pure functions of (seed, epoch, step, rank), in which broken videos are replaced and named."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from torchcodec.decoders import VideoDecoder

from tests.videos import encode
from vididi_hf.data.augment import ClipAugmentation
from vididi_hf.data.decoding import BrokenVideoError
from vididi_hf.data.folders import with_video_column
from vididi_hf.data.loading import SUBSTITUTES, ClipLoader, EpochBatches, TrainingClips, make_or_replace
from vididi_hf.data.readers.csv_list import read_video_list


@pytest.fixture(scope="module")
def rows(motion_root):
    return read_video_list(motion_root / "clips.csv")


def clips_of(rows, seed=0, augmentation=None, extra_frames=2, **options):
    options = {"num_frames": 4, "frame_stride": 2, "extra_frames": extra_frames, "seed": seed, **options}
    return TrainingClips(rows, augmentation=augmentation or ClipAugmentation(image_size=16), **options)


def load(rows, epoch=0, first_step=0, batch_size=5, num_workers=0, seed=0):
    return list(ClipLoader(clips_of(rows, seed), batch_size, num_workers=num_workers).epoch(epoch, first_step))


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a["clips"], b["clips"]) and torch.equal(a["indices"], b["indices"]) and a["broken"] == b["broken"]
        for a, b in zip(first, second)
    )


def test_a_sample_is_two_adjacent_strided_clips_of_its_video(rows, motion_root, no_augmentation):
    clips = clips_of(rows, augmentation=replace(no_augmentation, image_size=64))
    starts = set()
    for epoch in range(6):
        sample = clips[epoch, 3]
        assert sample["index"] == 3
        assert sample["broken"] == {}
        assert (sample["clips"].shape, sample["clips"].dtype) == ((2, 6, 3, 64, 64), torch.uint8)
        video = VideoDecoder(str(motion_root / "train" / "bob" / "000003.mp4")).get_frames_in_range(0, 24).data
        start = next(i for i in range(24) if torch.equal(video[i], sample["clips"][0, 0]))
        # 4 frames a clip 2 apart and 2 further frames: the second clip begins 8 frames after the first.
        assert torch.equal(sample["clips"][0], video[start : start + 12 : 2])
        assert torch.equal(sample["clips"][1], video[start + 8 : start + 20 : 2])
        starts.add(start)
    assert starts <= set(range(24 - 19 + 1))
    assert len(starts) > 1


def test_the_clips_of_a_video_are_augmented_independently_and_each_consistently(tmp_path, write_video):
    noise = torch.randint(256, (1, 3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_video(tmp_path / "static.mp4", noise.expand(24, -1, -1, -1).contiguous())
    first, second = clips_of(with_video_column([str(tmp_path / "static.mp4")]))[0, 0]["clips"].float()
    assert (first - second).abs().mean() > 5
    # Compression makes frames of a static video differ, by much less than another crop or color would.
    assert first.diff(dim=0).abs().mean() < 3
    assert second.diff(dim=0).abs().mean() < 3


def test_batches_do_not_depend_on_the_number_of_workers_nor_on_an_epoch_that_was_left_early(rows):
    here = [load(rows, epoch) for epoch in (0, 1)]
    for num_workers in (1, 2):
        loader = ClipLoader(clips_of(rows), 5, num_workers=num_workers)
        for epoch in (0, 1):  # the same workers in both
            assert same(list(loader.epoch(epoch)), here[epoch])
        next(loader.epoch(0))
        assert same(list(loader.epoch(1)), here[1])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_no_global_generator_is_touched(rows, num_workers):
    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002

    before = states()
    load(rows, num_workers=num_workers)
    assert states() == before


def test_starting_later_continues_the_same_epoch(rows):
    whole = load(rows)
    assert len(whole) == 4
    for first_step in (0, 1, 3, 4):
        assert same(load(rows, first_step=first_step), whole[first_step:])
    loader = ClipLoader(clips_of(rows), 5)
    assert same(list(loader.epoch(0, 2)), whole[2:])
    assert same(list(loader.epoch(1)), load(rows, epoch=1))  # the next epoch is whole again


def test_epochs_and_seeds_differ_in_order_and_in_clips(rows):
    keys = [(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    orders = [torch.cat([batch["indices"] for batch in load(rows, epoch, seed=seed)]) for seed, epoch in keys]
    assert len({tuple(order.tolist()) for order in orders}) == 4
    samples = [clips_of(rows, seed)[epoch, 7]["clips"] for seed, epoch in keys]
    assert not any(torch.equal(samples[i], samples[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_batch(rows, num_workers):
    clips = clips_of(rows, num_clips=3)
    loader = ClipLoader(clips, 4, num_workers=num_workers)
    assert loader.steps_per_epoch == 4
    batch = next(loader.epoch(0))
    assert set(batch) == {"clips", "indices", "rows", "sources", "broken"}
    assert batch["sources"] == [clips.rows[row]["video"]["path"] for row in batch["rows"].tolist()]
    assert len(set(batch["sources"])) == 4
    assert (batch["clips"].shape, batch["clips"].dtype) == ((4, 3, 6, 3, 16, 16), torch.uint8)
    assert batch["clips"].movedim(-3, -1).is_contiguous()
    assert batch["indices"].dtype == torch.int64
    for position, index in enumerate(batch["indices"].tolist()):
        assert torch.equal(batch["clips"][position], clips[0, index]["clips"])
    # Encoded bytes give the same clips as paths.
    encoded = [{"path": None, "bytes": Path(video["path"]).read_bytes()} for video in clips.rows["video"]]
    encoded = datasets.Dataset.from_dict({"video": encoded}, features=datasets.Features({"video": datasets.Video()}))
    assert torch.equal(clips_of(encoded, num_clips=3)[0, 2]["clips"], clips[0, 2]["clips"])


def test_broken_videos_are_replaced_and_named_and_all_good_ones_are_seen(motion_root, broken_videos):
    good = sorted(str(path) for path in (motion_root / "train").rglob("*.mp4"))[:6]
    bad = [str(path) for path in broken_videos.values()]
    rows = with_video_column([*good, *bad])
    epochs = load(rows, batch_size=4), load(rows, batch_size=4, num_workers=2)
    assert same(*epochs)
    named = {name: reason for batch in epochs[0] for name, reason in batch["broken"].items()}
    assert set(named) == set(bad)
    assert named[str(broken_videos["empty"])] == "it is empty"
    assert named[str(broken_videos["missing"])] == "there is no such file"
    assert named[str(broken_videos["audio-only"])] == "it has no video stream"
    assert all(named.values())
    assert {index for batch in epochs[0] for index in batch["indices"].tolist()} == set(range(11))
    assert all(batch["clips"].shape == (4, 2, 6, 3, 16, 16) for batch in epochs[0])
    # A substitute changes the clips of the videos around it in no way.
    alone = clips_of(with_video_column(good))
    for batch in epochs[0]:
        for clip, index, row in zip(batch["clips"], batch["indices"].tolist(), batch["rows"].tolist()):
            assert row == index if index < len(good) else row < len(good)  # whose labels the clip has
            if index < len(good):
                assert torch.equal(clip, alone[0, index]["clips"])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_data_set_of_broken_videos_stops_and_says_so(broken_videos, num_workers, tmp_path):
    rows = with_video_column([str(path) for path in broken_videos.values()])
    with pytest.raises(ValueError, match=r"^5 videos in a row cannot be decoded, among them .*\.mp4: "):
        load(rows, batch_size=2, num_workers=num_workers)


def write_unusual(folder):
    """Good videos of every uncommon kind: codecs, depths and sizes, times, very few frames, and fewer than promised."""
    kinds = {"ten-bit": ("libx264", "yuv420p10le"), "gray": ("ffv1", "gray"), "odd": ("libx264", "yuv444p")}
    kinds |= dict.fromkeys(("variable", "tiny-1", "tiny-2", "tiny-3", "cut"), ("libx264", "yuv420p"))
    for kind, form in kinds.items():
        path = folder / f"{kind}.{'mp4' if kind == 'cut' else 'mkv'}"
        length = int(kind[-1]) if "tiny" in kind else 30
        size = (47, 63) if kind == "odd" else (48, 64)
        frames = torch.randint(256, (length, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        times = [index + index**2 for index in range(length)] if kind == "variable" else None
        encode(path, frames, *form, times, {"movflags": "faststart"} if kind == "cut" else {}, {"g": "1"})
        if kind == "cut":
            path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
        yield str(path)


def test_unusual_videos_are_good_ones_and_tiny_ones_repeat_frames(tmp_path, no_augmentation):
    paths = list(write_unusual(tmp_path))
    clips = clips_of(with_video_column(paths), augmentation=no_augmentation, num_clips=3)
    for index, path in enumerate(paths):
        sample = clips[0, index]
        assert sample["broken"] == {}, path
        assert sample["clips"].shape == (3, 6, 3, 48, 48)
        if "tiny" in path:
            clip, length = sample["clips"][0], int(path[-5])
            assert torch.equal(clip, clip.unique_consecutive(dim=0).repeat_interleave(6 // length, dim=0))
            assert len(clip.unique(dim=0)) == length


@pytest.mark.parametrize("shorter_side", [None, 40])
@pytest.mark.parametrize("room", [1, 10**5, 10**9])
def test_frames_kept_in_memory_are_those_of_the_files(tmp_path, shorter_side, room):
    paths = list(write_unusual(tmp_path))
    rows, how = with_video_column(paths), {"shorter_side": shorter_side, "frame_stride": 1, "frame_interval": 0.2}
    keys = [(epoch, index) for epoch in range(3) for index in range(len(paths))]
    plain, cached = clips_of(rows, **how), clips_of(rows, cache_bytes=room, **how)
    expected = [plain[key]["clips"] for key in keys]
    assert all(torch.equal(cached[key]["clips"], clips) for key, clips in zip(keys[: len(paths)], expected))
    kept = [path for index, path in enumerate(paths) if index in cached._make_clips._kept]
    assert 0 <= cached._make_clips.cache_bytes <= room
    assert bool(kept) == (room > 1)
    for path in kept:  # decoded once: the file is not opened again
        Path(path).unlink()
    assert all(torch.equal(cached[key]["clips"], clips) for key, clips in zip(keys, expected))


def test_data_sets_without_videos_and_too_few_are_refused(rows, motion_root):
    with pytest.raises(ValueError, match=r"16 videos, fewer than one global batch: batch_size 9 × 2 processes; lower"):
        ClipLoader(clips_of(rows), 9, world_size=2)
    with pytest.raises(ValueError, match=r"no column 'video', only \['label', 'background'\]"):
        clips_of(rows.remove_columns("video"))
    with pytest.raises(ValueError, match="holds no videos"):
        clips_of(rows.select([]))
    sample = clips_of(with_video_column([None, str(motion_root / "train" / "pulse" / "000005.mp4")]))[0, 0]
    assert (sample["broken"], sample["row"]) == ({"<row 0>": "the row holds no video"}, 1)


def keys(num_samples, batch_size, epoch=0, **options):
    batches = EpochBatches(num_samples, batch_size, **options)
    batches.set_epoch(epoch)
    return list(batches)


@pytest.mark.parametrize(("num_samples", "batch_size", "world_size"), [(24, 4, 2), (17, 3, 2), (10, 10, 1), (31, 2, 5)])
def test_ranks_share_the_batches_of_one_process(num_samples, batch_size, world_size):
    alone = keys(num_samples, batch_size * world_size)
    ranks = [keys(num_samples, batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [[key for part in parts for key in part] for parts in zip(*ranks)] == alone
    assert all(len(batch) == batch_size for rank in ranks for batch in rank)


@pytest.mark.parametrize(("num_samples", "batch_size"), [(24, 4), (17, 3), (10, 10), (7, 5), (1, 1)])
def test_every_video_comes_once_and_the_first_again_to_fill_the_last_batch(num_samples, batch_size):
    batches = keys(num_samples, batch_size, epoch=3)
    steps = (num_samples + batch_size - 1) // batch_size
    assert len(batches) == steps
    order = [index for batch in batches for _, index in batch]
    assert {epoch for batch in batches for epoch, _ in batch} == {3}
    assert sorted(order[:num_samples]) == list(range(num_samples))
    assert order[num_samples:] == order[: steps * batch_size - num_samples]


def test_the_place_of_a_video_is_uniform():
    places = Counter(next(i for i, key in enumerate(keys(5, 5, epoch=epoch)[0]) if key[1] == 0) for epoch in range(500))
    assert all(abs(places[place] - 100) < 45 for place in range(5))  # five standard deviations


def made(index, rows, broken, seed=0, epoch=0):
    tried = []

    def make(row):
        tried.append(row)
        if row in broken:
            raise BrokenVideoError(f"{row}.mp4", "it is empty")
        return {"row": row}

    return make_or_replace(make, index, rows, seed, epoch), tried


def test_broken_ones_are_named_and_never_tried_twice():
    sample, tried = made(3, [3, 5, 7, 9], {3, 5, 9})
    assert sample == {"row": 7, "broken": {f"{row}.mp4": "it is empty" for row in tried[:-1]}}
    assert tried[0] == 3
    assert tried[-1] == 7
    assert len(set(tried)) == len(tried)


def test_the_choice_is_a_function_of_seed_epoch_and_index_and_reaches_all_others():
    choices = [made(3, range(100), {3}, seed, epoch)[0]["row"] for seed in (0, 1) for epoch in range(10)]
    assert choices == [made(3, range(100), {3}, seed, epoch)[0]["row"] for seed in (0, 1) for epoch in range(10)]
    assert len(set(choices)) > 10
    assert {made(0, range(4), {0}, epoch=epoch)[0]["row"] for epoch in range(40)} == {1, 2, 3}


@pytest.mark.parametrize(("rows", "number"), [(5, 5), (100, SUBSTITUTES + 1)])
def test_after_so_many_broken_ones_the_data_set_is_at_fault(rows, number):
    message = rf"^{number} videos in a row cannot be decoded, among them 2\.mp4: it is empty; \d+\.mp4: it is empty; "
    with pytest.raises(ValueError, match=message):
        made(2, range(rows), set(range(rows)))


def test_data_sets_are_mixed_by_their_weights():
    batches = EpochBatches(12, 3, seed=1, sizes=[8, 4], weights=[1, 3])

    def epoch(number, first_step=0):
        batches.set_epoch(number, first_step)
        return [index for batch in batches for _, index in batch]

    drawn = [epoch(number) for number in range(8)]
    assert all(sum(index >= 8 for index in rows) == 9 for rows in drawn)  # three quarters of 12
    counts = torch.tensor(drawn).flatten().bincount()
    assert counts.tolist() == [3] * 8 + [18] * 4  # 8 · 3 draws of 8 rows, 8 · 9 draws of 4 rows
    assert epoch(2, first_step=2) == drawn[2][6:]  # a resumed epoch
    none = EpochBatches(12, 3, sizes=[8, 4], weights=[0, 1])
    keys = [key for batch in none for key in batch]
    assert {index for _, index in keys} == {8, 9, 10, 11}
    assert len(set(keys)) == 12  # a video that comes again has other clips
