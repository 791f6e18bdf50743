"""Figures are read back: what is in the images, the labels, the borders and the lines."""

import doctest

import matplotlib.pyplot
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image
from torchcodec.encoders import VideoEncoder

from vididi_hf import visualization
from vididi_hf.data.folders import with_video_column
from vididi_hf.visualization import (
    OTHER,
    QUERY,
    RUN_COLOURS,
    SAME,
    choose_queries,
    plot_curves,
    plot_derivatives,
    plot_retrieval,
    plot_taylor,
    save_figure,
)


def pixels(axis):
    """The image of an axis as (3, height, width) numbers."""
    return axis.images[0].get_array().astype(float).transpose(2, 0, 1)


def random_clip(frames, height=6, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (frames, 3, height, width), dtype=torch.uint8, generator=generator)


def uniform_clip(levels):
    """Frames of one grey level each."""
    return torch.tensor(levels, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 6, 8)


class TestDerivatives:
    def test_rows_are_orders_and_columns_frames(self):
        clip = random_clip(7)
        axes = plot_derivatives(clip, max_order=2).axes
        assert len(axes) == 3 * 5
        assert [axis.get_title() for axis in axes[:5]] == [f"frame {number}" for number in range(5)]
        for number in range(5):
            np.testing.assert_array_equal(pixels(axes[number]), clip[number].numpy())

    def test_derivatives_are_signed_around_grey_and_scaled_by_row(self):
        clip = random_clip(7)
        values = clip.numpy().astype(float)
        first = values[1:6] - values[:5]
        second = values[2:] - 2 * values[1:6] + values[:5]
        axes = plot_derivatives(clip, max_order=2).axes
        for row, expected, name in ((1, first, "∂V"), (2, second, "∂²V")):
            limit = np.quantile(np.abs(expected), 0.995)
            for axis, frame in zip(axes[5 * row : 5 * row + 5], expected):
                shown = np.clip(127.5 + 127.5 * frame / limit, 0, 255)
                np.testing.assert_allclose(pixels(axis), shown, atol=0.51)
            assert axes[5 * row].get_ylabel() == f"{name}\n±{limit:.0f}"

    def test_scale_is_symmetric(self):
        clip = random_clip(4)
        there, back = (plot_derivatives(frames, max_order=1).axes[3:] for frames in (clip, 255 - clip))
        for one, other in zip(there, back):
            np.testing.assert_allclose(pixels(one) + pixels(other), 255, atol=1.01)

    def test_one_flash_does_not_set_the_scale(self):
        clip = uniform_clip([0, 10, 20, 30]).clone()
        clip[0, 0, 0, 0] = 255
        axes = plot_derivatives(clip, max_order=1).axes
        assert axes[3].get_ylabel() == "∂V\n±10"

    def test_still_video_is_grey_and_its_noise_not_blown_up(self):
        axes = plot_derivatives(uniform_clip([80] * 4), max_order=2).axes
        for axis in axes[2:]:
            np.testing.assert_allclose(pixels(axis), 127.5, atol=0.5)
        assert axes[2].get_ylabel() == "∂V\n±1"

    def test_any_order(self):
        axes = plot_derivatives(random_clip(13), max_order=12).axes
        assert [axis.get_ylabel().split("\n")[0] for axis in axes][3] == "∂³V"
        assert axes[12].get_ylabel().startswith("∂¹²V")

    def test_impossible_clips(self):
        with pytest.raises(ValueError, match=r"uint8 \(frames, 3, height, width\), got torch.float32 \(4, 3, 6, 8\)"):
            plot_derivatives(random_clip(4).float())
        with pytest.raises(ValueError, match=r"got torch\.uint8 \(4, 1, 6, 8\)"):
            plot_derivatives(random_clip(4)[:, :1])
        with pytest.raises(ValueError, match="up to order 2 need at least 3 frames, got 2"):
            plot_derivatives(random_clip(2), max_order=2)


