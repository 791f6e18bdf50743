"""Occlusion against its formula written out, and against videos in which it is known where there is anything to see."""

import doctest
import itertools
import math

import numpy as np
import pytest
import torch

from vididi_hf import ViDiDiConfig, ViDiDiModel
from vididi_hf.visualization import occlusion_saliency, saliency, share_on_motion


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 8, 8, 16), depths=(1, 1, 1, 1), image_size=32))


def moving_patch(frames=8, size=48):
    """A textured square of 10 pixels that moves from left to right over a uniform background, and where it is."""
    generator = torch.Generator().manual_seed(0)
    texture = torch.randn(3, 10, 10, generator=generator) * 2
    video, where = torch.full((frames, 3, size, size), 0.3), torch.zeros(frames, size, size, dtype=torch.bool)
    for frame in range(frames):
        left = 2 + frame * (size - 14) // (frames - 1)
        video[frame, :, 19:29, left : left + 10] = texture
        where[frame, 19:29, left : left + 10] = True
    return video, where


class TestOcclusion:
    @pytest.mark.parametrize("order", [0, 1])
    def test_formula(self, model, order):
        """Every step of the definition, pixel by pixel, in other words than the code's."""
        torch.manual_seed(1)
        video, grid = torch.randn(4 + order, 3, 32, 36), (2, 2, 3)
        sizes = (4 + order, 32, 36)

        def window(axis, place, pixel):
            step = sizes[axis] / grid[axis]
            offset = (pixel + 0.5) / step - (place + 0.5)
            outermost = (place == 0 and offset < 0) or (place == grid[axis] - 1 and offset > 0)
            return 1.0 if outermost else math.cos(min(1, abs(offset)) * math.pi / 2) ** 2

        blurred = video.double().numpy()
        for axis, place in ((0, 0), (1, 2), (2, 3)):
            step, lines = sizes[axis] / grid[axis], np.moveaxis(blurred, place, 0)
            weights = [
                [math.exp(-((i - j) ** 2) / (2 * step**2)) for j in range(sizes[axis])] for i in range(sizes[axis])
            ]
            lines = np.stack([np.average(lines, axis=0, weights=row) for row in weights])
            blurred = np.moveaxis(lines, 0, place)

        model.eval()

        def embed(frames):
            for _ in range(order):
                frames = frames[1:] - frames[:-1]
            with torch.no_grad():
                return model(frames[None].float(), derivative_order=order).pooler_output[0].double().numpy()

        whole, expected = embed(video), np.zeros(sizes)
        for place in itertools.product(*map(range, grid)):
            axes = [[window(axis, place[axis], pixel) for pixel in range(sizes[axis])] for axis in range(3)]
            mask = np.einsum("t,h,w->thw", *axes)
            wiped = embed(torch.from_numpy((1 - mask[:, None]) * video.numpy() + mask[:, None] * blurred))
            expected += mask * (1 - whole @ wiped / np.linalg.norm(whole) / np.linalg.norm(wiped))
        found = occlusion_saliency(model, video, derivative_order=order, grid=grid)
        assert found.shape == sizes
        np.testing.assert_allclose(found.numpy(), expected, rtol=2e-3, atol=1e-6)

    @pytest.mark.parametrize("order", [0, 1])
    def test_finds_the_only_thing_there_is_in_space_and_time(self, model, order):
        video, where = moving_patch(8 + order)
        found = occlusion_saliency(model, video, derivative_order=order, grid=(4, 6, 6))
        peaks = [divmod(int(frame.argmax()), 48) for frame in found[1:-1]]
        centres = [where[frame].nonzero().float().mean(0).tolist() for frame in range(1, 7 + order)]
        assert all(math.dist(peak, centre) < 12 for peak, centre in zip(peaks, centres))
        # On 4 % of the pixels; a window is 8 of the patch's 10 pixels wide at half its height.
        assert found[where].sum() > 4 * where.float().mean() * found.sum()
        far = torch.ones_like(where)
        far[:, 8:40] = False
        assert found[far].max() < 0.05 * found.max()

    def test_nothing_to_see_is_nothing(self, model):
        found = occlusion_saliency(model, torch.full((8, 3, 32, 32), 0.7), grid=(2, 3, 3))
        assert found.abs().max() < 1e-6

    def test_repeats_itself_in_any_batches_and_leaves_the_model_as_it_was(self, model):
        video, _ = moving_patch()
        model.train()
        norm = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm3d))
        before = norm.running_mean.clone()
        one = occlusion_saliency(model, video, grid=(2, 3, 3))
        other = occlusion_saliency(model, video, grid=(2, 3, 3), batch_size=5)
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7)
        assert torch.equal(one, occlusion_saliency(model, video, grid=(2, 3, 3)))
        assert model.training
        assert torch.equal(norm.running_mean, before)
        assert not one.requires_grad

    def test_impossible(self, model):
        with pytest.raises(ValueError, match="grid must have 1 to 4 windows along frames, got 5"):
            occlusion_saliency(model, torch.zeros(4, 3, 32, 32), grid=(5, 2, 2))
        with pytest.raises(ValueError, match=r"\(frames, channels, height, width\), got \(1, 4, 3, 32, 32\)"):
            occlusion_saliency(model, torch.zeros(1, 4, 3, 32, 32))


class TestShareOnMotion:
    def test_shares(self):
        clip = torch.full((3, 3, 2, 4), 100, dtype=torch.uint8)
        clip[1, :, 0, 0] = 109  # changes from frame 0 to 1 and back: in all three frames
        clip[2, :, 1, 3] = 108  # too little
        weights = torch.ones(3, 2, 4)
        weights[:, 0, 0] = 9
        assert share_on_motion(weights, clip) == pytest.approx((27 / 48, 1 / 8))
        assert share_on_motion(weights, clip, threshold=7.5)[1] == pytest.approx((3 + 2) / 24)

    def test_nothing_looked_at(self):
        assert share_on_motion(torch.zeros(2, 2, 2), torch.zeros(2, 3, 2, 2, dtype=torch.uint8)) == (0.0, 0.0)

    def test_shapes_must_fit(self):
        with pytest.raises(ValueError, match=r"got \(2, 4, 4\) of \(2, 3, 5, 4\)"):
            share_on_motion(torch.zeros(2, 4, 4), torch.zeros(2, 3, 5, 4, dtype=torch.uint8))


def test_examples():
    assert doctest.testmod(saliency).failed == 0
