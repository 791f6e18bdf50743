"""Exports encoders and classifiers to ONNX and `torch.export`, with normalization and derivative inside the graph."""

import importlib
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.derivatives_vididi import derivative_view
from vididi_hf.files import atomic_write
from vididi_hf.hub.options import GRAPH_INPUTS, ExportOptions
from vididi_hf.hub.publishing import load_checkpoint_model
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.reading import reading
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

TOLERANCE = 1e-4
INPUT_NAME = "pixel_values"
METADATA_KEY = "vididi"


def run(options: ExportOptions) -> None:
    """Exports a checkpoint and prints the input and the output of the graph."""
    logging.disable_progress_bar()
    model: Any = load_checkpoint_model(options.checkpoint, options.encoder_only)
    graph = ExportGraph(
        model,
        ViDiDiVideoProcessor.from_pretrained(options.checkpoint),
        inputs=options.inputs,
        orders=options.orders,
        num_frames=options.num_frames,
        image_size=options.image_size,
    )
    write = export_onnx if options.output.endswith(".onnx") else export_program
    difference = write(graph, options.output)
    print(json.dumps(graph.description()))
    print(f"Wrote {options.output}. Its outputs differ from PyTorch by at most {difference:.1e}.")


class ExportGraph(nn.Module):
    """The exported computation: clips (batch, frames, channels, height, width) to features or logits.

    Args:
        model: Encoder or classifier. It is put into evaluation mode.
        processor: Provides mean and standard deviation. Required for `"uint8_frames"`.
        inputs: `"frames"`: normalized float32 frames; the graph differentiates them. `"uint8_frames"`: decoded frames
            with values of 0 to 255; the graph normalizes and differentiates them. `"derivative"`: for an encoder, the
            normalized derivative.
        orders: Derivative orders of an encoder, whose features are concatenated: 0 by default, and 1 if the input is
            the derivative. A classifier has its own.
        num_frames: Frames that the encoder sees; by default those of the configuration. The input has as many more as
            the highest order, which differentiation uses up.
        image_size: Height and width in pixels; by default those of the configuration.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: ViDiDiModel | ViDiDiForVideoClassification,
        processor: ViDiDiVideoProcessor | None = None,
        *,
        inputs: str = "frames",
        orders: Sequence[int] | None = None,
        num_frames: int | None = None,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        config, is_classifier = model.config, isinstance(model, ViDiDiForVideoClassification)
        if not is_classifier and not isinstance(model, ViDiDiModel):
            raise ValueError(f"a {type(model).__name__} cannot be exported: only encoders and classifiers can")
        orders_given = orders is not None
        if orders is None:
            orders = (1,) if inputs == "derivative" else (0,)
        orders = tuple(orders)
        if inputs not in GRAPH_INPUTS:
            raise ValueError(f"inputs must be one of {', '.join(GRAPH_INPUTS)}, got {inputs!r}")
        if not orders or min(orders) < 0 or len(set(orders)) != len(orders):
            raise ValueError(f"orders must be distinct integers of at least 0, got {orders}")
        if inputs == "derivative" and (len(orders) != 1 or orders == (0,)):
            raise ValueError(f"inputs 'derivative' needs exactly one order of at least 1, got {orders}")
        if is_classifier and (inputs == "derivative" or orders_given):
            raise ValueError("a classifier differentiates frames itself: leave out orders and inputs 'derivative'")
        self.model, self.inputs = model, inputs
        self.orders = tuple(config.classifier_orders) if is_classifier else orders
        self.output_name = "logits" if is_classifier else "pooler_output"
        self.num_frames = num_frames or config.num_frames
        extra_frames = 0 if inputs == "derivative" else max(self.orders)
        size = image_size or config.image_size
        self.input_shape = (self.num_frames + extra_frames, config.num_channels, size, size)
        if inputs == "uint8_frames":
            if processor is None:
                raise ValueError("inputs 'uint8_frames' needs a processor, whose mean and std normalize the frames")
            if not (processor.do_normalize and processor.do_rescale and 254.9 < 1 / processor.rescale_factor < 255.1):
                raise ValueError("inputs 'uint8_frames' needs a processor that divides by 255 and normalizes")
            for name, values in (("mean", processor.image_mean), ("std", processor.image_std)):
                self.register_buffer(name, 255 * torch.tensor(values).view(-1, 1, 1), persistent=False)
        self.eval()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Returns pooled features (batch, orders * hidden_size), or logits (batch, labels)."""
        if self.inputs == "uint8_frames":
            pixel_values = (pixel_values.float() - self.mean) / self.std
        if isinstance(self.model, ViDiDiForVideoClassification):
            return self.model(pixel_values, return_dict=True).logits
        features = []
        for order in self.orders:
            ready = self.inputs == "derivative"
            view = pixel_values if ready else derivative_view(pixel_values, order, self.num_frames)
            features.append(self.model(view, derivative_order=order, return_dict=True).pooler_output)
        return features[0] if len(features) == 1 else torch.cat(features, dim=-1)

    def example(self, batch: int, seed: int = 0) -> Tensor:
        """Returns random clips of the input's shape and type."""
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, *self.input_shape)
        if self.inputs == "uint8_frames":
            return torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        return torch.randn(shape, generator=generator)

    def description(self) -> dict[str, Any]:
        """Returns what a consumer must know, as JSON values. The exported file stores it."""
        config = self.model.config
        known: dict[str, Any] = {
            "input": {
                "name": INPUT_NAME,
                "kind": self.inputs,
                "axes": ["batch", "frames", "channels", "height", "width"],
                "shape": list(self.input_shape),
                "dtype": "uint8" if self.inputs == "uint8_frames" else "float32",
            },
            "output": self.output_name,
            "derivative_orders": list(self.orders),
            "backbone": config.backbone_name,
        }
        if self.output_name == "logits":
            known["labels"] = [label for _, label in sorted((config.id2label or {}).items())]
        return known


