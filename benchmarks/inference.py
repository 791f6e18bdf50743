#!/usr/bin/env python
"""Clips per second of an encoder on the CPU: PyTorch eager and compiled, ONNX Runtime, and int8.

python benchmarks/inference.py
python benchmarks/inference.py --backbone s3d --batch_size 8 --rounds 9 --output benchmarks/inference.json

All run in turn in one process on one thread, in several rounds, and see the same clips. Numbers are medians over
rounds, ratios medians of the ratios within a round. Time is that of the CPU, which other processes on the machine
change little. `torch.compile` (with constants folded) needs a C++ compiler and is left out where there is none.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import copy
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor
from tqdm.auto import tqdm
from vididi_hf.hub.quantization import quantize_onnx

from vididi_hf.configuration_vididi import BACKBONE_NAMES, ViDiDiConfig
from vididi_hf.evaluation.results import write_report
from vididi_hf.hub.export import ExportGraph, export_onnx, onnx_function
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.options import errors_in_one_line, option, parse_arguments

EAGER = "PyTorch, eager"
FORMATS = {"": torch.contiguous_format, ", channels_last_3d": torch.channels_last_3d}
Function = Callable[[Tensor], Tensor]


@dataclass(kw_only=True)
class Arguments:
    """The command line."""

    backbone: str = option(default="r3d_18", help=f"One of {', '.join(BACKBONE_NAMES)}.")
    num_frames: int = option(default=8, help="Frames per clip.")
    image_size: int = option(default=112, help="Height and width.")
    batch_size: int = option(default=4, help="Clips per call.")
    rounds: int = option(default=7, help="How often every method runs.")
    output: str | None = option(default=None, help="A JSON file for the numbers.")


def in_torch(graph: ExportGraph, memory_format: torch.memory_format) -> Function:
    """A copy of the graph with its weights (and through them the activations) in a memory format."""
    return copy.deepcopy(graph).to(memory_format=memory_format)


def methods(arguments: Arguments, folder: Path) -> dict[str, Function]:
    """The methods by name."""
    config = ViDiDiConfig(backbone=arguments.backbone, num_frames=arguments.num_frames, image_size=arguments.image_size)
    torch.manual_seed(0)
    graph = ExportGraph(ViDiDiModel(config))
    export_onnx(graph, folder / "float.onnx")
    quantize_onnx(folder / "float.onnx", folder / "static.onnx", [graph.example(4, seed) for seed in range(3)])
    quant_pre_process(str(folder / "float.onnx"), str(folder / "folded.onnx"))
    quantize_dynamic(folder / "folded.onnx", folder / "dynamic.onnx", weight_type=QuantType.QUInt8)
    found = {f"{EAGER}{suffix}": in_torch(graph, memory_format) for suffix, memory_format in FORMATS.items()}
    if shutil.which("g++") or shutil.which("clang++"):
        for suffix, memory_format in FORMATS.items():
            options: dict[str, Any] = {"freezing": True}  # BatchNorm is folded into the convolutions
            found[f"PyTorch, compiled{suffix}"] = torch.compile(in_torch(graph, memory_format), options=options)
    else:
        print("no C++ compiler: torch.compile is left out")
    found["ONNX Runtime"] = onnx_function(folder / "float.onnx", num_threads=1)
    found["ONNX Runtime, int8, dynamic"] = onnx_function(folder / "dynamic.onnx", num_threads=1)
    found["ONNX Runtime, int8, static"] = onnx_function(folder / "static.onnx", num_threads=1)
    return found


def cpu_name() -> str:
    """The processor, as Linux calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


@torch.no_grad()
def measure(functions: dict[str, Function], clips: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of the CPU per clip, by method, for every round."""
    for function in functions.values():  # compiles and allocates
        function(clips)
        function(clips)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in tqdm(range(rounds), unit="round"):
        for name, function in functions.items():
            begin = time.process_time()
            function(clips)
            seconds[name].append((time.process_time() - begin) / len(clips))
    return seconds


def main(command_line: Sequence[str] | None = None) -> None:
    """Measures, and prints a table."""
    arguments = parse_arguments(Arguments, command_line, __doc__)
    torch.set_num_threads(1)
    with errors_in_one_line("inference.py"), tempfile.TemporaryDirectory() as folder:
        functions = methods(arguments, Path(folder))
        shape = (arguments.batch_size, arguments.num_frames, 3, arguments.image_size, arguments.image_size)
        seconds = measure(functions, torch.randn(shape, generator=torch.Generator().manual_seed(1)), arguments.rounds)
    rows = {}
    for name, values in seconds.items():
        ratio = statistics.median(eager / one for eager, one in zip(seconds[EAGER], values, strict=True))
        rows[name] = {"clips_per_second": 1 / statistics.median(values), "times_eager": ratio}
    print(f"\n{arguments.backbone}, clips of {shape[1:]}, {arguments.batch_size} at once, one thread of {cpu_name()}")
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}\n")
    print("| method | clips per second of the CPU | times eager |\n| --- | ---: | ---: |")
    for name, row in rows.items():
        print(f"| {name} | {row['clips_per_second']:.2f} | {row['times_eager']:.2f} |")
    if arguments.output:
        versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
        write_report(
            Path(arguments.output), {**vars(arguments), "cpu": cpu_name(), "versions": versions, "methods": rows}
        )


if __name__ == "__main__":
    main()
