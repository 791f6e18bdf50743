"""What a study leaves behind: `<grid>.csv` with every number of every run, `<grid>.json` with all that made them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from studies.grid import Grid
from studies.runs import Run, differences
from studies.statistics import Score, scores_of
from vididi_hf.files import write_text

SCHEMA = 1
RunKey = tuple[str, str, int]
"""Data set, arm, seed."""


@dataclass
class Records:
    """The results of a study.

    Attributes:
        grid: The grid, as it was declared.
        command: What was typed.
        configurations: By data set and arm, all that decided the weights but the seed.
        protocols: By data set, how encoders were evaluated.
        runs: By data set, arm and seed, the results, as `result.json` has them, without what stands here already.
        failures: By data set, arm and seed, why a run has no result.
    """

    grid: dict[str, Any]
    command: str
    configurations: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[RunKey, dict[str, Any]] = field(default_factory=dict)
    failures: dict[RunKey, str] = field(default_factory=dict)

    def scores(self) -> list[Score]:
        """Returns every number of every run, in the order of the grid."""
        return [
            score for key in _ordered(self.runs, self.grid) for score in scores_of({**_named(key), **self.runs[key]})
        ]

    def missing(self) -> list[RunKey]:
        """Lists the runs of the grid that have no result."""
        wanted = [
            (dataset, arm, seed)
            for dataset in self.grid["datasets"]
            for arm in self.grid["arms"]
            for seed in self.grid["seeds"]
        ]
        return [key for key in wanted if key not in self.runs]

    def holds(self, run: Run) -> bool:
        """Whether a run has a result here, of its very configuration and protocol."""
        if (run.dataset, run.arm, run.seed) not in self.runs:
            return False
        same = run.protocol.agrees_with(self.protocols[run.dataset])
        return same and not differences(self.configurations[run.dataset][run.arm], run.configuration())

    def result(self, run: Run) -> dict[str, Any]:
        """Returns what `result.json` of a run held that has a result here."""
        key = (run.dataset, run.arm, run.seed)
        return {
            **_named(key),
            "configuration": self.configurations[run.dataset][run.arm],
            "protocol": self.protocols[run.dataset],
            **self.runs[key],
        }

    def add(self, result: dict[str, Any]) -> None:
        """Adds what `result.json` of a run holds."""
        dataset, arm = result["dataset"], result["arm"]
        self.configurations.setdefault(dataset, {})[arm] = result["configuration"]
        self.protocols[dataset] = result["protocol"]
        kept = {name: result[name] for name in ("metrics", "chance", "curve", "versions")}
        self.runs[dataset, arm, result["seed"]] = kept
        self.failures.pop((dataset, arm, result["seed"]), None)


def collect(grid: Grid, runs: Sequence[Run], earlier: Sequence[Records], command: str) -> Records:
    """Gathers the results of a grid.

    Args:
        grid: The grid.
        runs: All its runs, finished or not.
        earlier: What was recorded before, perhaps elsewhere or for another grid: the first that holds a run which has
            no result here, of the same configuration and protocol, speaks for it.
        command: What was typed.
    """
    records = Records(asdict(grid), command)
    for run in runs:
        if (result := run.result()) is not None:
            records.add(result)
        elif (holder := next((each for each in earlier if each.holds(run)), None)) is not None:
            records.add(holder.result(run))
        elif (failure := run.failure()) is not None:
            records.failures[run.dataset, run.arm, run.seed] = failure["error"]
    return records


def write_records(records: Records, folder: str | Path, name: str) -> list[Path]:
    """Writes `<name>.csv` and `<name>.json` into a folder.

    Returns:
        Their paths.
    """
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(Score._fields)
    for score in records.scores():
        writer.writerow([*score[:-1], f"{score.value:.6f}"])
    order = _ordered({**records.runs, **records.failures}, records.grid)
    described = {
        "schema": SCHEMA,
        "grid": records.grid,
        "command": records.command,
        "protocols": records.protocols,
        "configurations": records.configurations,
        "runs": [
            {**_named(key), **{name: value for name, value in records.runs[key].items() if name != "metrics"}}
            for key in order
            if key in records.runs
        ],
        "failures": [{**_named(key), "error": records.failures[key]} for key in order if key in records.failures],
    }
    folder = Path(folder)
    return [
        write_text(folder / f"{name}.csv", table.getvalue()),
        write_text(folder / f"{name}.json", json.dumps(described, indent=1, ensure_ascii=False) + "\n"),
    ]


def read_records(folder: str | Path, name: str) -> Records | None:
    """Reads what `write_records` has written; None where there is nothing.

    Raises:
        ValueError: If it is no such file, or one of another version.
    """
    path = Path(folder) / f"{name}.json"
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise ValueError(f"{path} holds no results of a study: it has no key 'schema' with the value {SCHEMA}")
    records = Records(values["grid"], values["command"], values["configurations"], values["protocols"])
    for run in values["runs"]:
        key = (run.pop("dataset"), run.pop("arm"), run.pop("seed"))
        records.runs[key] = {"metrics": {}, **run}
    for failure in values["failures"]:
        records.failures[failure["dataset"], failure["arm"], failure["seed"]] = failure["error"]
    with path.with_suffix(".csv").open(newline="") as file:
        for row in csv.DictReader(file):
            metrics = records.runs[row["dataset"], row["arm"], int(row["seed"])]["metrics"]
            numbers = metrics.setdefault(row["about"], {}).setdefault(row["input"], {})
            numbers[row["metric"]] = float(row["value"])
    return records


def read_all_records(folder: str | Path, first: str) -> list[Records]:
    """Reads the results of every study in a folder, those of one grid before the others.

    Raises:
        ValueError: If a JSON file there is no such file.
    """
    names = sorted((path.stem for path in Path(folder).glob("*.json")), key=lambda name: (name != first, name))
    return [records for name in names if (records := read_records(folder, name)) is not None]


def _named(key: RunKey) -> dict[str, Any]:
    return dict(zip(("dataset", "arm", "seed"), key))


def _ordered(keys: Iterable[RunKey], grid: dict[str, Any]) -> list[RunKey]:
    """Sorts runs as the grid declares them."""
    datasets, arms, seeds = list(grid["datasets"]), list(grid["arms"]), grid["seeds"]
    return sorted(keys, key=lambda key: (datasets.index(key[0]), arms.index(key[1]), seeds.index(key[2])))
