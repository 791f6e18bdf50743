"""The result of an evaluation, its report (`metrics.json`, see docs/evaluation.md), and its model-card entries."""

import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from vididi_hf.data.tables import TABLE_SUFFIXES
from vididi_hf.files import printable, write_text
from vididi_hf.reading import read_json

SCHEMA = 1
METRICS_JSON = "metrics.json"

TASKS = {
    "retrieval": ("feature-extraction", "Video retrieval", "retrieval"),
    "knn": ("video-classification", "Video classification", "k-NN"),
    "linear": ("video-classification", "Video classification", "linear probe"),
    "classification": ("video-classification", "Video classification", "fine-tuned"),
    "detection": ("object-detection", "Action detection", "fine-tuned"),
    "mteb": ("feature-extraction", "Video embedding", "MTEB"),
}
"""By task, the Hub's identifier of its kind, the name of that kind, and the method."""

_METRIC_TYPES = {"top-1": "accuracy", "top-5": "top_5_accuracy", "mean-class": "mean_class_accuracy", "mAP": "map"}
_KEYS = ("task", "dataset", "split", "protocol", "metrics", "primary_metric")


@dataclass
class EvaluationResult(Mapping[str, Any]):
    """The metrics of an evaluation and how they were measured, as a mapping of the keys of `metrics.json`."""

    task: str  # a key of `TASKS`
    metrics: dict[str, dict[str, float]]  # by input ("frames", "derivative", ...), numbers by name
    protocol: dict[str, Any]  # how they were measured
    primary: str  # the name of the metric to compare models by, one of those of the first input
    greater_is_better: bool = True
    dataset: str = "unknown"
    split: str = "test"

    @property
    def primary_metric(self) -> dict[str, Any]:
        """The number to compare models by: that of the first input."""
        first, numbers = next(iter(self.metrics.items()))
        better = {"greater_is_better": self.greater_is_better}
        return {"name": self.primary, "input": first, "value": numbers[self.primary], **better}

    def __getitem__(self, key: str) -> Any:
        if key not in _KEYS:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(_KEYS)

    def __len__(self) -> int:
        return len(_KEYS)

    def model_index(self, model: str) -> list[dict[str, Any]]:
        """Returns the entries of `model-index` in the YAML header of the model's card."""
        task_type, task_name, method = TASKS[self.task]
        entries = [
            EvalResult(
                task_type=task_type,
                task_name=task_name,
                dataset_type=self.dataset,
                dataset_name=self.dataset,
                dataset_split=self.split,
                metric_type=_METRIC_TYPES.get(name, name.lower()),
                # With the method, because a card has one entry per kind of task and split.
                metric_name=f"{name}, {method} ({shown})",
                metric_value=value,
                metric_args={"input": shown},
            )
            for shown, numbers in self.metrics.items()
            for name, value in numbers.items()
        ]
        return eval_results_to_model_index(model, entries)


def report_of(result: EvaluationResult, model: str, **facts: Any) -> dict[str, Any]:
    """Builds the content of `metrics.json`; `facts` are further keys. The card gets the name of a folder only."""
    name = Path(model).resolve().name if Path(model).exists() else model
    about = {"model": model, **facts, "versions": versions(), "model_index": result.model_index(name)}
    return {"schema": SCHEMA, **result, **about}


def versions() -> dict[str, str]:
    """Returns the versions of the libraries that the numbers depend on."""
    from vididi_hf import __version__

    libraries = {"vididi_hf": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    return {**libraries, "python": platform.python_version()}


def write_report(path: str | Path, report: dict[str, Any]) -> Path:
    """Writes a report as JSON, atomically, and returns the path. Creates the folder if needed."""
    return write_text(path, json.dumps(report, indent=2) + "\n")


def read_report(path: str | Path) -> dict[str, Any]:
    """Reads a report from its file or folder; a ValueError says why a file is not one."""
    path = Path(path)
    path = path / METRICS_JSON if path.is_dir() else path
    report = read_json(path)
    if report.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not the report of an evaluation: it has no key 'schema' with the value {SCHEMA}")
    missing = [key for key in (*_KEYS, "model_index") if key not in report]
    if missing:
        raise ValueError(f"{path} is not the report of an evaluation: it lacks {', '.join(missing)}")
    return report


def collect_eval_results(reports: Iterable[Mapping[str, Any]]) -> list[EvalResult]:
    """Collects the entries of several reports for one model card: `ModelCardData(eval_results=...)`."""
    return [entry for report in reports for entry in model_index_to_eval_results(report["model_index"])[1]]


def dataset_name(name: str | Path) -> str:
    """Returns a data set's name for readers: that of its folder, without the path, or `name` itself."""
    path = Path(name).expanduser()
    if path.suffix.lower() in (".tar", *TABLE_SUFFIXES):
        return printable(path.resolve().parent.name)
    return printable(path.resolve().name if path.is_dir() else str(name))
