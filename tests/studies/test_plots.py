"""Figures are read back from what was drawn."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from studies.plots import add_amounts, figure_files, plot_amount, plot_scores, write_figures
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


@pytest.fixture
def recalls(records: Records) -> pd.DataFrame:
    return records.scores().query("input == 'frames'")


def test_bars_are_means_with_deviations_and_every_seed(recalls: pd.DataFrame) -> None:
    [panel] = plot_scores(recalls, {"x": 0.05}).axes
    assert [label.get_text() for label in panel.get_yticklabels()] == list(VALUES)
    assert [bar.get_width() for bar in panel.patches] == pytest.approx([np.mean(v) for v in VALUES.values()])
    [dots] = [line for line in panel.lines if line.get_marker() == "o"]
    assert dots.get_xdata().tolist() == [value for values in VALUES.values() for value in values]
    assert dots.get_ydata().tolist() == [0, 0, 1, 1, 2, 2]
    for segment, values in zip(panel.collections[0].get_segments(), VALUES.values()):
        [(low, _), (high, _)] = segment
        assert (high - low) / 2 == pytest.approx(np.std(values, ddof=1))


def test_curves_join_means_and_show_every_seed(recalls: pd.DataFrame, records: Records) -> None:
    [panel] = plot_amount(add_amounts(recalls, records), {"x": 0.05}, "epochs").axes
    level, line, dots, chance = panel.lines
    assert level.get_ydata() == pytest.approx([0.12, 0.12])
    assert line.get_xydata() == pytest.approx(np.array([[5, 0.25], [40, 0.7]]))
    assert dots.get_xydata() == pytest.approx(np.array([[5, 0.2], [5, 0.3], [40, 0.5], [40, 0.9]]))
    assert chance.get_ydata() == [0.05, 0.05]
    whisker = panel.collections[0].get_segments()[1]
    assert whisker[:, 0].tolist() == [40, 40]
    assert whisker[:, 1] == pytest.approx(0.7 + np.std([0.5, 0.9], ddof=1) * np.array([-1, 1]))
    assert panel.get_xlabel() == "epochs"


def test_the_named_figures_are_written(records: Records, tmp_path: Path) -> None:
    paths = write_figures(records, "tiny", tmp_path)
    assert [path.name for path in paths] == list(figure_files(records, "tiny"))
    assert [path.name for path in paths] == ["tiny.png", "tiny-amount.png", "tiny-x.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
