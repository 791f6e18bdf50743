"""A study from its command line to its page; runs are computed in this process."""

import csv
import importlib.util
import json
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from studies import running
from studies.report import markers

SCRIPT = Path(__file__).parents[2] / "scripts" / "study.py"


@pytest.fixture
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("study_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computes runs in this process, which spares the start of others."""

    class Inline:
        def __init__(self, *_: Any, **__: Any):
            pass

        def submit(self, function: Any, *arguments: Any) -> Future:
            future: Future = Future()
            try:
                future.set_result(function(*arguments))
            except Exception as error:
                future.set_exception(error)
            return future

        def shutdown(self, **_: Any) -> None:
            pass

    monkeypatch.setattr(running, "ProcessPoolExecutor", Inline)


def values_of(results: Path) -> dict[str, float]:
    with (results / "tiny.csv").open(newline="") as file:
        return {
            row["arm"]: float(row["value"])
            for row in csv.DictReader(file)
            if (row["about"], row["input"], row["metric"]) == ("label", "frames", "R@1")
        }


def test_a_study_in_parts_with_a_failure_and_its_page(
    script, here: None, tiny_study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, runs = tmp_path / "results", tmp_path / "runs"
    command = [str(tiny_study.path), "--data", str(tiny_study.data), "--results", str(results)]
    command_here = [*command, "--output_dir", str(runs)]

    # One part. Then all, of which one fails and the others do not suffer.
    script.main([*command_here, "--only", "*/untrained-*"])
    assert list(values_of(results)) == ["untrained"]
    wrong = runs / "clips" / "vicreg-seed0"
    wrong.mkdir()
    (wrong / "configuration.json").write_text(
        json.dumps({**json.loads((runs / "clips/untrained-seed0/configuration.json").read_text()), "train_share": 0.5})
    )
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        script.main([*command_here, "--jobs", "2"])
    assert caught.value.code == 1
    printed = capsys.readouterr().out
    assert "3 runs, 3 chosen, 1 of them done already" in printed
    assert "failed: clips/vicreg-seed0: ValueError: " in printed
    assert "2 of 3 runs are in" in printed
    assert list(values_of(results)) == ["untrained", "VICReg + ViDiDi"]
    described = json.loads((results / "tiny.json").read_text())
    [failure] = described["failures"]
    assert (failure["arm"], failure["seed"]) == ("VICReg", 0)
    assert described["command"] == "python scripts/study.py studies/tiny.json --data DATA"

    # What was wrong is put right: only that run is run.
    (wrong / "configuration.json").unlink()
    script.main(command_here)
    assert "3 runs, 3 chosen, 2 of them done already" in capsys.readouterr().out
    assert list(values_of(results)) == ["untrained", "VICReg", "VICReg + ViDiDi"]
    measured = {name: (results / name).read_text() for name in ("tiny.csv", "tiny.json")}

    # On another machine, with the results and without the runs, nothing is left to do.
    script.main([*command, "--output_dir", str(tmp_path / "elsewhere")])
    assert "3 of them done already" in capsys.readouterr().out
    assert not list((tmp_path / "elsewhere").rglob("*.safetensors"))
    assert {name: (results / name).read_text() for name in measured} == measured

    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("# A page\n\n{}\n{}\n".format(*markers("tiny")))
    script.main([str(tiny_study.path), "--results", str(results), "--report", "--page", str(page)])
    text = page.read_text()
    assert f"| VICReg | frames | {100 * values_of(results)['VICReg']:.1f} |" in text
    assert "| VICReg + ViDiDi − VICReg | frames |" in text
    for picture in ("study-tiny.png", "study-tiny-clips.png"):
        assert f"(images/{picture})" in text
        assert (page.parent / "images" / picture).read_bytes().startswith(b"\x89PNG")


def test_a_validation_study_asks_about_training_videos(script, here: None, tiny_study, tmp_path: Path) -> None:
    tiny_study.declare(
        validation=True,
        arms={f"rate {rate}": {"recipe": {"learning_rate": rate}, "series": "VICReg"} for rate in (0.01, 0.1)},
        comparisons=[],
        evaluation={"inputs": ["frames"], "num_clips": 1, "linear": False},
    )
    results = tmp_path / "results"
    command = [str(tiny_study.path), "--data", str(tiny_study.data), "--results", str(results)]
    script.main([*command, "--output_dir", str(tmp_path / "runs")])
    assert set(values_of(results)) == {"rate 0.01", "rate 0.1"}
    report = json.loads((tmp_path / "runs/clips-validation/rate-0.1-seed0/metrics.json").read_text())
    assert (report["protocol"]["gallery_videos"], report["protocol"]["query_videos"]) == (8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json"], "nowhere.json"),
        (
            ["{grid}", "--data", "{data}", "--only", "byol*"],
            "no run is called 'byol*'; there are clips/untrained-seed0",
        ),
        (["{grid}"], "clips is no built-in data set: say with --data which folder holds clips.csv"),
        (["{grid}", "--jobs", "0"], "jobs must be at least 1, got 0"),
        (["{grid}", "--jbos", "1"], "unrecognized arguments: --jbos 1"),
    ],
)
def test_mistakes_cost_one_line(
    script, tiny_study, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    filled = [argument.format(grid=tiny_study.path, data=tiny_study.data) for argument in arguments]
    with pytest.raises(SystemExit) as caught:
        script.main([*filled, "--results", str(tmp_path / "results"), "--output_dir", str(tmp_path / "runs")])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
