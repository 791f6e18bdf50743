"""`motion-noise`: a frame is a set of fair, independent coins, and two parts of it move oppositely."""

from itertools import pairwise

import pytest
import torch

from vididi_hf.data.noise import CELL, CELLS, MOTIONS, describe_noise, render_noise
from vididi_hf.data.registry import load_video_dataset


def cells(index: int) -> torch.Tensor:
    """The coins of a video: (frames, CELLS, CELLS) of -1 and 1."""
    frames = render_noise("train", index)
    assert frames.shape == (24, 3, CELL * CELLS, CELL * CELLS)
    coins = frames[:, 0, ::CELL, ::CELL]
    assert torch.equal(coins.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2), frames[:, 1])
    assert set(coins.unique().tolist()) == {32, 224}
    return coins.float().sub(128).sign()


def test_single_frames_of_all_motions_are_independent_fair_coins() -> None:
    by_label = {name: [] for name in MOTIONS}
    for index in range(120):
        by_label[str(describe_noise("train", index)["label"])].append(cells(index)[index % 24])
    for frames in map(torch.stack, by_label.values()):
        # Of n coins, the mean of a product has a standard deviation of 1 / √n.
        bound = 4 / frames.numel() ** 0.5
        assert frames.mean().abs() < bound
        for shift in ((0, 1), (1, 0), (1, 1), (0, 2), (3, 0)):
            assert (frames * frames.roll(shift, (1, 2))).mean().abs() < bound


@pytest.mark.parametrize("index", range(len(MOTIONS)))
def test_two_parts_of_successive_frames_move_by_opposite_shifts(index: int) -> None:
    video = cells(index)
    peaks = []
    for before, after in pairwise(video):
        spectrum = torch.fft.fft2(after) * torch.fft.fft2(before).conj()
        correlation = torch.fft.ifft2(spectrum).real / CELLS**2
        best = correlation.flatten().topk(2).indices.tolist()
        peaks.append([tuple((at + CELLS // 2) % CELLS - CELLS // 2 for at in divmod(place, CELLS)) for place in best])
    opposite = [first == tuple(-part for part in second) or (0, 0) in (first, second) for first, second in peaks]
    assert sum(opposite) >= 0.8 * len(peaks)  # a large shift leaves little of the disks in common
    assert any(first != (0, 0) for first, _ in peaks)


def test_it_is_a_data_set_of_its_own(tmp_path) -> None:
    rows = load_video_dataset("motion-noise", root=tmp_path, split="train", num_train=8, num_test=8)
    assert rows.features["label"].names == sorted(MOTIONS)
    assert len(rows) == 8
