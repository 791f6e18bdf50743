"""Moving pictures are decoded again, and the page read."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed: pip install vididi-hf[explorer]")

from explorer.exploration import Exploration, Neighbor
from explorer.interface import moving_picture, neighbors_page


def gray(levels):
    return torch.tensor(levels, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 16, 16)


def frames_of(address):
    head, content = address.split(",")
    assert head == "data:image/webp;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    levels, durations = [], []
    for number in range(picture.n_frames):
        picture.seek(number)
        levels.append(float(np.asarray(picture.convert("RGB")).mean()))
        picture.load()
        durations.append(picture.info["duration"])
    return levels, durations, picture.info["loop"]


def exploration(label):
    found = {"baseline": [Neighbor(3, "bob", 0.91234), Neighbor(6, "spin", 0.5)], "A<B": [Neighbor(6, "spin", 1.0)]}
    none = Figure()
    return Exploration("", label, gray([10, 20]), none, none, none, found, {}, 0.0)


def test_moving_pictures_move():
    levels, durations, loop = frames_of(moving_picture(gray([30, 120, 210]), frames_per_second=8))
    np.testing.assert_allclose(levels, [30, 120, 210], atol=4)
    assert durations == [125] * 3
    assert loop == 0  # for ever


def test_pictures_are_those_of_the_neighbors():
    page = neighbors_page(exploration("spin"), lambda index: gray([20 * index, 200]))
    first = [frames_of(address)[0][0] for address in re.findall(r'src="(.*?)"', page)]
    np.testing.assert_allclose(first, [10, 60, 120, 120], atol=4)