class TestTaylor:
    def test_quadratic_video(self):
        """V(t) = t² + 3 from t = 0; known until t = 4, then 28, 39, 52."""
        axes = plot_taylor(uniform_clip([3, 4, 7, 12, 19, 28, 39, 52]), order=2, horizon=3).axes
        assert len(axes) == 4 * 4
        assert [axis.get_title() for axis in axes[:4]] == ["t", "t + 1", "t + 2", "t + 3"]
        assert [axis.get_ylabel() for axis in axes[::4]] == ["video", "order 0", "order 1", "order 2"]
        shown = [[pixels(axis).mean() for axis in axes[4 * row : 4 * row + 4]] for row in range(4)]
        assert shown[0] == [19, 28, 39, 52]
        assert shown[1] == [19, 19, 19, 19]
        assert shown[2][1:] == [19 + 7, 19 + 14, 19 + 21]
        assert shown[3][1:] == [28, 39, 52]
        errors = [[float(axis.get_xlabel()) for axis in axes[4 * row + 1 : 4 * row + 4]] for row in (1, 2, 3)]
        assert errors == [[9, 20, 33], [2, 6, 12], [0, 0, 0]]
        assert [axes[4 * row].get_xlabel() for row in (1, 2, 3)] == ["V(t)", "∂V(t)", "∂²V(t)"]

    def test_error_is_a_root_mean_square_of_what_was_predicted_and_the_best_is_bold(self):
        clip = random_clip(4)
        values = clip.numpy().astype(float)
        axes = plot_taylor(clip, order=1, horizon=2).axes
        expected = []
        for order in (0, 1):
            predicted = [values[1] + order * step * (values[1] - values[0]) for step in (1, 2)]
            expected.append([np.sqrt(np.mean((predicted[i] - values[2 + i]) ** 2)) for i in (0, 1)])
        assert [[axis.xaxis.label.get_text() for axis in axes[row : row + 2]] for row in (4, 7)] == [
            [f"{error:.1f}" for error in errors] for errors in expected
        ]
        weights = [[axis.xaxis.label.get_weight() for axis in axes[row : row + 2]] for row in (4, 7)]
        best = np.argmin(expected, axis=0)
        assert weights == [["bold" if best[step] == row else "normal" for step in (0, 1)] for row in (0, 1)]

    def test_predictions_beyond_black_and_white_are_shown_as_these(self):
        axes = plot_taylor(uniform_clip([0, 200, 0]), order=1, horizon=1).axes
        assert pixels(axes[5]).mean() == 255
        assert axes[5].get_xlabel() == "400.0"

    def test_too_few_frames(self):
        with pytest.raises(ValueError, match="order 2 compared over 4 frames needs 7 frames, got 6"):
            plot_taylor(random_clip(6), order=2, horizon=4)


class TestCurves:
    runs = {  # noqa: RUF012
        "baseline": [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.0, "R@1": 0.2}],
        "ViDiDi": [{"epoch": 1, "loss": 4.0}, {"epoch": 2, "loss": 3.5, "R@1": 0.8}],
    }

    def test_one_line_per_run_with_its_own_epochs(self):
        loss, recall = plot_curves(self.runs).axes
        assert (loss.get_title("left"), recall.get_title("left")) == ("loss", "R@1")
        assert [line.get_xydata().tolist() for line in loss.lines] == [[[1, 3], [2, 2]], [[1, 4], [2, 3.5]]]
        assert [line.get_xydata().tolist() for line in recall.lines] == [[[2, 0.2]], [[2, 0.8]]]
        assert recall.get_ylim() == (0, 1)
        assert loss.get_xlim() == recall.get_xlim()

    def test_a_run_has_one_colour_and_one_entry_in_the_legend(self):
        figure = plot_curves(self.runs)
        for panel in figure.axes:
            assert [line.get_color() for line in panel.lines] == list(RUN_COLOURS[:2])
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["baseline", "ViDiDi"]

    def test_chance_is_drawn_with_recall_only(self):
        loss, recall = plot_curves(self.runs, chance=0.125).axes
        assert len(loss.lines) == 2
        assert recall.lines[2].get_ydata() == [0.125, 0.125]
        assert recall.texts[0].get_text() == "chance"

    def test_seeds_give_a_mean_and_a_band(self):
        rows = [{"epoch": e, "R@1": v} for e, v in ((1, 0.1), (2, 0.4), (1, 0.3), (2, 0.5), (1, 0.2), (2, 0.9))]
        [panel] = plot_curves({"ViDiDi": rows}, keys=["R@1"]).axes
        np.testing.assert_allclose(panel.lines[0].get_xydata(), [[1, 0.2], [2, 0.6]])
        corners = {tuple(point) for point in panel.collections[0].get_paths()[0].vertices.round(6)}
        assert {(1, 0.1), (1, 0.3), (2, 0.4), (2, 0.9)} <= corners

    def test_single_runs_have_no_band(self):
        assert not any(panel.collections for panel in plot_curves(self.runs).axes)

    def test_unknown_metric(self):
        with pytest.raises(ValueError, match="no run has the metric 'R@2'"):
            plot_curves(self.runs, keys=("loss", "R@2"))


