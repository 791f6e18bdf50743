"""What the scripts that evaluate frozen encoders share: which videos, and what is written and printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from vididi_hf.data.registry import ALL_ROWS, load_video_dataset
from vididi_hf.evaluation.arguments import EncoderArguments
from vididi_hf.evaluation.inputs import INPUTS
from vididi_hf.evaluation.results import METRICS_JSON, EvaluationResult, dataset_name, report_of, write_report
from vididi_hf.options import option


@dataclass(kw_only=True)
class FrozenArguments(EncoderArguments):
    """The command line of an evaluation of a frozen encoder."""

    dataset: str = option(
        help="A set in docs/datasets.md, a folder of videos, a CSV or Parquet list, a saved data set, or a Hub id."
    )
    dataset_root: str | None = option(default=None, help="Where a built-in set lies or is made: docs/datasets.md.")
    gallery_split: str = option(
        default="train", help=f"The split that is searched or learnt from; {ALL_ROWS!r} takes all rows."
    )
    query_split: str = option(default="test", help="The split that is asked about.")
    group_column: str | None = option(
        default=None,
        help="A column, such as the recording a video was cut from. Then every video of gallery_split is a query and "
        "is compared with those that differ from it in this column; query_split is not used.",
    )
    inputs: list[str] = option(
        default_factory=lambda: list(INPUTS), help=f"What the encoder is shown: some of {', '.join(INPUTS)}."
    )
    progress: bool = option(default=True, help="Show progress bars.")

    def datasets(self) -> tuple[datasets.Dataset, datasets.Dataset]:
        """Loads gallery and queries; one data set, given twice, where a column is left out."""
        gallery = load_video_dataset(self.dataset, root=self.dataset_root, split=self.gallery_split)
        if self.group_column:
            return gallery, gallery
        return gallery, load_video_dataset(self.dataset, root=self.dataset_root, split=self.query_split)

    def settings(self) -> dict[str, Any]:
        """Returns the keyword arguments that every evaluator of a frozen encoder takes."""
        return {
            "inputs": self.inputs,
            "num_clips": self.num_clips,
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "progress": self.progress,
            "group_column": self.group_column,
            "dataset": dataset_name(self.dataset),
            "split": self.gallery_split if self.group_column else self.query_split,
        }

    def report(self, result: EvaluationResult) -> dict[str, Any]:
        """Collects what the JSON file holds: the numbers, and all that is needed to measure them again."""
        splits = {"gallery_split": self.gallery_split}
        splits["query_split"] = self.gallery_split if self.group_column else self.query_split
        result.protocol |= splits
        return report_of(result, self.model, random_init=self.random_init, seed=self.seed, source=self.dataset)


def json_path(output: str) -> Path:
    """Where numbers are written: `output` itself if it is a `.json` file, or else `metrics.json` in that folder."""
    path = Path(output)
    return path if path.suffix == ".json" else path / METRICS_JSON


def finish(arguments: FrozenArguments, result: EvaluationResult, path: Path) -> None:
    """Writes the report, and prints what it says."""
    write_report(path, arguments.report(result))
    protocol = result.protocol
    print(f"{protocol['query_videos']} queries, {protocol['gallery_videos']} videos, {protocol['classes']} classes")
    print(format_table(result.metrics))
    print_failed(result)


def print_failed(result: EvaluationResult) -> None:
    """Names the videos that could not be decoded."""
    if failed := result.protocol["failed_videos"]:
        print(f"{len(failed)} videos could not be decoded and are left out: {', '.join(failed)}")


def format_table(metrics: dict[str, dict[str, float]]) -> str:
    """Formats metrics as an aligned table, one line per input."""
    names = list(next(iter(metrics.values())))
    first = max(map(len, ["input", *metrics]))
    widths = [max(8, len(name) + 2) for name in names]
    lines = [f"{'input':<{first}}" + "".join(f"{name:>{width}}" for name, width in zip(names, widths))]
    for name, values in metrics.items():
        numbers = (f"{value:>{width}.3f}" for value, width in zip(values.values(), widths))
        lines.append(f"{name:<{first}}" + "".join(numbers))
    return "\n".join(lines)
