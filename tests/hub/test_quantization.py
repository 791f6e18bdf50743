from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.hub.export import ExportGraph, ExportOptions, export_onnx, read_description
from vididi_hf.hub.quantization import calibration_batches, quantize_onnx
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


def run(path: Path, clips: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"pixel_values": clips.numpy()})[0])


def make_graph(**options) -> ExportGraph:
    torch.manual_seed(0)
    sizes = {"hidden_sizes": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "image_size": 32, "num_frames": 3}
    model = ViDiDiModel(ViDiDiConfig(**sizes, batch_norm="per_order"))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_var.uniform_(0.5, 1.5)
    return ExportGraph(model, ExportOptions(**options), ViDiDiVideoProcessor())


def test_int8_stays_close(tmp_path: Path) -> None:
    graph = make_graph(orders=(0, 1))
    export_onnx(graph, tmp_path / "a.onnx")

    batches = [graph.example(2, seed) for seed in range(4)]
    similarity = quantize_onnx(tmp_path / "a.onnx", tmp_path / "int8.onnx", batches)

    expected, found = (run(tmp_path / name, batches[-1]) for name in ("a.onnx", "int8.onnx"))
    cosines = [(one @ other / one.norm() / other.norm()).item() for one, other in zip(expected, found)]
    assert similarity == pytest.approx(sum(cosines) / len(cosines), abs=1e-5)
    assert 0.98 < similarity < 1
    for batch in (1, 5):
        assert run(tmp_path / "int8.onnx", graph.example(batch)).shape == (batch, 32)
    assert read_description(tmp_path / "int8.onnx") == {**graph.description(), "precision": "int8"}
    weights = [one for one in onnx.load(tmp_path / "int8.onnx").graph.initializer if len(one.dims) == 5]
    assert weights
    assert {one.data_type for one in weights} == {onnx.TensorProto.INT8}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "int8.onnx"]
    with pytest.raises(ValueError, match="at least 2 batches"):
        quantize_onnx(tmp_path / "a.onnx", tmp_path / "other.onnx", batches[:1])


def test_calibration_shows_what_consumers_send(motion_root: Path) -> None:
    rows = load_video_dataset(motion_root / "clips.csv")
    raw = calibration_batches(make_graph(inputs="uint8_frames", orders=(1,)), rows, ViDiDiVideoProcessor(), 10)
    normalised = calibration_batches(make_graph(orders=(1,)), rows, ViDiDiVideoProcessor(), 10)

    assert [(batch.dtype, tuple(batch.shape)) for batch in raw] == [
        (torch.uint8, (8, 4, 3, 32, 32)),
        (torch.uint8, (2, 4, 3, 32, 32)),
    ]
    mean = torch.tensor([0.43216, 0.394666, 0.37645]).view(3, 1, 1)
    std = torch.tensor([0.22803, 0.22145, 0.216989]).view(3, 1, 1)
    for one, other in zip(raw, normalised, strict=True):
        torch.testing.assert_close(other, (one / 255 - mean) / std, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="takes derivatives"):
        calibration_batches(make_graph(inputs="derivative"), rows, ViDiDiVideoProcessor(), 10)
