"""Exported files in int8: convolutions with 8-bit weights and activations, for CPUs.

Activations are quantised with scales that are measured beforehand on clips like those to come ("static"). Scales per
batch ("dynamic") gain little in these networks; `benchmarks/inference.py` measures both.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor

from vididi_hf.evaluation.features import EvaluationClips
from vididi_hf.hub.export import INPUT_NAME, ExportGraph, annotate_onnx, onnx_function, read_description, require_onnx
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


def calibration_batches(
    graph: ExportGraph, rows: datasets.Dataset, processor: ViDiDiVideoProcessor, num_videos: int, seed: int = 0
) -> list[Tensor]:
    """Makes clips of videos, as a graph takes them.

    Args:
        graph: What is exported.
        rows: A data set with a column `video`.
        processor: Chooses, resizes, crops and (if the graph does not) normalises; one clip from each video's centre.
        num_videos: How many videos, at most; drawn at random.
        seed: Of the draw.

    Returns:
        Batches of 8 clips (batch, frames, channels, height, width).

    Raises:
        ValueError: If the graph takes derivatives, or no video can be decoded.
    """
    if graph.options.inputs == "derivative":
        raise ValueError("calibration shows a graph frames of videos, and this one takes derivatives")
    processor = ViDiDiVideoProcessor.from_dict(
        {**processor.to_dict(), "num_frames": graph.num_frames, "crop_size": graph.image_size}
    )
    drawn = rows.shuffle(seed=seed)
    clips = EvaluationClips(drawn.select(range(min(num_videos, len(drawn)))), processor, 1, graph.lookahead)
    found = (one.squeeze(1) for _, one in clips.batches(8))
    if graph.options.inputs == "uint8_frames":
        return list(found)
    return [processor.views(one, orders=(0,))[0] for one in found]


def quantize_onnx(source: str | Path, path: str | Path, batches: Sequence[Tensor]) -> float:
    """Makes an int8 version of an exported file.

    Weights are quantised per output channel, activations per tensor, by their range over the clips.

    Args:
        source: A file of [`export_onnx`][vididi_hf.hub.export.export_onnx].
        path: The file to write.
        batches: Clips as the file takes them: the last batch is for the comparison, the others for calibration. Some
            dozens of clips will do.

    Returns:
        The mean cosine similarity of both files' outputs for the last batch.

    Raises:
        ImportError: If onnx, onnxscript or onnxruntime is not installed.
        ValueError: If there are fewer than two batches.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
    (https://arxiv.org/abs/1712.05877), as ONNX Runtime implements it.
    """
    require_onnx()
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, path = Path(source), Path(path)
    if len(batches) < 2:
        raise ValueError(f"quantisation needs at least 2 batches of clips, one of them to compare, got {len(batches)}")
    *calibration, held_out = batches

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(calibration)

        def get_next(self) -> dict[str, Any] | None:
            return next(({INPUT_NAME: batch.numpy()} for batch in islice(self.batches, 1)), None)

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        folded, quantised = Path(temporary) / "folded.onnx", Path(temporary) / "quantised.onnx"
        quant_pre_process(str(source), str(folded))  # BatchNorm goes into the convolutions
        quantization.quantize_static(str(folded), str(quantised), Reader(), per_channel=True)
        annotate_onnx(quantised, {**read_description(source), "precision": "int8"})
        expected, found = (onnx_function(file)(held_out) for file in (source, quantised))
        os.replace(quantised, path)
    return torch.cosine_similarity(expected, found, dim=1).mean().item()


__all__ = ["calibration_batches", "quantize_onnx"]
