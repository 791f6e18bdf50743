"""Encoders and classifiers out of Python: ONNX and `torch.export`, with the derivative inside the graph.

A graph takes plain frames, of as many as it was made for, in batches of any size, and gives what a consumer needs and
nothing else: pooled features, or logits. Normalization and differentiation can be part of it, so that a consumer
only decodes, resizes and crops.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.derivatives_vididi import derivative_view
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

TOLERANCE = 1e-4
INPUTS = ("frames", "uint8_frames", "derivative")
INPUT_NAME = "pixel_values"
METADATA_KEY = "vididi"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What a graph takes.

    Attributes:
        inputs: `"frames"`: normalized float32 frames, differentiated inside. `"uint8_frames"`: frames as they were
            decoded, 0 … 255, normalized and differentiated inside. `"derivative"`: for an encoder, the normalized
            derivative itself.
        orders: The derivative orders that an encoder sees, its features side by side; each with its own BatchNorm
            statistics if the model keeps them. A classifier has its own.
        num_frames: Frames that the encoder sees; by default those of the configuration. Those that differentiation
            uses up come on top.
        image_size: Height and width; by default those of the configuration.

    Raises:
        ValueError: If the kind of input is unknown, or a derivative of several orders is asked for.
    """

    inputs: str = "frames"
    orders: tuple[int, ...] = (0,)
    num_frames: int | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        if self.inputs not in INPUTS:
            raise ValueError(f"inputs must be one of {', '.join(INPUTS)}, got {self.inputs!r}")
        if not self.orders or min(self.orders) < 0 or len(set(self.orders)) != len(self.orders):
            raise ValueError(f"orders must be distinct integers of at least 0, got {self.orders}")
        if self.inputs == "derivative" and len(self.orders) != 1:
            raise ValueError(f"a derivative that is sent has one order, got {self.orders}")


class ExportGraph(nn.Module):
    """The computation that is exported: (batch, frames, channels, height, width) to features or logits.

    Args:
        model: Encoder or classifier; it is put into evaluation mode.
        options: What the graph takes.
        processor: Whose mean and standard deviation normalize; only needed for `"uint8_frames"`.

    Attributes:
        orders: The derivative orders that the encoder sees.
        output_name: `"pooler_output"` or `"logits"`.

    Raises:
        ValueError: If the options do not go with the model, or the processor is missing.

    Example:
        >>> import torch
        >>> from vididi_hf.configuration_vididi import ViDiDiConfig
        >>> from vididi_hf.hub.export import ExportGraph, ExportOptions
        >>> from vididi_hf.modeling_vididi import ViDiDiModel
        >>> model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(8, 16, 32, 64), depths=(1, 1, 1, 1), image_size=40))
        >>> graph = ExportGraph(model, ExportOptions(orders=(0, 1)))
        >>> clips = graph.example(2)
        >>> clips.shape, graph(clips).shape
        (torch.Size([2, 9, 3, 40, 40]), torch.Size([2, 128]))
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: ViDiDiModel | ViDiDiForVideoClassification,
        options: ExportOptions,
        processor: ViDiDiVideoProcessor | None = None,
    ) -> None:
        super().__init__()
        config: ViDiDiConfig = model.config
        is_classifier = isinstance(model, ViDiDiForVideoClassification)
        if is_classifier and (options.inputs == "derivative" or options.orders != (0,)):
            raise ValueError(
                f"a classifier takes frames and differentiates them itself, into the orders {config.classifier_orders}"
            )
        self.model = model
        self.options = options
        self.orders = tuple(config.classifier_orders) if is_classifier else options.orders
        self.output_name = "logits" if is_classifier else "pooler_output"
        self.num_frames = options.num_frames or config.num_frames
        self.extra_frames = 0 if options.inputs == "derivative" else max(self.orders)
        self.image_size = options.image_size or config.image_size
        self.num_channels = config.num_channels
        if options.inputs == "uint8_frames":
            if processor is None:
                raise ValueError("uint8 frames are normalized as a processor does; give one")
            for name, values in (("mean", processor.image_mean), ("std", processor.image_std)):
                self.register_buffer(name, 255 * torch.tensor(values).view(-1, 1, 1), persistent=False)
        self.eval()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Pooled features (batch, orders * hidden_size), or logits (batch, labels)."""
        if self.options.inputs == "uint8_frames":
            pixel_values = (pixel_values.float() - self.mean) / self.std
        if isinstance(self.model, ViDiDiForVideoClassification):
            return self.model(pixel_values, return_dict=True).logits
        if self.options.inputs == "derivative":
            return self._encode(pixel_values, self.orders[0])
        views = [self._encode(derivative_view(pixel_values, order, self.num_frames), order) for order in self.orders]
        return views[0] if len(views) == 1 else torch.cat(views, dim=-1)

    def example(self, batch: int, seed: int = 0) -> Tensor:
        """Random clips of the shape and type that the graph takes."""
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, self.num_frames + self.extra_frames, self.num_channels, self.image_size, self.image_size)
        if self.options.inputs == "uint8_frames":
            return torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        return torch.randn(shape, generator=generator)

    def description(self) -> dict[str, Any]:
        """What a consumer must know, as JSON values; it is stored in the exported file."""
        config = self.model.config
        known: dict[str, Any] = {
            "input": {
                "name": INPUT_NAME,
                "kind": self.options.inputs,
                "axes": ["batch", "frames", "channels", "height", "width"],
                "shape": list(self.example(1).shape[1:]),
                "dtype": "uint8" if self.options.inputs == "uint8_frames" else "float32",
            },
            "output": self.output_name,
            "derivative_orders": list(self.orders),
            "backbone": config.backbone,
        }
        if self.output_name == "logits":
            known["labels"] = [label for _, label in sorted((config.id2label or {}).items())]
        return known

    def _encode(self, clips: Tensor, order: int) -> Tensor:
        return self.model(clips, derivative_order=order, return_dict=True).pooler_output


