"""The pictures of a comparison: which runs, queries and neighbors they show."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from studies import demonstration
from studies.measuring import NUM_NEIGHBORS
from studies.runs import NEIGHBORS_JSON, Run

ASKED = [1, 2, 4, 5, 7]


@pytest.fixture
def runs(tiny_study, tmp_path: Path) -> list[Run]:
    """Runs of two seeds that are done as far as pictures are concerned; one encoder was asked about more videos."""
    runs = tiny_study.plan(tmp_path / "runs", seeds=[0, 1])
    for number, run in enumerate(runs):
        run.folder.mkdir(parents=True)
        asked = [*ASKED, 6] if number == 0 else ASKED
        found = {str(row): [number, *range(1, NUM_NEIGHBORS)] for row in asked}
        (run.folder / NEIGHBORS_JSON).write_text(json.dumps(found))
        if run.trained:
            lines = [{"epoch": 1, "loss": 2.0 + number}, {"epoch": 2, "loss": 1.0 + number, "R@1": 0.5}]
            (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return runs


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the plots are given, by their names; they still draw."""
    given: dict[str, Any] = {}

    def spy(name: str) -> None:
        plot = getattr(demonstration, name)

        def remembered(*arguments: Any, **options: Any) -> Any:
            given[name] = (arguments, options)
            return plot(*arguments, **options)

        monkeypatch.setattr(demonstration, name, remembered)

    for name in ("plot_curves", "plot_retrieval", "plot_derivatives"):
        spy(name)
    return given


def test_pictures_compare_what_is_comparable(runs: list[Run], drawn: dict[str, Any], tmp_path: Path) -> None:
    paths = demonstration.plot_comparison(runs, tmp_path / "pictures")

    assert [path.name for path in paths] == ["curves.png", "derivatives.png", "retrieval.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    (curves, keys), options = drawn["plot_curves"]
    assert {arm: len(rows) for arm, rows in curves.items()} == {"VICReg": 4, "VICReg + ViDiDi": 4}  # both seeds
    assert (keys, options["chance"]) == (("loss", "R@1"), 1 / 8)
    (queries, shown, _, neighbors, count), _ = drawn["plot_retrieval"]
    assert set(shown) <= set(ASKED)  # that all encoders were asked about
    assert len(set(shown)) == demonstration.QUERIES_SHOWN
    assert len({queries["label"][row] for row in shown}) == demonstration.QUERIES_SHOWN
    assert neighbors == {  # of the first seed, and of what was trained
        "VICReg": [[1, *range(1, NUM_NEIGHBORS)]] * len(shown),
        "VICReg + ViDiDi": [[2, *range(1, NUM_NEIGHBORS)]] * len(shown),
    }
    assert count == NUM_NEIGHBORS
    (clip,), _ = drawn["plot_derivatives"]
    assert clip.shape[:2] == torch.Size([4 + 2, 3])  # two frames more, for the second derivative
