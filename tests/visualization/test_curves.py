"""Curves are read back from the lines that were drawn."""

import matplotlib.pyplot
import numpy as np
import pytest

from vididi_hf.visualization import RUN_COLORS, plot_curves

RUNS = {
    "baseline": [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.0, "R@1": 0.2}],
    "ViDiDi": [{"epoch": 1, "loss": 4.0}, {"epoch": 2, "loss": 3.5, "R@1": 0.8}],
}


def test_one_line_and_color_per_run_with_its_own_epochs():
    figure = plot_curves(RUNS, chance=0.125)
    loss, recall = figure.axes
    assert (loss.get_title("left"), recall.get_title("left")) == ("loss", "R@1")
    assert [line.get_xydata().tolist() for line in loss.lines] == [[[1, 3], [2, 2]], [[1, 4], [2, 3.5]]]
    assert [line.get_xydata().tolist() for line in recall.lines[:2]] == [[[2, 0.2]], [[2, 0.8]]]
    assert list(recall.lines[2].get_ydata()) == [0.125, 0.125]  # chance is drawn with recall only
    assert recall.texts[0].get_text() == "chance"
    assert loss.get_xlim() == recall.get_xlim()
    for panel in figure.axes:
        assert [line.get_color() for line in panel.lines[:2]] == list(RUN_COLORS[:2])
        assert not panel.collections  # no band around single runs
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["baseline", "ViDiDi"]
    assert matplotlib.pyplot.get_fignums() == []  # pyplot knows nothing of the figure


@pytest.mark.parametrize("reached", [0.1, 0.5, 1.0])
def test_recall_is_drawn_from_nothing_to_what_is_reached(reached):
    [panel] = plot_curves({"ViDiDi": [{"epoch": 1, "R@1": reached}]}, keys=["R@1"], chance=0.05).axes
    bottom, top = panel.get_ylim()
    assert bottom == 0
    assert reached <= top <= min(1, 1.2 * reached)


def test_seeds_give_a_mean_and_a_band():
    rows = [{"epoch": e, "R@1": v} for e, v in ((1, 0.1), (2, 0.4), (1, 0.3), (2, 0.5), (1, 0.2), (2, 0.9))]
    [panel] = plot_curves({"ViDiDi": rows, "other": []}, keys=["R@1"]).axes
    np.testing.assert_allclose(panel.lines[0].get_xydata(), [[1, 0.2], [2, 0.6]])
    corners = {tuple(point) for point in panel.collections[0].get_paths()[0].vertices.round(6)}
    assert {(1, 0.1), (1, 0.3), (2, 0.4), (2, 0.9)} <= corners
