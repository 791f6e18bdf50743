"""The commands `vididi evaluate ...`: they load, evaluate, write the report and print a table."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
from vididi_hf.evaluation.motion import interpret, motion_benchmark, page, plot
from vididi_hf.evaluation.mteb_adapter import MTEBEncoder, evaluate_task, find_tasks
from vididi_hf.evaluation.options import (
    ClassificationOptions,
    DetectionOptions,
    FrozenOptions,
    KNNOptions,
    LinearOptions,
    MotionOptions,
    MTEBOptions,
    RetrievalOptions,
)
from vididi_hf.evaluation.results import METRICS_JSON, EvaluationResult, dataset_name, report_of, versions, write_report
from vididi_hf.evaluation.retrieval import RetrievalEvaluator
from vididi_hf.files import printable, write_text
from vididi_hf.visualization import choose_queries, plot_retrieval, save_figure


def evaluate_retrieval(options: RetrievalOptions) -> None:
    """Runs `vididi evaluate retrieval`."""
    evaluator, result = _evaluate_frozen(options, options.output, RetrievalEvaluator)
    if options.gallery_queries > 0:
        shown = choose_queries(result.queries.labels(evaluator.queries), options.gallery_queries, options.seed)
        neighbors = {name: found[shown] for name, found in result.neighbors.items()}
        title = f"{Path(options.model).name}{' (random weights)' if options.random_init else ''}: nearest videos"
        rows = result.queries.rows[shown]
        figure = plot_retrieval(evaluator.queries, rows, evaluator.gallery, neighbors, title=title)
        path = json_path(options.output)
        save_figure(figure, path.with_name("retrieval.png" if path.name == METRICS_JSON else f"{path.stem}.png"))


def evaluate_knn(options: KNNOptions) -> None:
    """Runs `vididi evaluate knn`."""
    _evaluate_frozen(options, options.output, KNNEvaluator, k=options.k, temperature=options.temperature)


def evaluate_linear(options: LinearOptions) -> None:
    """Runs `vididi evaluate linear`."""
    _evaluate_frozen(options, options.output, LinearEvaluator, C=options.C, seed=options.seed)


def evaluate_classification(options: ClassificationOptions) -> None:
    """Runs `vididi evaluate classification`."""
    model, processor = load_encoder(options, ViDiDiForVideoClassification)
    rows = load_video_dataset(options.dataset, **options.place(), split=options.split)
    shared = {**_shared_settings(options), "num_clips": options.num_clips, "split": options.split}
    result = ClassificationEvaluator(rows, processor, **shared)(model)
    write_report(json_path(options.output), report_of(result, options.model, **_facts(options)))
    _print(result, f"{result.protocol['videos']} videos, {result.protocol['classes']} classes")


def evaluate_detection(options: DetectionOptions) -> None:
    """Runs `vididi evaluate detection`."""
    model, processor = load_encoder(options, ViDiDiForActionDetection)
    rows = load_test_rows(options, options.dataset, options.split, **options.place())
    output = Path(options.output)
    evaluator = build_evaluator(options, rows, processor, output, **_shared_settings(options), split=options.split)
    result = evaluator(model)
    write_results(output, evaluator, result, options.model, _facts(options))
    _print(result, f"{result.protocol['key_frames']} key frames, {result.protocol['boxes']} boxes")


def evaluate_motion(options: MotionOptions) -> None:
    """Runs `vididi evaluate motion`."""
    model, processor = load_encoder(options)
    names = ("num_gallery", "num_queries", "batch_size", "seed", "progress")
    table = motion_benchmark(model, processor, **{name: getattr(options, name) for name in names})
    text = page(table, interpret(table, options.num_queries), options.model)
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    content = {"options": asdict(options), "versions": versions(), "rows": table.to_dict("records")}
    write_text(output / "motion.json", json.dumps(content, indent=1) + "\n")
    save_figure(plot(table), output / "motion.png")
    write_text(output / "motion.md", text)
    print(f"{text.rsplit('![', 1)[0]}wrote {output / 'motion.md'}")


def evaluate_mteb(options: MTEBOptions) -> None:
    """Runs `vididi evaluate mteb`."""
    tasks = find_tasks(options.tasks)
    model, processor = load_encoder(options)
    clips = options.num_clips, options.num_workers
    encoders = {inputs: MTEBEncoder(model, processor, inputs, *clips) for inputs in options.inputs}
    output = Path(options.output_dir)
    for task in tasks:
        for result in evaluate_task(encoders, task, output / "mteb_results", options.batch_size, options.progress):
            report = report_of(result, options.model, random_init=options.random_init, seed=options.seed)
            write_report(output / f"{result.dataset}-{result.split}.json", report)
            print(f"{result.dataset}, split {result.split}\n{format_table(result.metrics)}")


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
        print(f"{len(failed)} videos could not be decoded and are skipped: {printable(', '.join(failed))}")


def _evaluate_frozen(
    options: FrozenOptions, output: str, kind: type[FrozenEvaluator], **settings: Any
) -> tuple[FrozenEvaluator, Any]:
    model, processor = load_encoder(options)
    gallery = load_video_dataset(options.dataset, **options.place(), split=options.gallery_split)
    split = options.gallery_split if options.group_column else options.query_split
    queries = gallery if options.group_column else load_video_dataset(options.dataset, **options.place(), split=split)
    settings |= {**_shared_settings(options), "num_clips": options.num_clips, "group_column": options.group_column}
    evaluator: Any = kind(gallery, queries, processor, **settings, split=split)
    result = evaluator(model)
    result.protocol |= {"gallery_split": options.gallery_split, "query_split": split}
    write_report(json_path(output), report_of(result, options.model, **_facts(options)))
    counts = [result.protocol[name] for name in ("query_videos", "gallery_videos", "classes")]
    _print(result, "{} queries, {} gallery videos, {} classes".format(*counts))
    return evaluator, result


def _shared_settings(options: Any) -> dict[str, Any]:
    """Returns the arguments that all evaluators take."""
    names = ("inputs", "batch_size", "num_workers", "progress")
    return {**{name: getattr(options, name) for name in names}, "dataset": dataset_name(options.dataset)}


def _facts(options: Any) -> dict[str, Any]:
    return {"random_init": options.random_init, "seed": options.seed, "source": options.dataset}


def _print(result: EvaluationResult, counts: str) -> None:
    print(f"{counts}\n{format_table(result.metrics)}")
    print_failed(result)
