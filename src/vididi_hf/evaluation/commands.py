"""The commands `vididi evaluate ...`: they load, evaluate, write the report and print a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pandas as pd

from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.detection.sources import load_test_rows
from vididi_hf.detection_vididi import ViDiDiForActionDetection
from vididi_hf.evaluation.classification import ClassificationEvaluator
from vididi_hf.evaluation.detection import build_evaluator, write_results
from vididi_hf.evaluation.features import FrozenEvaluator
from vididi_hf.evaluation.knn import KNNEvaluator
from vididi_hf.evaluation.linear import LinearEvaluator
from vididi_hf.evaluation.loading import load_encoder
from vididi_hf.evaluation.options import (
    ClassificationOptions,
    DetectionOptions,
    FrozenOptions,
    KNNOptions,
    LinearOptions,
    RetrievalOptions,
)
from vididi_hf.evaluation.results import METRICS_JSON, EvaluationResult, dataset_name, report_of, write_report
from vididi_hf.evaluation.retrieval import RetrievalEvaluator, RetrievalResult
from vididi_hf.visualization import choose_queries, plot_retrieval, save_figure

PICTURE = "retrieval.png"


def evaluate_retrieval(options: RetrievalOptions) -> None:
    """Runs `vididi evaluate retrieval`."""
    output = json_path(options.output)
    evaluator, result = _evaluate_frozen(options, RetrievalEvaluator)
    _write_frozen(options, result)
    if options.gallery_queries > 0:
        picture = output.with_name(PICTURE) if output.name == METRICS_JSON else output.with_suffix(".png")
        _draw(options, result, evaluator.queries, evaluator.gallery, picture)


def evaluate_knn(options: KNNOptions) -> None:
    """Runs `vididi evaluate knn`."""
    _, result = _evaluate_frozen(options, KNNEvaluator, k=options.k, temperature=options.temperature)
    _write_frozen(options, result)


def evaluate_linear(options: LinearOptions) -> None:
    """Runs `vididi evaluate linear`."""
    _, result = _evaluate_frozen(options, LinearEvaluator, C=options.C, seed=options.seed)
    _write_frozen(options, result)


def evaluate_classification(options: ClassificationOptions) -> None:
    """Runs `vididi evaluate classification`."""
    model, processor = load_encoder(options, ViDiDiForVideoClassification)
    rows = load_video_dataset(options.dataset, root=options.dataset_root, split=options.split)
    shared = {**_shared_settings(options), "num_clips": options.num_clips, "split": options.split}
    result = ClassificationEvaluator(rows, processor, **shared)(model)
    write_report(json_path(options.output), report_of(result, options.model, **_facts(options)))
    print(f"{result.protocol['videos']} videos, {result.protocol['classes']} classes")
    _print_metrics(result)


def evaluate_detection(options: DetectionOptions) -> None:
    """Runs `vididi evaluate detection`."""
    model, processor = load_encoder(options, ViDiDiForActionDetection)
    rows = load_test_rows(options, options.dataset, options.dataset_root, options.split)
    output = Path(options.output)
    evaluator = build_evaluator(options, rows, processor, output, **_shared_settings(options), split=options.split)
    result = evaluator(model)
    write_results(output, evaluator, result, options.model, _facts(options))
    print(f"{result.protocol['key_frames']} key frames, {result.protocol['boxes']} boxes")
    _print_metrics(result)


def json_path(output: str) -> Path:
    """Returns the file of the report: `output` itself if it is a `.json` file, otherwise `metrics.json` in it."""
    path = Path(output)
    return path if path.suffix == ".json" else path / METRICS_JSON


def format_table(metrics: dict[str, dict[str, float]]) -> str:
    """Formats metrics as an aligned table with one row per input."""
    table = pd.DataFrame.from_dict(metrics, orient="index").rename_axis(columns="input")
    return table.to_string(float_format="{:.3f}".format)


def print_failed(result: EvaluationResult) -> None:
    """Prints the videos that could not be decoded."""
    if failed := result.protocol["failed_videos"]:
        print(f"{len(failed)} videos could not be decoded and are skipped: {', '.join(failed)}")


def _evaluate_frozen(
    options: FrozenOptions, kind: type[FrozenEvaluator], **settings: Any
) -> tuple[FrozenEvaluator, Any]:
    model, processor = load_encoder(options)
    gallery = load_video_dataset(options.dataset, root=options.dataset_root, split=options.gallery_split)
    queries = gallery
    if not options.group_column:
        queries = load_video_dataset(options.dataset, root=options.dataset_root, split=options.query_split)
    evaluator: Any = kind(
        gallery,
        queries,
        processor,
        **_shared_settings(options),
        num_clips=options.num_clips,
        group_column=options.group_column,
        split=_query_split(options),
        **settings,
    )
    return evaluator, evaluator(model)


def _write_frozen(options: RetrievalOptions | KNNOptions | LinearOptions, result: EvaluationResult) -> None:
    result.protocol |= {"gallery_split": options.gallery_split, "query_split": _query_split(options)}
    write_report(json_path(options.output), report_of(result, options.model, **_facts(options)))
    shown = result.protocol
    print(f"{shown['query_videos']} queries, {shown['gallery_videos']} gallery videos, {shown['classes']} classes")
    _print_metrics(result)


def _query_split(options: FrozenOptions) -> str:
    return options.gallery_split if options.group_column else options.query_split


def _shared_settings(options: Any) -> dict[str, Any]:
    """Returns the arguments that all evaluators take."""
    names = ("inputs", "batch_size", "num_workers", "progress")
    return {**{name: getattr(options, name) for name in names}, "dataset": dataset_name(options.dataset)}


def _facts(options: Any) -> dict[str, Any]:
    return {"random_init": options.random_init, "seed": options.seed, "source": options.dataset}


def _print_metrics(result: EvaluationResult) -> None:
    print(format_table(result.metrics))
    print_failed(result)


def _draw(
    options: RetrievalOptions, result: RetrievalResult, queries: datasets.Dataset, gallery: datasets.Dataset, path: Path
) -> None:
    """Draws a few queries with their neighbors, one row per input."""
    shown = choose_queries(result.queries.labels(queries), options.gallery_queries, options.seed)
    figure = plot_retrieval(
        queries,
        result.queries.rows[shown],
        gallery,
        {name: neighbors[shown] for name, neighbors in result.neighbors.items()},
        title=f"{Path(options.model).name}{' (random weights)' if options.random_init else ''}: nearest videos",
    )
    save_figure(figure, path)
