"""The loader: a pure function of (seed, epoch, step, rank), in which broken videos are replaced and named."""

import random
from dataclasses import replace
from pathlib import Path

import av
import datasets
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torchcodec.decoders import VideoDecoder

from vididi_hf.data.augment import ClipAugmentation
from vididi_hf.data.folders import read_video_list, with_video_column
from vididi_hf.data.loading import ClipLoader, TrainingClips
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.pretraining.loop import pretrain
from vididi_hf.pretraining.recipe import PretrainingRecipe


@pytest.fixture(scope="module")
def rows(motion_root):
    return read_video_list(motion_root / "clips.csv")


def clips_of(rows, seed=0, augmentation=None, num_frames=4, frame_stride=2, extra_frames=2, **options):
    augmentation = augmentation or ClipAugmentation(image_size=16)
    return TrainingClips(
        rows,
        num_frames=num_frames,
        frame_stride=frame_stride,
        extra_frames=extra_frames,
        augmentation=augmentation,
        seed=seed,
        **options,
    )


def load(rows, epoch=0, first_step=0, batch_size=5, num_workers=0, seed=0):
    return list(ClipLoader(clips_of(rows, seed), batch_size, num_workers=num_workers).epoch(epoch, first_step))


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a["clips"], b["clips"]) and torch.equal(a["indices"], b["indices"]) and a["broken"] == b["broken"]
        for a, b in zip(first, second)
    )


# What a sample is


def test_a_sample_is_two_adjacent_strided_clips_of_its_video(rows, motion_root, no_augmentation):
    clips = clips_of(rows, augmentation=replace(no_augmentation, image_size=64))
    starts = set()
    for epoch in range(6):
        sample = clips[epoch, 3]
        assert sample["index"] == 3
        assert sample["broken"] == {}
        assert sample["clips"].shape == (2, 6, 3, 64, 64)
        assert sample["clips"].dtype == torch.uint8
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


@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_a_tiny_video_is_played_in_a_loop(tmp_path, write_video, num_frames, no_augmentation):
    path = write_video(tmp_path / "tiny.mp4", num_frames)
    sample = clips_of(with_video_column([str(path)]), augmentation=replace(no_augmentation, image_size=64))[0, 0]
    assert sample["broken"] == {}
    assert sample["clips"].shape == (2, 6, 3, 64, 64)
    clip = sample["clips"][0]
    assert torch.equal(clip[num_frames:], clip[:-num_frames])
    assert len(clip.unique(dim=0)) == num_frames


def test_encoded_bytes_serve_as_well_as_paths(rows):
    paths = rows.cast_column("video", datasets.Video(decode=False))["video"]
    encoded = datasets.Dataset.from_dict(
        {"video": [{"path": None, "bytes": open(row["path"], "rb").read()} for row in list(paths)[:3]]},  # noqa: SIM115
        features=datasets.Features({"video": datasets.Video()}),
    )
    for index in range(3):
        assert torch.equal(clips_of(encoded)[0, index]["clips"], clips_of(rows)[0, index]["clips"])


# Reproducibility


def test_batches_do_not_depend_on_the_number_of_workers(rows):
    here = [load(rows, epoch) for epoch in (0, 1)]
    for num_workers in (1, 2):
        loader = ClipLoader(clips_of(rows), 5, num_workers=num_workers)
        for epoch in (0, 1):  # the same workers in both
            assert same(list(loader.epoch(epoch)), here[epoch])


def test_starting_later_continues_the_same_epoch(rows):
    whole = load(rows)
    assert len(whole) == 4
    for first_step in (0, 1, 3, 4):
        assert same(load(rows, first_step=first_step), whole[first_step:])
    loader = ClipLoader(clips_of(rows), 5)
    assert same(list(loader.epoch(0, 2)), whole[2:])
    assert same(list(loader.epoch(1)), load(rows, epoch=1))  # the next epoch is whole again


def test_an_epoch_that_was_left_early_does_not_touch_the_next(rows):
    loader = ClipLoader(clips_of(rows), 5, num_workers=1)
    next(loader.epoch(0))
    assert same(list(loader.epoch(1)), load(rows, epoch=1))


