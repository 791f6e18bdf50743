"""The results of a study: `<grid>.csv` holds every number of every run, `<grid>.json` what produced them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from studies.grid import Grid
from studies.runs import FAILURE_JSON, Run, differences
from vididi_hf.files import write_text

SCHEMA = 1
KEY = ("dataset", "arm", "seed")
COLUMNS = [*KEY, "about", "input", "metric", "value"]
RunKey = tuple[str, str, int]


@dataclass
class Records:
    """The results of a study, by data set and arm (and seed)."""

    grid: dict[str, Any]
    configurations: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[RunKey, dict[str, Any]] = field(default_factory=dict)  # metrics, chance, curve, versions
    failures: dict[RunKey, str] = field(default_factory=dict)

    def scores(self) -> pd.DataFrame:
        """Returns every number of every run, one per row, in the order of the grid."""
        return score_table({**_named(key), **self.runs[key]} for key in self._in_order(self.runs))

    def missing(self) -> list[RunKey]:
        """Lists the runs of the grid without a result."""
        seeds = self.grid["seeds"]
        wanted = [(dataset, arm, s) for dataset in self.grid["datasets"] for arm in self.grid["arms"] for s in seeds]
        return [key for key in wanted if key not in self.runs]

    def holds(self, run: Run) -> bool:
        """Whether a result with the configuration and protocol of a run is here."""
        if (run.dataset, run.arm, run.seed) not in self.runs:
            return False
        same = run.protocol.agrees_with(self.protocols[run.dataset])
        return same and not differences(self.configurations[run.dataset][run.arm], run.configuration())

    def result(self, run: Run) -> dict[str, Any]:
        """Returns the content of `result.json` of a run that `holds`."""
        key = (run.dataset, run.arm, run.seed)
        described = {
            "configuration": self.configurations[run.dataset][run.arm],
            "protocol": self.protocols[run.dataset],
        }
        return {**_named(key), **described, **self.runs[key]}

    def add(self, result: dict[str, Any]) -> None:
        """Adds the content of `result.json`."""
        dataset, arm = result["dataset"], result["arm"]
        self.configurations.setdefault(dataset, {})[arm] = result["configuration"]
        self.protocols[dataset] = result["protocol"]
        kept = {name: result[name] for name in ("metrics", "chance", "curve", "versions")}
        self.runs[dataset, arm, result["seed"]] = kept

    def write(self, folder: str | Path, name: str) -> None:
        """Writes `<name>.csv` and `<name>.json` into a folder."""
        table = self.scores().to_csv(index=False, float_format="%.6f", lineterminator="\n")
        described = {
            "schema": SCHEMA,
            "grid": self.grid,
            "protocols": self.protocols,
            "configurations": self.configurations,
            "runs": [
                {**_named(key), **{name: value for name, value in self.runs[key].items() if name != "metrics"}}
                for key in self._in_order(self.runs)
            ],
            "failures": [{**_named(key), "error": self.failures[key]} for key in self._in_order(self.failures)],
        }
        write_text(Path(folder) / f"{name}.csv", table)
        write_text(Path(folder) / f"{name}.json", json.dumps(described, indent=1, ensure_ascii=False) + "\n")

    def _in_order(self, keys: Iterable[RunKey]) -> list[RunKey]:
        datasets, arms, seeds = list(self.grid["datasets"]), list(self.grid["arms"]), self.grid["seeds"]
        return sorted(keys, key=lambda key: (datasets.index(key[0]), arms.index(key[1]), seeds.index(key[2])))


def score_table(results: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Returns the numbers of results, one per row: `metric` for the question `about` when the encoder saw `input`."""
    rows = [
        (*(result[name] for name in KEY), about, shown, metric, value)
        for result in results
        for about, inputs in result["metrics"].items()
        for shown, numbers in inputs.items()
        for metric, value in numbers.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def collect(grid: Grid, runs: Sequence[Run], earlier: Sequence[Records]) -> Records:
    """Gathers the results of a grid: those of its runs, then those of earlier records, the first of which counts."""
    records = Records(asdict(grid))
    for run in runs:
        if (result := run.result()) is not None:
            records.add(result)
        elif (holder := next((each for each in earlier if each.holds(run)), None)) is not None:
            records.add(holder.result(run))
        elif (failure := run.read(FAILURE_JSON)) is not None:
            records.failures[run.dataset, run.arm, run.seed] = failure["error"]
    return records


def read_records(folder: str | Path, name: str) -> Records | None:
    """Reads the results of a study, or returns None if there are none.

    Raises:
        ValueError: If the file holds something else.
    """
    path = Path(folder) / f"{name}.json"
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise ValueError(f"{path} holds no results of a study: its key 'schema' is not {SCHEMA}")
    records = Records(values["grid"], values["configurations"], values["protocols"])
    for run in values["runs"]:
        key = (run.pop("dataset"), run.pop("arm"), run.pop("seed"))
        records.runs[key] = {"metrics": {}, **run}
    for failure in values["failures"]:
        records.failures[failure["dataset"], failure["arm"], failure["seed"]] = failure["error"]
    table = pd.read_csv(path.with_suffix(".csv"), float_precision="round_trip")
    for dataset, arm, seed, about, shown, metric, value in table.itertuples(index=False):
        if (run := records.runs.get((dataset, arm, seed))) is not None:  # else a kill came before the JSON file
            run["metrics"].setdefault(about, {}).setdefault(shown, {})[metric] = value
    return records


def read_all_records(folder: str | Path, first: str = "") -> dict[str, Records]:
    """Reads the results of every study in a folder, by name; those of `first` come first."""
    names = sorted((path.stem for path in Path(folder).glob("*.json")), key=lambda name: (name != first, name))
    return {name: records for name in names if (records := read_records(folder, name)) is not None}


def _named(key: RunKey) -> dict[str, Any]:
    return dict(zip(KEY, key))