def export_program(graph: ExportGraph, path: str | Path) -> float:
    """Writes a graph as a program of `torch.export` (`.pt2`), for `torch.export.load` and AOTInductor.

    Args:
        graph: What to export.
        path: The file.

    Returns:
        The largest difference between the program, loaded from the file, and the graph; see `check`.

    Raises:
        RuntimeError: If they disagree; the file is not written then.
    """

    def write(unfinished: Path) -> None:
        batch = torch.export.Dim("batch")
        shapes = {INPUT_NAME: {0: batch}}
        with torch.no_grad():
            program = torch.export.export(graph, (graph.example(2),), dynamic_shapes=shapes, strict=False)
        torch.export.save(program, unfinished, extra_files={METADATA_KEY: json.dumps(graph.description())})

    def load(unfinished: Path) -> Callable[[Tensor], Tensor]:
        return torch.export.load(unfinished).module()

    return _write_checked(graph, Path(path), write, load)


def export_onnx(graph: ExportGraph, path: str | Path) -> float:
    """Writes a graph as ONNX, in one file, for ONNX Runtime and others.

    Args:
        graph: What to export.
        path: The file. Its metadata holds `graph.description()` under the key `vididi`.

    Returns:
        The largest difference between ONNX Runtime, on the CPU, and the graph; see `check`.

    Raises:
        ImportError: If onnx, onnxscript or onnxruntime is not installed.
        RuntimeError: If they disagree; the file is not written then.
    """
    require_onnx()

    def write(unfinished: Path) -> None:
        with torch.no_grad():
            program = torch.onnx.export(
                graph,
                (graph.example(2),),
                dynamo=True,
                input_names=[INPUT_NAME],
                output_names=[graph.output_name],
                dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch")}},
                verbose=False,
            )
        assert program is not None  # with dynamo=True it never is
        program.save(unfinished, external_data=False)
        annotate_onnx(unfinished, graph.description())

    return _write_checked(graph, Path(path), write, onnx_function)


def onnx_function(path: str | Path, num_threads: int = 0) -> Callable[[Tensor], Tensor]:
    """Loads an exported file into ONNX Runtime.

    Args:
        path: A file of [`export_onnx`].
        num_threads: CPU threads; 0 means as many as there are cores.

    Returns:
        A function of clips.

    Raises:
        ImportError: If onnxruntime is not installed.
    """
    require_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(clips: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {INPUT_NAME: clips.numpy()})[0])

    return run


@torch.no_grad()
def check(graph: ExportGraph, function: Callable[[Tensor], Tensor], batches: tuple[int, ...] = (1, 3)) -> float:
    """Compares something that was exported with the graph, on random clips in batches of several sizes.

    Args:
        graph: The graph.
        function: What was exported, as a function of clips.
        batches: The sizes.

    Returns:
        The largest absolute difference, divided by the largest absolute output if that exceeds 1.

    Raises:
        RuntimeError: If it exceeds 1e-4.
    """
    worst = 0.0
    for batch in batches:
        clips = graph.example(batch, seed=batch)
        expected, found = graph(clips), function(clips)
        if found.shape != expected.shape:
            raise RuntimeError(f"what was exported returns {tuple(found.shape)}, not {tuple(expected.shape)}")
        difference = ((found - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
        if not difference <= TOLERANCE:  # also if it is not a number
            raise RuntimeError(f"what was exported computes something else than the model: by up to {difference}")
        worst = max(worst, difference)
    return worst


def read_description(path: str | Path) -> Mapping[str, Any]:
    """Reads what an exported file says about itself: input, output, derivative orders, labels.

    Args:
        path: An `.onnx` or `.pt2` file of this module.

    Raises:
        ValueError: If the file is none of this module's.
    """
    path = Path(path)
    if path.suffix == ".pt2":
        files = {METADATA_KEY: ""}
        torch.export.load(path, extra_files=files)
        text = files[METADATA_KEY]
    else:
        require_onnx()
        import onnx

        text = {one.key: one.value for one in onnx.load(path, load_external_data=False).metadata_props}.get(
            METADATA_KEY, ""
        )
    if not text:
        raise ValueError(f"{path} was not exported by vididi_hf")
    return json.loads(text)


def _write_checked(
    graph: ExportGraph,
    path: Path,
    write: Callable[[Path], None],
    load: Callable[[Path], Callable[[Tensor], Tensor]],
) -> float:
    """Writes a file, compares it with the graph, and only then gives it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished-{path.name}")
    try:
        write(unfinished)
        difference = check(graph, load(unfinished))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return difference


def annotate_onnx(path: Path, description: Mapping[str, Any]) -> None:
    """Stores in an ONNX file what it says about itself."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(description)})
    onnx.save(model, path)


def require_onnx() -> None:
    """Checks that what ONNX files need is installed.

    Raises:
        ImportError: If not; the message says what to install.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error.name} is not installed: pip install 'vididi-hf[export]'") from None


__all__ = [
    "ExportGraph",
    "ExportOptions",
    "annotate_onnx",
    "check",
    "export_onnx",
    "export_program",
    "onnx_function",
    "read_description",
    "require_onnx",
]
