"""Results are read back as they were written, kept where runs are gone, and dropped where grids have changed."""

import json
from pathlib import Path

import pandas as pd
import pytest

from studies.grid import read_grid
from studies.records import Records, collect, read_records
from studies.runs import Run

STUDIES = Path(__file__).parents[2] / "studies"
RESULTS = STUDIES / "results"
GRIDS = sorted(
    path for path in STUDIES.glob("**/*.json") if (path.parent != RESULTS and (RESULTS / f"{path.stem}.csv").exists())
)


def finish(run: Run, value: float) -> None:
    """Puts the result of a run into its folder, without having trained it."""
    run.folder.mkdir(parents=True, exist_ok=True)
    numbers = {shown: {"R@1": value, "R@5": 1.0} for shown in run.protocol.inputs}
    result = {
        "dataset": run.dataset,
        "arm": run.arm,
        "seed": run.seed,
        "configuration": run.configuration(),
        "protocol": vars(run.protocol),
        "metrics": {"label": numbers, "background": numbers},
        "chance": {"label": 0.125, "background": 0.05},
        "curve": [{"epoch": 1, "loss": 2.0, "R@1": value}] if run.trained else [],
        "versions": {"vididi_hf": "0", "commit": None},
    }
    (run.folder / "result.json").write_text(json.dumps(result))


def recalls(records: Records) -> dict[str, float]:
    rows = records.scores().query("about == 'label' and input == 'frames' and metric == 'R@1'")
    return dict(zip(rows["arm"], rows["value"]))


def test_results_are_read_back_as_they_were_written(tiny_study, tmp_path: Path) -> None:
    grid, runs = tiny_study.grid(seeds=[0, 1]), tiny_study.plan(tmp_path / "out", seeds=[0, 1])
    for number, run in enumerate(runs[:4]):
        finish(run, number / 8)
    runs[4].folder.mkdir(parents=True)
    (runs[4].folder / "failure.json").write_text('{"error": "ValueError: no", "traceback": "…"}')
    records = collect(grid, runs, [])
    records.write(tmp_path / "results", "tiny")
    table, described = (tmp_path / "results" / f"tiny.{suffix}" for suffix in ("csv", "json"))
    again = read_records(tmp_path / "results", "tiny")
    assert again is not None
    assert again.scores().equals(records.scores())
    assert (again.runs, again.failures, again.configurations) == (
        records.runs,
        records.failures,
        records.configurations,
    )
    assert again.failures == {("clips", "VICReg", 1): "ValueError: no"}
    assert again.missing() == [("clips", "VICReg", 1), ("clips", "VICReg + ViDiDi", 1)]
    rows = pd.read_csv(table)
    assert len(rows) == 4 * 2 * 2 * 2  # runs, questions, inputs, metrics
    found = rows.query("arm == 'untrained' and seed == 1 and about == 'label' and input == 'both' and metric == 'R@1'")
    assert found["value"].tolist() == [0.375]
    # Nothing tells where it was measured.
    assert str(tmp_path) not in table.read_text() + described.read_text()
    assert str(tiny_study.data) not in described.read_text()
    assert json.loads(described.read_text())["configurations"]["clips"]["VICReg"]["recipe"]["image_size"] == 32
    again.write(tmp_path / "again", "tiny")
    for path in (table, described):
        assert (tmp_path / "again" / path.name).read_text() == path.read_text()


@pytest.mark.parametrize(
    "changes", [{"recipe": {"epochs": 9}}, {"evaluation": {"inputs": ["frames"]}}, {"validation": True}, {"seeds": [7]}]
)
def test_results_of_another_study_do_not_stay(tiny_study, tmp_path: Path, changes: dict) -> None:
    there = tiny_study.plan(tmp_path / "there")
    for run in there:
        finish(run, 0.5)
    earlier = collect(tiny_study.grid(), there, [])
    changed = tiny_study.plan(tmp_path / "here", **changes)
    assert not any(earlier.holds(run) for run in changed)
    records = collect(tiny_study.grid(**changes), changed, [earlier])
    assert records.runs == {}
    assert len(records.missing()) == 3


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_the_results_of_earlier_versions_count_as_done(path: Path) -> None:
    """They have old field names, such as `schedule`, and lack newer fields."""
    records = read_records(RESULTS, path.stem)
    assert records is not None
    missing = records.missing()
    for run in read_grid(path).plan("runs", "data"):
        assert records.holds(run) == ((run.dataset, run.arm, run.seed) not in missing)
