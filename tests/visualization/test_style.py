"""Writing figures, and coloring signed values."""

import numpy as np
import pytest
import torch
from PIL import Image

from vididi_hf.visualization import plot_derivatives, save_figure
from vididi_hf.visualization.style import signed_image


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_save_figure_makes_folders(tmp_path, suffix):
    figure = plot_derivatives(torch.arange(4 * 3 * 48).reshape(4, 3, 6, 8).to(torch.uint8))
    path = save_figure(figure, tmp_path / "new" / f"picture{suffix}")
    assert path.stat().st_size > 1000
    if suffix == ".png":
        colors = Image.open(path).convert("RGB")
        assert colors.getpixel((0, 0)) == (255, 255, 255)
        assert len(colors.getcolors(10**6)) > 50


def test_diverging_blue_is_darker_white_nothing_and_red_brighter():
    values = torch.tensor([-40.0, -20.0, 0.0, 20.0, 40.0]).expand(1, 3, 1, 5)
    painted, limit = signed_image(values, "diverging")
    assert painted.shape == (1, 3, 1, 5)
    assert limit == pytest.approx(40)
    red, _, blue = painted[0, :, 0]
    assert (red - blue > 5).tolist() == [False, False, False, True, True]
    assert (blue - red > 5).tolist() == [True, True, False, False, False]
    assert painted[0, :, 0, 2].min() > 240
    distance = (painted[0, :, 0] - painted[0, :, 0, 2:3]).abs().sum(0)
    assert distance[0] > distance[1] > 0 < distance[3] < distance[4]


def test_diverging_is_the_mean_of_the_channels():
    values = torch.tensor([30.0, -10.0, 10.0]).reshape(3, 1, 1)
    other, limit = signed_image(torch.full((3, 1, 1), 10.0), "diverging")
    painted, same_limit = signed_image(values, "diverging")
    np.testing.assert_allclose(painted, other)
    assert limit == same_limit == pytest.approx(10)
    with pytest.raises(ValueError, match="colors must be one of rgb, diverging, got 'jet'"):
        signed_image(values, "jet")
