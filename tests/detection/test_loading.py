"""Training batches: labels and boxes belong together, batches are a function of seed and epoch, broken files go."""

import datasets
import pytest
import torch

from vididi_hf.data.augment import ClipAugmentation
from vididi_hf.detection.key_frames import load_key_frames
from vididi_hf.detection.loading import TrainingKeyFrames, collate_key_frames


def samples(rows, seed=0, **augmentation):
    return TrainingKeyFrames(rows, ClipAugmentation(36, **augmentation), seed, num_frames=4, stride=1, extra_frames=1)


def test_a_box_has_the_labels_of_who_is_in_it(ava_root):
    rows = load_key_frames("ava", root=ava_root, split="train")
    # The whole picture of 64 × 40 pixels.
    plain = {"area": (1.0, 1.0), "ratio": (1.6, 1.6), "flip_probability": 0.0}
    data = samples(rows, **plain, jitter_probability=0.0, gray_probability=0.0, blur_probability=0.0)
    assert len(data) == 5
    sample = data[0, 1]  # second 903 of the first movie: two persons
    assert sample["clip"].shape == (5, 3, 36, 36)
    torch.testing.assert_close(sample["boxes"], torch.tensor(rows[1]["boxes"]))
    assert [line.nonzero().flatten().tolist() for line in sample["labels"]] == [[11, 78], [79]]
    # The square is bright, and the other person's place is noise.
    brightness = []
    for x1, y1, x2, y2 in (sample["boxes"] * 36).round().int().tolist():
        brightness.append(float(sample["clip"][0, :, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].float().mean()))
    assert brightness[0] > 220
    assert brightness[1] < 150


def test_batches_are_a_function_of_seed_and_epoch(dataset):
    rows = load_key_frames(dataset, every=5)
    first, same, *others = [
        collate_key_frames([samples(rows, seed, area=(0.3, 1.0))[epoch, index] for index in range(6)])
        for seed, epoch in [(0, 0), (0, 0), (0, 1), (1, 0)]
    ]
    assert torch.equal(first["clips"], same["clips"])
    assert not any(torch.equal(first["clips"], batch["clips"]) for batch in others)
    assert first["clips"].shape == (6, 5, 3, 36, 36)
    assert len(first["boxes"]) == 6
    assert first["labels"].shape == (sum(map(len, first["boxes"])), 3)


def test_a_broken_video_is_replaced_with_the_labels_of_the_other(dataset, broken_videos):
    rows = load_key_frames(dataset, every=10).cast_column("video", datasets.Video(decode=False))
    table = rows.to_list()
    table[4]["video"] = {"path": str(broken_videos["empty"]), "bytes": None}
    broken = datasets.Dataset.from_list(table, features=rows.features).cast_column("video", datasets.Video())
    still = {"area": (1.0, 1.0), "flip_probability": 0.0, "jitter_probability": 0.0}
    data = samples(broken, **still, gray_probability=0.0, blur_probability=0.0)
    batch = collate_key_frames([data[0, index] for index in range(9)])
    assert list(batch["broken"]) == [str(broken_videos["empty"])]
    counts = batch["labels"].sum(0).tolist()
    assert sum(counts) == 9
    assert counts != [3, 3, 3] or torch.unique(batch["clips"], dim=0).shape[0] == 8
    with pytest.raises(ValueError, match="no key frame has a box"):
        samples(broken.map(lambda _: {"boxes": []}))
