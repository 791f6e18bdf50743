"""What ONNX Runtime and torch.export compute from exported files is what the model computes."""

import json
import sys
import zipfile
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.cli import run_command
from vididi_hf.configuration_vididi import BACKBONE_NAMES, ViDiDiConfig
from vididi_hf.detection_vididi import ViDiDiForActionDetection
from vididi_hf.hub.export import ExportGraph, check, export_onnx, export_program, onnx_function, read_description
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

TINY = {"hidden_sizes": (4, 4, 8, 8), "depths": (1, 1, 1, 1), "image_size": 32, "num_frames": 3}
MEAN = torch.tensor([0.43216, 0.394666, 0.37645]).view(3, 1, 1)
STD = torch.tensor([0.22803, 0.22145, 0.216989]).view(3, 1, 1)


def build(kind=ViDiDiModel, **options) -> nn.Module:
    """A tiny model whose BatchNorms have statistics of their own, in every row."""
    torch.manual_seed(0)
    model = kind(ViDiDiConfig(**{**TINY, **options})).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.7, 0.3)
            nn.init.uniform_(module.running_var, 0.3, 1.3)
    return model


def run(path: Path, clips: torch.Tensor) -> torch.Tensor:
    """What ONNX Runtime makes of clips, called as a consumer would."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"pixel_values": clips.numpy()})[0])


@torch.no_grad()
def assert_close(found: torch.Tensor, *parts) -> None:
    """Compares with the features of a model for (clips, derivative order, model) each, side by side."""
    expected = torch.cat([model(clips, derivative_order=order).pooler_output for clips, order, model in parts], dim=1)
    assert expected.std(dim=1).min() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_consumer_sends_decoded_frames(tmp_path: Path) -> None:
    model, path = build(batch_norm="per_order"), tmp_path / "encoder.onnx"
    graph = ExportGraph(model, ViDiDiVideoProcessor(), inputs="uint8_frames", orders=(0, 1))
    assert export_onnx(graph, path) < 1e-4
    for batch in (1, 5):
        frames = torch.randint(256, (batch, 4, 3, 32, 32), dtype=torch.uint8)
        normalized = (frames / 255 - MEAN) / STD
        found = run(path, frames)
        assert_close(found, (normalized[:, :3], 0, model), (normalized[:, 1:] - normalized[:, :-1], 1, model))
    # The file says what it takes and gives, and holds all weights once.
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [given], [returned] = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("pixel_values", "tensor(uint8)", ["batch", 4, 3, 32, 32])
    assert (returned.name, returned.shape) == ("pooler_output", ["batch", 16])
    description = read_description(path)
    assert (description["input"]["shape"], description["derivative_orders"]) == ([4, 3, 32, 32], [0, 1])
    assert list(tmp_path.iterdir()) == [path]
    onnx.checker.check_model(str(path), full_check=True)
    shapes = [tuple(one.dims) for one in onnx.load(path).graph.initializer]
    assert shapes.count(tuple(model.backbone.stem[0].weight.shape)) == 1


@pytest.mark.slow  # the way of r3d_18, which the other tests take
@pytest.mark.parametrize("name", [name for name in BACKBONE_NAMES if name != "r3d_18"])
def test_every_backbone_is_exported(name: str, tmp_path: Path) -> None:
    model = build(backbone=name, **({"hidden_sizes": None, "depths": None} if name == "s3d" else {}))
    assert export_onnx(ExportGraph(model), tmp_path / "a.onnx") < 1e-4
    clips = torch.randn(4, 3, 3, 32, 32)
    assert_close(run(tmp_path / "a.onnx", clips), (clips, 0, model))


def test_a_derivative_can_be_sent_ready(tmp_path: Path) -> None:
    model = build(batch_norm="per_order")
    export_onnx(ExportGraph(model, inputs="derivative", orders=(2,)), tmp_path / "a.onnx")
    clips = torch.randn(2, 3, 3, 32, 32)
    found = run(tmp_path / "a.onnx", clips)
    assert_close(found, (clips, 2, model))
    with torch.no_grad():  # other statistics would have shown
        assert (found - model(clips, derivative_order=1).pooler_output).abs().max() > 1e-2


def test_derivatives_are_rescaled_inside(tmp_path: Path) -> None:
    plain, model = (build(batch_norm="shared", derivative_scale=scale) for scale in ("none", "unit"))
    export_onnx(ExportGraph(model, orders=(1, 0)), tmp_path / "a.onnx")
    frames = 0.2 * torch.randn(2, 4, 3, 32, 32)
    derivative = frames[:, 1:] - frames[:, :-1]
    scaled = torch.stack([clip / clip.square().mean().sqrt() for clip in derivative])
    found = run(tmp_path / "a.onnx", frames)
    assert_close(found, (scaled, 0, plain), (frames[:, :3], 0, plain))
    with torch.no_grad():
        assert (found[:, :8] - plain(derivative).pooler_output).abs().max() > 1e-2


@pytest.mark.parametrize("orders", [(1,), (2, 0)])
def test_classifiers_differentiate_inside(orders: tuple[int, ...], tmp_path: Path) -> None:
    labels = {0: "up", 1: "down"}
    model = build(ViDiDiForVideoClassification, classifier_orders=orders, batch_norm="per_order", id2label=labels)
    graph = ExportGraph(model)
    assert export_onnx(graph, tmp_path / "a.onnx") < 1e-4
    assert export_program(graph, tmp_path / "a.pt2") < 1e-4
    frames = torch.randn(5, 3 + max(orders), 3, 32, 32)
    program = torch.export.load(tmp_path / "a.pt2").module()
    with torch.no_grad():
        expected = model(frames).logits
    for found in (run(tmp_path / "a.onnx", frames), program(frames)):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for name in ("a.onnx", "a.pt2"):
        description = read_description(tmp_path / name)
        assert (description["output"], description["labels"]) == ("logits", ["up", "down"])


def test_program_of_an_encoder(tmp_path: Path) -> None:
    model = build(batch_norm="per_order")
    graph = ExportGraph(model, ViDiDiVideoProcessor(), inputs="uint8_frames", orders=(1,), num_frames=4, image_size=40)
    assert export_program(graph, tmp_path / "a.pt2") < 1e-4
    frames = torch.randint(256, (1, 5, 3, 40, 40), dtype=torch.uint8)
    found = torch.export.load(tmp_path / "a.pt2").module()(frames)
    assert_close(found.detach(), (frames.float().diff(dim=1) / 255 / STD, 1, model))  # the mean cancels


def test_nothing_is_written_that_computes_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = ExportGraph(build())
    for wrong, message in (
        (lambda clips: graph(clips) + 1e-2, "computes other outputs"),
        (lambda clips: graph(clips)[:, :4], r"returns \(1, 4\), not \(1, 8\)"),
        (lambda clips: graph(clips) * float("nan"), "computes other outputs"),
    ):
        with pytest.raises(ValueError, match=message):
            check(graph, wrong)
    monkeypatch.setattr("vididi_hf.hub.export.TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="computes other outputs"):
        export_program(graph, tmp_path / "a.pt2")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ViDiDiModel, {"inputs": "video"}, "inputs must be one of frames, uint8_frames, derivative, got 'video'"),
        (ViDiDiModel, {"orders": ()}, r"distinct integers of at least 0, got \(\)"),
        (ViDiDiModel, {"orders": (1, 1)}, r"distinct integers of at least 0, got \(1, 1\)"),
        (ViDiDiModel, {"inputs": "derivative", "orders": (0, 1)}, "exactly one order"),
        (ViDiDiModel, {"inputs": "derivative", "orders": (0,)}, "exactly one order of at least 1"),
        (ViDiDiModel, {"inputs": "uint8_frames"}, "needs a processor"),
        (
            ViDiDiModel,
            {"inputs": "uint8_frames", "processor": ViDiDiVideoProcessor(do_normalize=False)},
            "divides by 255 and normalizes",
        ),
        (ViDiDiForActionDetection, {}, "a ViDiDiForActionDetection cannot be exported"),
        (ViDiDiForVideoClassification, {"orders": (1,)}, "differentiates frames itself"),
    ],
)
def test_impossible_options(kind, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportGraph(build(kind), **options)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    build(batch_norm="per_order").save_pretrained("run")
    ViDiDiVideoProcessor(num_frames=3, crop_size=32).save_pretrained("run")
    run_command("export", ["run", "a.onnx", "--inputs", "uint8_frames", "--orders", "1"])
    assert json.loads(capsys.readouterr().out.splitlines()[0])["derivative_orders"] == [1]
    assert onnx_function("a.onnx")(torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8)).shape == (1, 8)
    run_command("export", ["run", "a.pt2"])
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    for name, message in (
        ("a.tflite", "output must end in .onnx or .pt2, got 'a.tflite'"),
        ("b.onnx", "onnxscript is not installed: pip install 'vididi-hf[export]'"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            run_command("export", ["run", name])
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.pt2", "run"]


def test_a_derivative_is_of_the_first_order_by_default() -> None:
    assert ExportGraph(build(), inputs="derivative").description()["derivative_orders"] == [1]


def test_reading_a_description_executes_nothing(tmp_path: Path) -> None:
    export_program(ExportGraph(build()), tmp_path / "a.pt2")
    with zipfile.ZipFile(tmp_path / "a.pt2") as good, zipfile.ZipFile(tmp_path / "b.pt2", "w") as changed:
        for name in good.namelist():  # nothing but the description can be read
            changed.writestr(name, good.read(name) if "/extra/" in name else b"damaged")
    assert read_description(tmp_path / "b.pt2") == read_description(tmp_path / "a.pt2")
    (tmp_path / "c.pt2").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"c\.pt2 cannot be read"):
        read_description(tmp_path / "c.pt2")


def test_foreign_files_have_no_description(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match="was not exported by vididi_hf"):
        read_description(tmp_path / "foreign.onnx")
