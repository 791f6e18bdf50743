"""Builds the evaluator of a detector from options, and writes its results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from vididi_hf.detection.drawing import save_picture
from vididi_hf.detection.options import BoxOptions
from vididi_hf.detection.sources import load_boxes
from vididi_hf.evaluation.detection import DetectionEvaluator
from vididi_hf.evaluation.metrics.ava_map import write_ava_csv
from vididi_hf.evaluation.results import METRICS_JSON, EvaluationResult, report_of, write_report
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

PICTURE = "detections.png"


def build_evaluator(
    options: BoxOptions, rows: datasets.Dataset, processor: ViDiDiVideoProcessor, output: Path, **settings: Any
) -> DetectionEvaluator:
    """Builds the evaluator of key frames, with boxes from the source that the options name.

    A person detector writes its file to the folder `output`. The settings are arguments of the evaluator.
    """
    boxes, source = load_boxes(options, rows, output, settings.get("progress", False))
    return DetectionEvaluator(rows, processor, boxes, source, **settings)


def write_results(
    output: Path, evaluator: DetectionEvaluator, result: EvaluationResult, model: str, facts: Mapping[str, Any]
) -> None:
    """Writes `metrics.json`, the predictions of every input in AVA's format, and a picture to the folder `output`."""
    report = report_of(result, model, average_precisions=evaluator.average_precisions, **facts)
    write_report(output / METRICS_JSON, report)
    for name, detections in evaluator.detections.items():
        # AVA numbers its classes from 1.
        numbered = {
            key: {**frame, "labels": [label + 1 for label in frame["labels"]]} for key, frame in detections.items()
        }
        write_ava_csv(output / f"predictions-{name}.csv", numbered)
    save_picture(output / PICTURE, evaluator.rows, next(iter(evaluator.detections.values())), evaluator.iou_threshold)
