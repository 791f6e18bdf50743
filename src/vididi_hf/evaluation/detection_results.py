"""From the options of a command line to the evaluator of detections, and from its result to files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from vididi_hf.detection.drawing import save_picture
from vididi_hf.evaluation.detection import DetectionEvaluator
from vididi_hf.evaluation.metrics.ava_map import write_ava_csv
from vididi_hf.evaluation.results import METRICS_JSON, EvaluationResult, report_of, write_report
from vididi_hf.finetuning.detection_recipe import BoxOptions
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

PICTURE = "detections.png"


def build_evaluator(
    options: BoxOptions, rows: datasets.Dataset, processor: ViDiDiVideoProcessor, output: Path, **settings: Any
) -> DetectionEvaluator:
    """Builds the evaluator of key frames with boxes from where the options say.

    Args:
        options: Where the boxes come from.
        rows: The key frames.
        processor: Prepares the clips.
        output: The folder of the results.
        **settings: Further arguments of the evaluator.
    """
    boxes, source = options.load_boxes(rows, output, settings.get("progress", False))
    return DetectionEvaluator(rows, processor, boxes, source, **settings)


def write_results(
    output: Path, evaluator: DetectionEvaluator, result: EvaluationResult, model: str, facts: Mapping[str, Any]
) -> None:
    """Writes `metrics.json`, the predictions of every input in AVA's format, and a picture.

    Args:
        output: The folder.
        evaluator: After its call.
        result: What the call returned.
        model: Folder of the model, or its id on the Hub.
        facts: More to write down.
    """
    report = report_of(result, model, average_precisions=evaluator.average_precisions, **facts)
    write_report(output / METRICS_JSON, report)
    for name, detections in evaluator.detections.items():
        # AVA numbers its classes from 1.
        numbered = {
            key: {**frame, "labels": [label + 1 for label in frame["labels"]]} for key, frame in detections.items()
        }
        write_ava_csv(output / f"predictions-{name}.csv", numbered)
    save_picture(output / PICTURE, evaluator)
