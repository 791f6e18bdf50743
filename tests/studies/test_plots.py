"""Pictures are read back from what was drawn."""

import doctest
from pathlib import Path

import numpy as np
import pytest
from studies.report import picture_files
from studies.statistics import Score

from studies import plots as module
from studies.plots import amounts, plot_amount, plot_scores, write_plots
from studies.records import Records

VALUES = {"untrained": (0.1, 0.14), "short": (0.2, 0.3), "long": (0.5, 0.9)}


@pytest.fixture
def records() -> Records:
    arms = {
        "untrained": {"train": False, "series": None},
        "short": {"train": True, "series": "ViDiDi"},
        "long": {"train": True, "series": "ViDiDi"},
    }
    grid = {"datasets": {"x": {}}, "arms": arms, "seeds": [0, 1], "validation": False, "amount": "epochs"}
    found = Records({**grid, "comparisons": []}, "x")
    epochs = {"untrained": 5, "short": 5, "long": 40}
    found.configurations["x"] = {
        arm: {"recipe": {"epochs": count}, "train_share": 1.0} for arm, count in epochs.items()
    }
    for arm, values in VALUES.items():
        for seed, value in enumerate(values):
            curve = [{"epoch": 5, "loss": 2.0, "R@1": value}] if arm != "untrained" else []
            found.runs["x", arm, seed] = {
                "metrics": {"label": {"frames": {"R@1": value}, "both": {"R@1": 0.0}}},
                "chance": {"label": 0.05},
                "curve": curve,
                "versions": {},
            }
    return found


def test_bars_are_means_with_deviations_and_every_seed(records: Records) -> None:
    [panel] = plot_scores(records.scores(), {"x": 0.05}).axes
    assert [label.get_text() for label in panel.get_yticklabels()] == list(VALUES)
    assert [bar.get_width() for bar in panel.patches] == pytest.approx([np.mean(v) for v in VALUES.values()])
    dots = [line.get_xdata().tolist() for line in panel.lines if line.get_marker() == "o"]
    assert dots == [list(values) for values in VALUES.values()]
    for collection, values in zip(panel.collections, VALUES.values()):
        [(low, _), (high, _)] = collection.get_segments()[0]
        assert (high - low) / 2 == pytest.approx(np.std(values, ddof=1))
    with pytest.raises(ValueError, match="nothing was measured of 'mAP' when 'frames' were shown"):
        plot_scores(records.scores(), {"x": 0.05}, metric="mAP")


def test_data_sets_have_panels_of_their_own() -> None:
    scores = [Score(dataset, "a", 0, "label", "frames", "R@1", 0.5) for dataset in ("x", "y")]
    figure = plot_scores(scores, {"x": 0.1, "y": 0.2})
    assert [panel.get_title("left") for panel in figure.axes] == ["x", "y"]


def test_amounts_are_those_of_the_recipes_and_the_untrained_encoder_has_none(records: Records) -> None:
    amount, found = amounts(records)
    assert amount == "epochs"
    assert found == {"x": {"untrained": {0.0: [0.1, 0.14]}, "ViDiDi": {5.0: [0.2, 0.3], 40.0: [0.5, 0.9]}}}


def test_curves_join_means_and_show_every_seed(records: Records) -> None:
    [panel] = plot_amount(*amounts(records), {"x": 0.05}).axes
    level, line, dots, chance = panel.lines
    assert level.get_ydata() == pytest.approx([0.12, 0.12])
    assert line.get_xydata() == pytest.approx(np.array([[5, 0.25], [40, 0.7]]))
    assert dots.get_xydata() == pytest.approx(np.array([[5, 0.2], [5, 0.3], [40, 0.5], [40, 0.9]]))
    assert chance.get_ydata() == [0.05, 0.05]
    [_, whisker] = (lines.get_paths()[0].vertices for lines in panel.collections)
    assert whisker[:, 0].tolist() == [40, 40]
    assert whisker[:, 1] == pytest.approx(0.7 + np.std([0.5, 0.9], ddof=1) * np.array([-1, 1]))
    assert panel.get_xlabel() == "epochs"


def test_pictures_that_the_page_names_are_written(records: Records, tmp_path: Path) -> None:
    paths = write_plots(records, "tiny", tmp_path / "images")
    assert [path.name for path in paths] == list(picture_files(records, "tiny"))
    assert len(paths) == 3
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0
