"""A study from its grid to its tables. The runs execute in this process."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from studies import running
from studies.commands import run_study
from studies.records import read_records
from studies.tables import render_study


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Executes runs in this process, which saves starting others."""

    def start(run: Any, threads: int) -> SimpleNamespace:
        try:
            running.run_one(run)
        except Exception:
            return SimpleNamespace(is_alive=lambda: False, exitcode=1)
        return SimpleNamespace(is_alive=lambda: False, exitcode=0)

    monkeypatch.setattr(running, "start_process", start)


def values_of(results: Path) -> dict[str, float]:
    rows = pd.read_csv(results / "tiny.csv").query("about == 'label' and input == 'frames' and metric == 'R@1'")
    return dict(zip(rows["arm"], rows["value"]))


def test_a_study_in_parts_with_a_failure(here, tiny_study, tmp_path, capsys) -> None:
    results, runs = tmp_path / "results", tmp_path / "runs"
    folders = {"results": results, "data": tiny_study.data}

    # First one arm. Then all: one fails, and the others continue.
    assert run_study(tiny_study.path, output_dir=runs, only=["*/untrained-*"], **folders) == []
    assert list(values_of(results)) == ["untrained"]
    wrong = runs / "clips" / "vicreg-seed0"
    wrong.mkdir()
    found = json.loads((runs / "clips/untrained-seed0/configuration.json").read_text())
    (wrong / "configuration.json").write_text(json.dumps({**found, "train_share": 0.5}))
    [failed] = run_study(tiny_study.path, output_dir=runs, jobs=2, **folders)
    assert failed.run.arm == "VICReg"
    printed = capsys.readouterr().out
    assert "3 runs, 3 chosen, 1 of them done already" in printed
    assert "failed: clips/vicreg-seed0: ValueError: " in printed
    assert "2 of 3 runs are in" in printed
    assert list(values_of(results)) == ["untrained", "VICReg + ViDiDi"]
    described = json.loads((results / "tiny.json").read_text())
    assert [(failure["arm"], failure["seed"]) for failure in described["failures"]] == [("VICReg", 0)]

    # After the repair only that run is executed.
    (wrong / "configuration.json").unlink()
    assert run_study(tiny_study.path, output_dir=runs, **folders) == []
    assert "3 runs, 3 chosen, 2 of them done already" in capsys.readouterr().out
    assert list(values_of(results)) == ["untrained", "VICReg", "VICReg + ViDiDi"]
    measured = {name: (results / name).read_text() for name in ("tiny.csv", "tiny.json")}

    # Elsewhere, with the results and without the runs, nothing is left to do.
    assert run_study(tiny_study.path, output_dir=tmp_path / "elsewhere", **folders) == []
    assert "3 of them done already" in capsys.readouterr().out
    assert not list((tmp_path / "elsewhere").rglob("*.safetensors"))
    assert {name: (results / name).read_text() for name in measured} == measured

    records = read_records(results, "tiny")
    assert records is not None
    text = render_study(records, "tiny")
    assert f"| VICReg | frames | {100 * values_of(results)['VICReg']:.1f} |" in text
    assert "| VICReg + ViDiDi − VICReg | frames |" in text
