#!/usr/bin/env python
"""Exports an encoder or a classifier for use without this package: ONNX, or a program of torch.export.

python scripts/export.py runs/vididi encoder.onnx                                             # normalised frames in
python scripts/export.py runs/vididi motion.onnx --orders 0 1 --inputs uint8_frames           # decoded frames in
python scripts/export.py runs/finetuned classifier.pt2 --inputs uint8_frames
python scripts/export.py runs/vididi encoder.onnx --int8 path/to/clips.csv                    # and encoder.int8.onnx

The file is compared with PyTorch before it gets its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from vididi_hf.command_line import build_parser, errors_in_one_line, option
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.hub.export import INPUTS, ExportGraph, ExportOptions, export_onnx, export_program
from vididi_hf.hub.publishing import load_checkpoint_model
from vididi_hf.hub.quantization import calibration_batches, quantize_onnx
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

WRITERS: dict[str, Callable[[ExportGraph, Path], float]] = {".onnx": export_onnx, ".pt2": export_program}


@dataclass(kw_only=True)
class ExportArguments:
    """The options of the command line."""

    inputs: str = option(default="frames", help=f"What the graph takes: {', '.join(INPUTS)}.")
    orders: list[int] = option(
        default_factory=lambda: [0], help="Derivative orders that an encoder sees, its features side by side."
    )
    num_frames: int | None = option(default=None, help="Frames that the encoder sees; by default the checkpoint's.")
    image_size: int | None = option(default=None, help="Height and width; by default the checkpoint's.")
    encoder_only: bool = option(default=False, help="Leave a classifier out.")
    int8: str | None = option(
        default=None, help="Write an int8 version as well, calibrated on videos of the training split of this data set."
    )
    int8_videos: int = option(default=64, help="How many of them.")


def main(command_line: Sequence[str] | None = None) -> None:
    """Exports, and prints what the file takes and gives."""
    parser = build_parser(ExportArguments, __doc__, usage="%(prog)s CHECKPOINT OUTPUT [--option value …]")
    parser.add_argument("checkpoint", help="Folder of a run, of one of its checkpoints, or of a saved model.")
    parser.add_argument("output", help="The file to write: .onnx or .pt2.")
    values = vars(parser.parse_args(command_line))
    checkpoint, output = Path(values.pop("checkpoint")), Path(values.pop("output"))
    arguments = ExportArguments(**values)
    logging.disable_progress_bar()
    with errors_in_one_line("export.py"):
        if output.suffix not in WRITERS:
            raise ValueError(f"the file must end in {' or '.join(WRITERS)}, got {output.name!r}")
        if arguments.int8 and output.suffix != ".onnx":
            raise ValueError(f"only ONNX files come in int8, and {output.name!r} is none")
        options = ExportOptions(
            inputs=arguments.inputs,
            orders=tuple(arguments.orders),
            num_frames=arguments.num_frames,
            image_size=arguments.image_size,
        )
        model: Any = load_checkpoint_model(checkpoint, arguments.encoder_only)
        processor = ViDiDiVideoProcessor.from_pretrained(checkpoint)
        graph = ExportGraph(model, options, processor)
        difference = WRITERS[output.suffix](graph, output)
        print(json.dumps(graph.description()))
        print(f"wrote {output}; it differs from PyTorch by at most {difference:.1e}")
        if arguments.int8:
            rows = load_video_dataset(arguments.int8)
            batches = calibration_batches(graph, rows, processor, arguments.int8_videos)
            small = output.with_suffix(".int8.onnx")
            similarity = quantize_onnx(output, small, batches)
            print(f"wrote {small}; the mean cosine similarity with {output.name} is {similarity:.4f}")


if __name__ == "__main__":
    main()