def export_program(graph: ExportGraph, path: str | Path) -> float:
    """Writes a graph as a program of `torch.export` (`.pt2`), and returns its difference from the graph."""
    with atomic_write(path) as unfinished, torch.no_grad():
        shapes = {INPUT_NAME: {0: torch.export.Dim("batch")}}
        program = torch.export.export(graph, (graph.example(2),), dynamic_shapes=shapes, strict=False)
        with unfinished.open("wb") as file:  # a path would have to end in .pt2
            torch.export.save(program, file, extra_files={METADATA_KEY: json.dumps(graph.description())})
        with unfinished.open("rb") as file:
            return check(graph, torch.export.load(file).module())


def export_onnx(graph: ExportGraph, path: str | Path) -> float:
    """Writes a graph as one ONNX file with its description as metadata, and returns its difference from the graph."""
    onnx = _import_onnx("onnx")
    with atomic_write(path) as unfinished, torch.no_grad():
        program: Any = torch.onnx.export(
            graph,
            (graph.example(2),),
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=[graph.output_name],
            dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch")}},
            verbose=False,
        )
        program.save(unfinished, external_data=False)
        model = onnx.load(unfinished)
        onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(graph.description())})
        onnx.save(model, unfinished)
        return check(graph, onnx_function(unfinished))


def onnx_function(path: str | Path, num_threads: int = 0) -> Callable[[Tensor], Tensor]:
    """Loads an exported file into ONNX Runtime on the CPU, as a function of clips. 0 threads are all cores."""
    onnxruntime = _import_onnx("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run(None, {INPUT_NAME: clips.numpy()})[0])


@torch.no_grad()
def check(graph: ExportGraph, function: Callable[[Tensor], Tensor]) -> float:
    """Returns the largest difference from the graph, relative to its largest output or 1. Above 1e-4 is an error."""
    worst = 0.0
    for batch in (1, 3):
        clips = graph.example(batch, seed=batch)
        expected, found = graph(clips), function(clips)
        if found.shape != expected.shape:
            raise ValueError(f"the exported graph returns {tuple(found.shape)}, not {tuple(expected.shape)}")
        difference = ((found - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
        if not difference <= TOLERANCE:  # also if it is NaN
            raise ValueError(f"the exported graph computes other outputs: they differ by up to {difference}")
        worst = max(worst, difference)
    return worst


def read_description(path: str | Path) -> dict[str, Any]:
    """Reads the description in an exported `.onnx` or `.pt2` file: input, output, derivative orders, labels."""
    path = Path(path)
    properties = {METADATA_KEY: ""}
    if path.suffix == ".pt2":
        with reading(path), zipfile.ZipFile(path) as archive:  # torch.export.load would execute code
            for name in archive.namelist():
                if name.endswith(f"/extra/{METADATA_KEY}"):
                    properties[METADATA_KEY] = archive.read(name).decode()
    else:
        metadata = _import_onnx("onnx").load(path, load_external_data=False).metadata_props
        properties |= {one.key: one.value for one in metadata}
    if not properties[METADATA_KEY]:
        raise ValueError(f"{path} was not exported by vididi_hf")
    return json.loads(properties[METADATA_KEY])


def _import_onnx(name: str) -> Any:
    try:
        for module in ("onnx", "onnxruntime", "onnxscript"):
            importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{error.name} is not installed: pip install 'vididi-hf[export]'") from None
    return importlib.import_module(name)
