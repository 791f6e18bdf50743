import json
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.cli import run_command
from vididi_hf.configuration_vididi import BACKBONE_NAMES, ViDiDiConfig
from vididi_hf.hub.export import (
    ExportGraph,
    check,
    export_onnx,
    export_program,
    onnx_function,
    read_description,
)
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

TINY = {"hidden_sizes": (4, 4, 8, 8), "depths": (1, 1, 1, 1), "image_size": 32, "num_frames": 3}


def randomize(model: nn.Module) -> nn.Module:
    """Gives every BatchNorm statistics of its own, in every row."""
    generator = torch.Generator().manual_seed(11)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.rand(module.running_mean.shape, generator=generator) - 0.7)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.3)
    return model


def encoder(**options) -> ViDiDiModel:
    torch.manual_seed(0)
    return randomize(ViDiDiModel(ViDiDiConfig(**{**TINY, **options})))


def classifier(**options) -> ViDiDiForVideoClassification:
    torch.manual_seed(0)
    return randomize(ViDiDiForVideoClassification(ViDiDiConfig(**TINY, id2label={0: "up", 1: "down"}, **options)))


def run(path: Path, clips: torch.Tensor) -> torch.Tensor:
    """What ONNX Runtime makes of clips, called as a consumer would."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"pixel_values": clips.numpy()})[0])


@pytest.fixture(scope="module")
def two_orders(tmp_path_factory: pytest.TempPathFactory) -> tuple[ViDiDiModel, Path]:
    """An encoder with statistics per order, and its export for decoded frames and orders 0 and 1."""
    model, path = encoder(batch_norm="per_order"), tmp_path_factory.mktemp("export") / "encoder.onnx"
    graph = ExportGraph(model, ViDiDiVideoProcessor(), inputs="uint8_frames", orders=(0, 1))
    assert export_onnx(graph, path) < 1e-4
    return model, path


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_consumer_sends_decoded_frames(two_orders: tuple[ViDiDiModel, Path], batch: int) -> None:
    model, path = two_orders
    frames = torch.randint(256, (batch, 4, 3, 32, 32), dtype=torch.uint8)

    mean = torch.tensor([0.43216, 0.394666, 0.37645]).view(3, 1, 1)
    std = torch.tensor([0.22803, 0.22145, 0.216989]).view(3, 1, 1)
    normalized = (frames / 255 - mean) / std
    with torch.no_grad():
        expected = torch.cat(
            [
                model(normalized[:, :3]).pooler_output,
                model(normalized[:, 1:] - normalized[:, :-1], derivative_order=1).pooler_output,
            ],
            dim=1,
        )

    assert expected.std(dim=1).min() > 1e-2
    torch.testing.assert_close(run(path, frames), expected, rtol=1e-4, atol=1e-4)


def test_the_file_says_what_it_takes_and_gives(two_orders: tuple[ViDiDiModel, Path]) -> None:
    _, path = two_orders
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [given], [returned] = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("pixel_values", "tensor(uint8)", ["batch", 4, 3, 32, 32])
    assert (returned.name, returned.shape) == ("pooler_output", ["batch", 16])
    description = read_description(path)
    assert description["input"]["shape"] == [4, 3, 32, 32]
    assert description["derivative_orders"] == [0, 1]
    assert [one.name for one in path.parent.iterdir()] == ["encoder.onnx"]  # weights are within
    onnx.checker.check_model(str(path), full_check=True)


def test_weights_are_stored_once(two_orders: tuple[ViDiDiModel, Path]) -> None:
    model, path = two_orders
    shapes = [tuple(one.dims) for one in onnx.load(path).graph.initializer]
    assert shapes.count(tuple(model.backbone.stem[0].weight.shape)) == 1


@pytest.mark.slow  # the way of r3d_18, which the other tests take
@pytest.mark.parametrize("name", [name for name in BACKBONE_NAMES if name != "r3d_18"])
def test_every_backbone_is_exported(name: str, tmp_path: Path) -> None:
    sizes = {"hidden_sizes": None, "depths": None} if name == "s3d" else {}
    model = encoder(backbone=name, **sizes)
    assert export_onnx(ExportGraph(model), tmp_path / "a.onnx") < 1e-4
    clips = torch.randn(4, 3, 3, 32, 32)
    with torch.no_grad():
        expected = model(clips).pooler_output
    torch.testing.assert_close(run(tmp_path / "a.onnx", clips), expected, rtol=1e-4, atol=1e-4)


def test_a_derivative_can_be_sent_ready(tmp_path: Path) -> None:
    model = encoder(batch_norm="per_order")
    export_onnx(ExportGraph(model, inputs="derivative", orders=(2,)), tmp_path / "a.onnx")
    clips = torch.randn(2, 3, 3, 32, 32)
    with torch.no_grad():
        expected = model(clips, derivative_order=2).pooler_output
        other = model(clips, derivative_order=1).pooler_output
    found = run(tmp_path / "a.onnx", clips)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - other).abs().max() > 1e-2  # other statistics would have shown


def test_derivatives_are_rescaled_inside(tmp_path: Path) -> None:
    plain, model = (encoder(batch_norm="shared", derivative_scale=scale).eval() for scale in ("none", "unit"))
    export_onnx(ExportGraph(model, orders=(1, 0)), tmp_path / "a.onnx")
    frames = 0.2 * torch.randn(2, 4, 3, 32, 32)
    derivative = frames[:, 1:] - frames[:, :-1]
    scaled = torch.stack([clip / clip.square().mean().sqrt() for clip in derivative])
    with torch.no_grad():
        expected, other = (
            torch.cat([plain(one).pooler_output, plain(frames[:, :3]).pooler_output], dim=1)
            for one in (scaled, derivative)
        )
    found = run(tmp_path / "a.onnx", frames)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - other).abs().max() > 1e-2


@pytest.mark.parametrize("orders", [(1,), (2, 0)])
def test_classifiers_differentiate_inside(orders: tuple[int, ...], tmp_path: Path) -> None:
    model = classifier(classifier_orders=orders, batch_norm="per_order")
    graph = ExportGraph(model)
    assert export_onnx(graph, tmp_path / "a.onnx") < 1e-4
    assert export_program(graph, tmp_path / "a.pt2") < 1e-4
    frames = torch.randn(5, 3 + max(orders), 3, 32, 32)
    with torch.no_grad():
        expected = model(frames).logits
    torch.testing.assert_close(run(tmp_path / "a.onnx", frames), expected, rtol=1e-4, atol=1e-4)
    program = torch.export.load(tmp_path / "a.pt2").module()
    torch.testing.assert_close(program(frames), expected, rtol=1e-4, atol=1e-4)
    for name in ("a.onnx", "a.pt2"):
        assert read_description(tmp_path / name)["labels"] == ["up", "down"]
        assert read_description(tmp_path / name)["output"] == "logits"


def test_program_of_an_encoder(tmp_path: Path) -> None:
    model = encoder(batch_norm="per_order")
    graph = ExportGraph(model, ViDiDiVideoProcessor(), inputs="uint8_frames", orders=(1,), num_frames=4, image_size=40)
    assert export_program(graph, tmp_path / "a.pt2") < 1e-4
    frames = torch.randint(256, (1, 5, 3, 40, 40), dtype=torch.uint8)
    program = torch.export.load(tmp_path / "a.pt2").module()
    std = torch.tensor([0.22803, 0.22145, 0.216989]).view(3, 1, 1)
    with torch.no_grad():
        expected = model(frames.float().diff(dim=1) / 255 / std, derivative_order=1).pooler_output  # the mean cancels
    torch.testing.assert_close(program(frames), expected, rtol=1e-4, atol=1e-4)


def test_nothing_is_written_that_computes_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = ExportGraph(encoder())
    with pytest.raises(RuntimeError, match="computes other outputs"):
        check(graph, lambda clips: graph(clips) + 1e-2)
    with pytest.raises(RuntimeError, match=r"returns \(1, 4\), not \(1, 8\)"):
        check(graph, lambda clips: graph(clips)[:, :4])
    with pytest.raises(RuntimeError, match="computes other outputs"):
        check(graph, lambda clips: graph(clips) * float("nan"))
    monkeypatch.setattr("vididi_hf.hub.export.TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match="computes other outputs"):
        export_program(graph, tmp_path / "a.pt2")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": "video"}, "inputs must be one of frames, uint8_frames, derivative, got 'video'"),
        ({"orders": ()}, r"distinct integers of at least 0, got \(\)"),
        ({"orders": (1, 1)}, r"distinct integers of at least 0, got \(1, 1\)"),
        ({"inputs": "derivative", "orders": (0, 1)}, "exactly one order"),
        ({"inputs": "uint8_frames"}, "needs a processor"),
    ],
)
def test_impossible_options(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportGraph(encoder(), **options)


def test_a_classifier_has_its_own_orders() -> None:
    with pytest.raises(ValueError, match="differentiates frames itself"):
        ExportGraph(classifier(), orders=(1,))


def test_missing_onnx_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install 'vididi-hf\[export\]'"):
        export_onnx(ExportGraph(encoder()), tmp_path / "a.onnx")


def test_foreign_files_have_no_description(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match="was not exported by vididi_hf"):
        read_description(tmp_path / "foreign.onnx")


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    encoder(batch_norm="per_order").save_pretrained("run")
    ViDiDiVideoProcessor(num_frames=3, crop_size=32).save_pretrained("run")

    run_command("export", ["run", "a.onnx", "--inputs", "uint8_frames", "--orders", "1"])
    printed = capsys.readouterr().out
    run_command("export", ["run", "a.pt2"])
    with pytest.raises(SystemExit, match="2"):
        run_command("export", ["run", "a.tflite"])

    assert json.loads(printed.splitlines()[0])["derivative_orders"] == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.pt2", "run"]
    assert onnx_function("a.onnx")(torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8)).shape == (1, 8)
    assert capsys.readouterr().err == "vididi export: error: output must end in .onnx or .pt2, got 'a.tflite'\n"
