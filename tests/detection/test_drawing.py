"""Pictures: boxes where they belong, in the color of right and wrong."""

import numpy as np
import pytest
import torch
from PIL import Image

from vididi_hf.detection.drawing import RIGHT, TRUTH, WRONG, draw_boxes, save_picture
from vididi_hf.detection.key_frames import load_key_frames, names_of


def rgb(color):
    return torch.tensor([int(color[place : place + 2], 16) for place in (1, 3, 5)])


def extent(picture, color):
    """The box, in pixels, around what has a color."""
    same = (picture.int() == rgb(color)[:, None, None]).all(0)
    rows, columns = same.any(1).nonzero().flatten().tolist(), same.any(0).nonzero().flatten().tolist()
    return [columns[0], rows[0], columns[-1], rows[-1]] if rows else None


def test_boxes_are_where_they_belong():
    frame = torch.full((3, 40, 60), 90, dtype=torch.uint8)
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.9], [0.6, 0.0, 1.0, 1.0]])
    picture = draw_boxes(frame, boxes, None, [RIGHT, WRONG], side=200)
    assert picture.shape == (3, 200, 300)
    for box, color in zip(boxes, (RIGHT, WRONG)):
        expected = (box * torch.tensor([299, 199, 299, 199])).tolist()
        assert extent(picture, color) == pytest.approx(expected, abs=2)
    text = draw_boxes(frame, boxes, ["run 0.9\nsit 0.1", "walk"], [RIGHT, WRONG], side=200)
    assert not torch.equal(text, picture)


@pytest.fixture(scope="module")
def rows(dataset):
    return load_key_frames(dataset, split="test", every=5)


def picture_of(path, rows, number, boxes=None, **settings):
    """The picture of a detector that gives one class the highest score, always."""
    scores = torch.nn.functional.one_hot(torch.tensor(number), 3).tolist()
    detections = {
        name: {"boxes": [box for box in found for _ in scores], "scores": scores * len(found)}
        for name, found in zip(names_of(rows), boxes or rows["boxes"])
    }
    save_picture(path, rows, detections, **settings)
    return torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1)


def test_right_is_green_and_wrong_is_red(rows, tmp_path):
    bright = rows.select([0, 1])
    for number, color, other in [(0, RIGHT, WRONG), (1, WRONG, RIGHT)]:
        picture = picture_of(tmp_path / "new" / f"{number}.png", bright, number)
        assert extent(picture, color) is not None
        assert extent(picture, other) is None
    # A box of nobody is wrong whatever it says, and who should have been found is gray.
    elsewhere = [[[0.8, 0.8, 1.0, 1.0]]] * 2
    picture = picture_of(tmp_path / "away.png", bright, 0, elsewhere)
    assert extent(picture, RIGHT) is None
    assert extent(picture, WRONG) is not None
    assert extent(picture, TRUTH) is not None


def test_so_many_pictures_and_the_same_each_time(rows, tmp_path):
    first, again = (picture_of(tmp_path / f"{name}.png", rows, 2, count=4) for name in "ab")
    assert torch.equal(first, again)
    assert first.shape == (3, 2 * 320 + 3 * 4, 3 * 448 + 4 * 4)
    assert picture_of(tmp_path / "nobody.png", rows, 0, [[]] * len(rows)).shape == (3, 320, 320)