def test_epochs_and_seeds_differ_in_order_and_in_clips(rows):
    orders = {
        (seed, epoch): torch.cat([batch["indices"] for batch in load(rows, epoch, seed=seed)]).tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({tuple(order) for order in orders.values()}) == 4
    samples = [clips_of(rows, seed)[epoch, 7]["clips"] for seed in (0, 1) for epoch in (0, 1)]
    assert not any(torch.equal(samples[i], samples[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_no_global_generator_is_touched(rows, num_workers):
    torch_before, numpy_before, python_before = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
    numpy_before = numpy_before.copy()
    load(rows, num_workers=num_workers)
    assert torch.equal(torch_before, torch.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()  # noqa: NPY002
    assert python_before == random.getstate()


def test_a_batch(rows):
    loader = ClipLoader(clips_of(rows, num_clips=3), 4)
    assert loader.steps_per_epoch == 4
    batch = next(loader.epoch(0))
    assert set(batch) == {"clips", "indices", "rows", "sources", "broken"}
    assert batch["sources"] == [clips_of(rows).rows[row]["video"]["path"] for row in batch["rows"].tolist()]
    assert len(set(batch["sources"])) == 4
    assert batch["clips"].shape == (4, 3, 6, 3, 16, 16)
    assert batch["clips"].dtype == torch.uint8
    assert batch["indices"].shape == (4,)
    assert batch["indices"].dtype == torch.int64
    for position, index in enumerate(batch["indices"].tolist()):
        assert torch.equal(batch["clips"][position], clips_of(rows, num_clips=3)[0, index]["clips"])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_channels_stay_last_in_memory(rows, num_workers):
    for batch in load(rows, num_workers=num_workers):
        assert batch["clips"].movedim(-3, -1).is_contiguous()


def test_too_few_videos_for_a_batch_are_refused(rows):
    with pytest.raises(ValueError, match=r"16 videos, fewer than one global batch: batch_size 9 × 2 processes; lower"):
        ClipLoader(clips_of(rows), 9, world_size=2)


# Broken videos


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


def test_substitutes_vary_between_epochs(motion_root, broken_videos, no_augmentation):
    good = sorted(str(path) for path in (motion_root / "train").rglob("*.mp4"))
    clips = clips_of(
        with_video_column([str(broken_videos["empty"]), *good]), augmentation=replace(no_augmentation, image_size=64)
    )
    first_frames = {tuple(clips[epoch, 0]["clips"][0, 0].flatten().tolist()) for epoch in range(8)}
    assert len(first_frames) > 3


def test_one_good_video_among_many_broken_ones_is_found(motion_root, broken_videos):
    good = str(motion_root / "train" / "pulse" / "000005.mp4")
    clips = clips_of(with_video_column([*[str(broken_videos["empty"])] * 19, good]))
    assert all(clips[0, index]["clips"].shape == (2, 6, 3, 16, 16) for index in range(20))


def test_a_row_without_video_is_replaced_and_named(motion_root):
    rows = with_video_column([None, str(motion_root / "train" / "pulse" / "000005.mp4")])
    sample = clips_of(rows)[0, 0]
    assert sample["broken"] == {"<row 0>": "the row holds no video"}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_data_set_of_broken_videos_stops_and_says_so(broken_videos, num_workers):
    rows = with_video_column([str(path) for path in broken_videos.values()])
    with pytest.raises(ValueError, match=r"5 videos in a row cannot be decoded, among them .*\.mp4: "):
        load(rows, batch_size=2, num_workers=num_workers)


def test_the_search_for_a_substitute_ends(tmp_path):
    """In a large data set, so many broken videos in a row mean that the data set is at fault."""
    rows = with_video_column([str(tmp_path / f"{index}.mp4") for index in range(200)])
    with pytest.raises(ValueError, match="21 videos in a row cannot be decoded"):
        clips_of(rows)[0, 0]


def test_data_sets_without_videos_are_refused(rows):
    with pytest.raises(ValueError, match=r"no column 'video', only \['label', 'background'\]"):
        clips_of(rows.remove_columns("video"))
    with pytest.raises(ValueError, match="holds no videos"):
        clips_of(rows.select([]))


def write_unusual(folder):
    """Good videos of every uncommon kind: codecs, depths and sizes, times, and a single frame."""
    kinds = {
        "ten-bit": ("libx264", "yuv420p10le", (48, 64), 30),
        "gray": ("ffv1", "gray", (48, 64), 30),
        "odd": ("libx264", "yuv444p", (47, 63), 30),
        "one-frame": ("libx264", "yuv420p", (48, 64), 1),
        "variable": ("libx264", "yuv420p", (48, 64), 30),
    }
    paths = []
    for kind, (codec, pixel_format, (height, width), length) in kinds.items():
        paths.append(folder / f"{kind}.mkv")
        with av.open(str(paths[-1]), "w") as container:
            stream = container.add_stream(codec, rate=10)
            stream.height, stream.width, stream.pix_fmt = height, width, pixel_format
            for index in range(length):
                picture = np.full((height, width, 3), 20 + 5 * index, dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = index + (index**2 if kind == "variable" else 0)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return paths


def test_unusual_videos_are_good_ones(tmp_path):
    paths = write_unusual(tmp_path)
    clips = clips_of(with_video_column([str(path) for path in paths]), num_clips=3, extra_frames=1)
    for index, path in enumerate(paths):
        sample = clips[0, index]
        assert sample["broken"] == {}, path.name
        assert sample["clips"].shape == (3, 5, 3, 16, 16)


def test_a_folder_with_hostile_files_trains_to_the_end(tmp_path, write_video, broken_videos, monkeypatch, capsys):
    """Five files of a hundred are bad; one more is short, and one promises more frames than it has."""
    folder = tmp_path / "videos"
    for index in range(91):
        write_video(folder / f"good-{index:02}.mp4", 6, seed=index)
    bad = {kind: path for kind, path in broken_videos.items() if path.exists()}
    for kind, path in bad.items():
        (folder / f"bad-{kind}.mp4").write_bytes(path.read_bytes())
    (folder / "bad-cut.mp4").write_bytes(write_video(tmp_path / "whole.mp4", 6).read_bytes()[:200])
    write_video(folder / "good-one-frame.mp4", 1)
    with av.open(str(folder / "good-index-lies.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "1"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(30):
            picture = np.random.default_rng(0).integers(256, size=(48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    lying = (folder / "good-index-lies.mp4").read_bytes()
    (folder / "good-index-lies.mp4").write_bytes(lying[: len(lying) * 6 // 10])

    seen, epoch_of = [], ClipLoader.epoch

    def recorded(self, *args):
        for batch in epoch_of(self, *args):
            seen.extend(zip(batch["indices"].tolist(), batch["rows"].tolist()))
            yield batch

    monkeypatch.setattr(ClipLoader, "epoch", recorded)
    recipe = PretrainingRecipe(
        dataset=str(folder),
        output_dir=str(tmp_path / "run"),
        order_schedule="first-order",
        hidden_sizes=[4, 4, 8, 8],
        depths=[1, 1, 1, 1],
        projector_sizes=[8, 8],
        num_frames=2,
        frame_stride=1,
        image_size=32,
        epochs=1,
        batch_size=14,
        num_workers=0,
        optimizer="sgd",
        learning_rate=0.01,
        progress=False,
    )
    pretrain(recipe)
    AcceleratorState._reset_state(reset_partial_state=True)  # or other tests would inherit it
    rows = load_video_dataset(folder).cast_column("video", datasets.Video(decode=False))
    names = [Path(video["path"]).name for video in rows["video"]]
    shown = [names[row] for asked, row in seen if asked == row]
    assert sorted(asked for asked, _ in seen) == list(range(98))  # 7 batches of 14: each once
    assert sorted(shown) == sorted(name for name in names if name.startswith("good"))
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("videos that could not be decoded, replaced by others: 5")
    named = {Path(line.strip().split(": ")[0]).name for line in lines[start + 1 : start + 6]}
    assert named == {name for name in names if name.startswith("bad")}
