"""Which videos are shown for which query, in which places, with which borders."""

import datasets
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from torchcodec.encoders import VideoEncoder

from vididi_hf.data.folders import with_video_column
from vididi_hf.visualization import OTHER, QUERY, SAME, choose_queries, plot_retrieval
from vididi_hf.visualization.neighbors import video_label


def pixels(axis):
    """The image of an axis as (3, height, width) numbers."""
    return axis.images[0].get_array().astype(float).transpose(2, 0, 1)


def uniform_clip(levels):
    """Frames of one gray level each."""
    return torch.tensor(levels, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 6, 8)


def test_queries_are_of_as_many_labels_as_possible():
    labels = torch.tensor([0] * 50 + [1] * 50 + [2, 3])
    for seed in range(5):
        assert sorted(labels[choose_queries(labels, 4, seed)].tolist()) == [0, 1, 2, 3]
    assert sorted(labels[choose_queries(labels, 6)].tolist()) == [0, 0, 1, 1, 2, 3]
    first, again, other = (choose_queries(labels, 5, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert sorted(choose_queries(torch.tensor([7, 7, 9]), 10).tolist()) == [0, 1, 2]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Four videos of 8 frames; video v has the brightness 40·v + 4·frame. The last one is wide, others are square."""
    folder = tmp_path_factory.mktemp("videos")
    paths = []
    for video in range(4):
        frames = uniform_clip([40 * video + 4 * frame for frame in range(8)])
        frames = frames[..., :1, :1].expand(-1, -1, 32, 64 if video == 3 else 32).contiguous()
        paths.append(str(folder / f"{video}.mp4"))
        VideoEncoder(frames, frame_rate=10).to_file(paths[-1], codec="libx264", pixel_format="yuv444p", crf=5)
    return with_video_column(paths, ["orbit", "spin", "orbit", "sway"])


def border(axis):
    [color] = {to_hex(spine.get_edgecolor()) for spine in axis.spines.values()}
    assert all(spine.get_visible() for spine in axis.spines.values())
    return color


def test_what_is_shown_where(rows):
    found = {"baseline": [[1, 2, 3], [3, 0, 2]], "ViDiDi": torch.tensor([[2, 1, -1], [0, 1, 2]])}
    figure = plot_retrieval(rows, [0, 1], rows, found, num_neighbors=3, title="nearest videos")
    # Query 0 (orbit), 3 + 2 neighbors; query 1 (spin), 3 + 3 neighbors.
    assert [border(axis) for axis in figure.axes] == [
        *(QUERY, OTHER, SAME, OTHER, SAME, OTHER),
        *(QUERY, OTHER, OTHER, OTHER, OTHER, SAME, OTHER),
    ]
    assert [axis.get_xlabel() for axis in figure.axes] == [
        *("orbit", "✗ spin", "✓ orbit", "✗ sway", "✓ orbit", "✗ spin"),
        *("spin", "✗ sway", "✗ orbit", "✗ orbit", "✗ orbit", "✓ spin", "✗ orbit"),
    ]
    texts = [text.get_text() for text in figure.texts]
    assert texts == ["nearest videos", "query", "1", "2", "3", "baseline", "ViDiDi", "baseline", "ViDiDi"]
    for axis, video in zip(figure.axes, [0, 1, 2, 3, 2, 1]):
        strip = pixels(axis)
        assert strip.shape == (3, 96, 3 * 96)  # the wide video is cropped to the shape of the others
        levels = strip.reshape(3, 96, 3, 96).mean(axis=(0, 1, 3))
        np.testing.assert_allclose(levels, [40 * video + 4 * frame for frame in (2, 4, 6)], atol=2.5)


def test_shape_of_the_first_query_is_that_of_all(rows):
    figure = plot_retrieval(rows, [3], rows, {"ViDiDi": [[0, 1]]})
    assert [pixels(axis).shape for axis in figure.axes] == [(3, 96, 3 * 192)] * 3


def test_unknown_labels_neither_agree_nor_disagree(rows):
    plain = rows.remove_columns("label")
    for gallery, labels in ((plain, ["", "", ""]), (rows, ["", "spin", "orbit"])):
        axes = plot_retrieval(plain, [0], gallery, {"ViDiDi": [[1, 2]]}).axes
        assert border(axes[0]) == QUERY
        assert {border(axis) for axis in axes[1:]}.isdisjoint({SAME, OTHER, QUERY})
        assert [axis.get_xlabel() for axis in axes] == labels


def test_labels_are_named_where_they_are_known():
    rows = datasets.Dataset.from_dict(
        {"label": [1, -1, None]}, datasets.Features({"label": datasets.ClassLabel(names=["hop", "run"])})
    )
    assert [video_label(rows, row) for row in range(3)] == ["run", None, None]
    assert video_label(datasets.Dataset.from_dict({"label": [7]}), 0) == "7"
    assert video_label(datasets.Dataset.from_dict({"other": [7]}), 0) is None