class TestChooseQueries:
    def test_as_many_labels_as_possible(self):
        labels = torch.tensor([0] * 50 + [1] * 50 + [2, 3])
        for seed in range(5):
            assert sorted(labels[choose_queries(labels, 4, seed)].tolist()) == [0, 1, 2, 3]
        assert sorted(labels[choose_queries(labels, 6)].tolist()) == [0, 0, 1, 1, 2, 3]

    def test_depends_on_the_seed_alone(self):
        labels = torch.arange(100) % 5
        first, again, other = (choose_queries(labels, 5, seed).tolist() for seed in (0, 0, 1))
        assert first == again != other

    def test_at_most_all(self):
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
    [colour] = {to_hex(spine.get_edgecolor()) for spine in axis.spines.values()}
    assert all(spine.get_visible() for spine in axis.spines.values())
    return colour


class TestRetrieval:
    @pytest.fixture(scope="class")
    def figure(self, rows):
        found = {"baseline": [[1, 2, 3], [3, 0, 2]], "ViDiDi": torch.tensor([[2, 1, -1], [0, 1, 2]])}
        return plot_retrieval(rows, [0, 1], rows, found, num_neighbours=3, title="nearest videos")

    def test_borders_tell_same_from_other(self, figure):
        # Query 0 (orbit), 3 + 2 neighbours; query 1 (spin), 3 + 3 neighbours.
        assert [border(axis) for axis in figure.axes] == [
            *(QUERY, OTHER, SAME, OTHER, SAME, OTHER),
            *(QUERY, OTHER, OTHER, OTHER, OTHER, SAME, OTHER),
        ]

    def test_labels(self, figure):
        labels = [axis.get_xlabel() for axis in figure.axes]
        assert labels[:6] == ["orbit", "✗ spin", "✓ orbit", "✗ sway", "✓ orbit", "✗ spin"]
        assert labels[6:] == ["spin", "✗ sway", "✗ orbit", "✗ orbit", "✗ orbit", "✓ spin", "✗ orbit"]

    def test_headers(self, figure):
        texts = [text.get_text() for text in figure.texts]
        assert texts == ["nearest videos", "query", "1", "2", "3", "baseline", "ViDiDi", "baseline", "ViDiDi"]

    def test_strips_show_three_frames_of_the_right_videos(self, figure):
        for axis, video in zip(figure.axes, [0, 1, 2, 3, 2, 1]):
            strip = pixels(axis)
            assert strip.shape == (3, 96, 3 * 96)  # the wide video is cropped to the shape of the others
            levels = strip.reshape(3, 96, 3, 96).mean(axis=(0, 1, 3))
            np.testing.assert_allclose(levels, [40 * video + 4 * frame for frame in (2, 4, 6)], atol=2.5)

    def test_encoders_stand_below_each_other_and_ranks_side_by_side(self, figure):
        query, first, second, _, below, _ = (axis.get_position() for axis in figure.axes[:6])
        assert query.x1 < first.x0 < first.x1 < second.x0
        assert first.y0 == second.y0 > below.y1
        assert first.x0 == below.x0
        assert below.y0 < (query.y0 + query.y1) / 2 < first.y1
        assert all(axis.get_position().y0 >= 0 and axis.get_position().x1 <= 1 for axis in figure.axes)

    def test_shape_of_the_first_query_is_that_of_all(self, rows):
        figure = plot_retrieval(rows, [3], rows, {"ViDiDi": [[0, 1]]})
        assert [pixels(axis).shape for axis in figure.axes] == [(3, 96, 3 * 192)] * 3

    def test_without_labels_borders_are_neutral(self, rows):
        plain = rows.remove_columns("label")
        axes = plot_retrieval(plain, [0], plain, {"ViDiDi": [[1, 2]]}).axes
        assert border(axes[0]) == QUERY
        assert {border(axis) for axis in axes[1:]}.isdisjoint({SAME, OTHER, QUERY})
        assert [axis.get_xlabel() for axis in axes] == ["", "", ""]

    def test_neighbours_must_fit_the_queries(self, rows):
        with pytest.raises(ValueError, match="'ViDiDi' has the neighbours of 1 queries, but 2 are shown"):
            plot_retrieval(rows, [0, 1], rows, {"ViDiDi": [[1, 2]]})


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_save_figure_makes_folders(tmp_path, suffix):
    path = save_figure(plot_derivatives(random_clip(4)), tmp_path / "new" / f"picture{suffix}")
    assert path.stat().st_size > 1000
    if suffix == ".png":
        colours = Image.open(path).convert("RGB")
        assert colours.getpixel((0, 0)) == (255, 255, 255)
        assert len(colours.getcolors(10**6)) > 50


def test_pyplot_knows_nothing_of_the_figures():
    plot_curves(TestCurves.runs)
    plot_derivatives(random_clip(4))
    assert matplotlib.pyplot.get_fignums() == []


def test_examples():
    assert doctest.testmod(visualization).failed == 0
