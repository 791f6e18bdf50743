"""Every family of wrapped encoders computes what transformers computes, and does what our own networks do."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import AutoModel, VideoMAEConfig, VideoMAEForVideoClassification

from tests.tiny_encoders import CONFIGS, FRAMES, PATCH, PROCESSORS, SIZE, WIDTH, save_encoder
from vididi_hf import ViDiDiForActionDetection, ViDiDiForVideoClassification, ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.cli import main
from vididi_hf.hub.export import ExportGraph, export_onnx
from vididi_hf.search.embedding import encoder_digest
from vididi_hf.visualization.saliency import video_saliency

FIXED = ("videomae", "timesformer", "vivit")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`folders(name)` is the folder of an encoder. Do not write to it."""
    root, known = tmp_path_factory.mktemp("encoders"), {}

    def folder(name: str) -> Path:
        if name not in known:
            known[name] = save_encoder(root / name, name)
        return known[name]

    return folder


def clips(frames: int = FRAMES, size: int = SIZE, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, frames, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def own_tokens(folder: Path, pixels: torch.Tensor) -> torch.Tensor:
    """What the encoder itself returns, called as its documentation says."""
    encoder: Any = AutoModel.from_pretrained(folder).eval()
    kind = encoder.config.model_type
    if kind == "vjepa2":
        return encoder(pixel_values_videos=pixels, skip_predictor=True).last_hidden_state
    if kind == "videoprism_vision_model":
        return encoder(pixel_values_videos=pixels).last_hidden_state
    if kind in FIXED:
        return encoder(pixels).last_hidden_state
    return torch.stack([encoder(frame).last_hidden_state for frame in pixels.unbind(1)], dim=1)


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_are_those_of_the_encoder(name: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    model = ViDiDiModel.from_encoder(str(folders(name)))
    with torch.no_grad():
        features, pooled = model(clips(), return_dict=False)
    tokens = own_tokens(folders(name), clips())
    times = FRAMES // 2 if name in ("videomae", "vjepa2", "vivit") else FRAMES
    if name == "timm_cnn":
        torch.testing.assert_close(features, tokens.transpose(1, 2), rtol=0, atol=0)
        torch.testing.assert_close(pooled, tokens.mean(dim=(1, 3, 4)))
    else:
        patches = tokens[..., 1:, :] if name in ("timesformer", "vivit", "dinov2", "timm_vit") else tokens
        patches = patches.flatten(1, -2)
        shape = (2, SIZE // PATCH, SIZE // PATCH, times) if name == "timesformer" else (2, times, 2, 2)
        order = (0, 4, 3, 1, 2) if name == "timesformer" else (0, 4, 1, 2, 3)
        torch.testing.assert_close(features, patches.reshape(*shape, -1).permute(order), rtol=0, atol=0)
        torch.testing.assert_close(pooled, patches.mean(dim=1), rtol=0, atol=0)
    assert features.shape[:3] == (2, model.config.hidden_size, times)
    # And those of a saved one, in which no other name of a parameter can get lost.
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    loaded: Any = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    again, report = loaded
    assert not any(report.values())
    assert str(folders(name)) not in (tmp_path / "config.json").read_text(encoding="utf-8")
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(clips()).pooler_output, pooled, rtol=0, atol=0)


def test_positions_keep_their_places(folders: Callable[[str], Path]) -> None:
    """A change of one patch at one time changes the features there most; so no axis is mistaken for another."""
    for name in CONFIGS:
        if name == "timm_cnn":  # has one feature for the frame
            continue
        model = ViDiDiModel.from_encoder(str(folders(name)))
        changed = clips(batch=1)
        changed[:, 2:, :, :PATCH, PATCH:] += 3
        with torch.no_grad():
            difference = model(changed).last_hidden_state - model(clips(batch=1)).last_hidden_state
        moved = difference.norm(dim=1)[0]
        half = len(moved) // 2
        assert moved[half:, 0, 1].min() > moved[:half].max(), name


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "timm_cnn"])
def test_other_sizes_work_or_are_refused_in_one_line(name: str, folders: Callable[[str], Path]) -> None:
    model = ViDiDiModel.from_encoder(str(folders(name)))
    for sizes in ((8, SIZE), (FRAMES, 48)):
        if name in FIXED or (name == "timm_vit" and sizes[1] != SIZE):
            with pytest.raises(ValueError, match=r"takes only clips of . frames of 32 x 32"):
                model(clips(*sizes))
            continue
        with torch.no_grad():
            shape = model(clips(*sizes)).last_hidden_state.shape
        assert shape[-2:] == (sizes[1] // PATCH, sizes[1] // PATCH)
        assert shape[2] == (sizes[0] // 2 if name == "vjepa2" else sizes[0])


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_processor_prepares_frames_as_that_of_the_encoder(name: str, folders: Callable[[str], Path]) -> None:
    ours = ViDiDiVideoProcessor.from_encoder(str(folders(name)))
    own = PROCESSORS[name]
    video = np.random.default_rng(0).integers(256, size=(FRAMES, 36, 36, 3), dtype=np.uint8)
    if name == "vjepa2":
        expected = own(list(video[None]), return_tensors="pt")["pixel_values_videos"][0]
    else:
        found = own(list(video), return_tensors="pt")["pixel_values"]
        expected = found[0] if found.ndim == 5 else found
    pixels = ours(video, do_sample_frames=False)["pixel_values"][0]
    assert (ours.num_frames, ours.crop_size["height"]) == (8 if name in ("dinov2", "siglip") else FRAMES, SIZE)
    torch.testing.assert_close(pixels, expected.float(), rtol=0, atol=0.02)


def test_old_names_are_restored_and_lost_weights_are_an_error(folders: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(folders("videomae"), tmp_path / "old")
    path = tmp_path / "old" / "model.safetensors"
    model = AutoModel.from_pretrained(folders("videomae")).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    old = {
        "videomae." + name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): tensor
        for name, tensor in model.state_dict().items()
    }
    head = {"decoder.norm.weight": torch.zeros(3), "mask_token": torch.zeros(3)}
    assert sum("q_bias" in name for name in old) == 2
    save_file(old | head, path, metadata={"format": "pt"})
    wrapped = ViDiDiModel.from_encoder(str(path.parent))
    with torch.no_grad():
        expected = model(clips()).last_hidden_state.mean(1)
        torch.testing.assert_close(wrapped(clips()).pooler_output, expected, rtol=0, atol=0)
    gone, renamed = dict(old), dict(old)
    del gone["videomae.encoder.layer.1.intermediate.dense.weight"]
    renamed["videomae.encoder.layer.0.attention.attention.w_bias"] = torch.zeros(3)
    for weights, lost in ((gone, "intermediate.dense.weight"), (renamed, "w_bias")):
        save_file(weights, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"1 weights of the encoder do not load.*{lost}"):
            ViDiDiModel.from_encoder(str(path.parent))


def test_pooling(folders: Callable[[str], Path], tmp_path: Path) -> None:
    for name, frame_by_frame in (("vivit", False), ("dinov2", True)):
        model = ViDiDiModel.from_encoder(str(folders(name)), pooling="class_token")
        tokens = own_tokens(folders(name), clips())[..., 0, :]
        with torch.no_grad():
            torch.testing.assert_close(model(clips()).pooler_output, tokens.mean(1) if frame_by_frame else tokens)
    # VideoMAE's classifiers normalize the mean of the tokens, and their checkpoints have the norm in the head.
    config = VideoMAEConfig(**{**CONFIGS["videomae"].to_dict(), "use_mean_pooling": True, "num_labels": WIDTH})
    classifier = VideoMAEForVideoClassification(config).eval()
    torch.nn.init.normal_(classifier.fc_norm.weight)
    torch.nn.init.eye_(classifier.classifier.weight)
    classifier.save_pretrained(tmp_path)
    model = ViDiDiModel.from_encoder(str(tmp_path), pooling="norm")
    with torch.no_grad():
        torch.testing.assert_close(model(clips()).pooler_output, classifier(clips()).logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="class_token"):
        ViDiDiModel.from_encoder(str(tmp_path), pooling="class_token")


@pytest.mark.parametrize("name", CONFIGS)
def test_classifier_detector_and_saliency(name: str, folders: Callable[[str], Path]) -> None:
    encoder = ViDiDiModel.from_encoder(str(folders(name)), num_labels=3, classifier_orders=(0, 1))
    for kind, inputs in (
        (ViDiDiForVideoClassification, {}),
        (ViDiDiForActionDetection, {"boxes": [torch.tensor([[0.1, 0.2, 0.6, 0.9]])] * 2}),
    ):
        torch.manual_seed(0)
        model: Any = kind(encoder.config)
        model.vididi.load_state_dict(encoder.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        losses = []
        for _ in range(2):
            loss = model(clips(FRAMES + 1), labels=torch.tensor([0, 2]), **inputs).loss
            loss.backward()
            # DistributedDataParallel needs all gradients.
            assert all(parameter.grad is not None for parameter in model.parameters())
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[1] < losses[0]
    model.train_only("last_stage")
    assert sum(parameter.requires_grad for parameter in encoder.parameters()) > 0
    saliency = video_saliency(encoder, clips()[0], steps=2)
    assert saliency.shape == (FRAMES, SIZE, SIZE)
    assert saliency.max() > 0


def test_boxes_lie_on_the_patches(folders: Callable[[str], Path]) -> None:
    """The features of a box over one patch depend on the pixels of this patch most."""
    encoder = ViDiDiModel.from_encoder(str(folders("siglip")), num_labels=3)
    model = ViDiDiForActionDetection(encoder.config).eval()
    model.vididi.load_state_dict(encoder.state_dict())
    half = PATCH / SIZE
    boxes = torch.tensor([[0, 0, half, half], [half, 0, 1, half], [0, half, half, 1], [half, half, 1, 1]])
    changed = clips(batch=1)
    changed[..., :PATCH, PATCH:] += 3
    with torch.no_grad():
        moved = (model(changed, [boxes]).logits - model(clips(batch=1), [boxes]).logits).norm(dim=1)
    assert moved.argmax() == 1


@pytest.mark.parametrize("name", CONFIGS)
def test_onnx(name: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    model = ViDiDiModel.from_encoder(str(folders(name)), num_frames=FRAMES)
    assert export_onnx(ExportGraph(model, orders=(1,)), tmp_path / "encoder.onnx") < 1e-4


def test_search_takes_an_encoder(
    folders: Callable[[str], Path], write_video: Callable[..., Path], tmp_path: Path
) -> None:
    for number in range(3):
        write_video(tmp_path / "videos" / f"{number}.mp4", frames=9, seed=number)
    flags = ["--model", str(folders("vjepa2")), "--num_clips", "1", "--num_workers", "0", "--no_progress"]
    flags += ["--device", "cpu"]
    main(["embed", str(tmp_path / "videos"), *flags, "--output_dir", str(tmp_path / "embeddings")])
    query = ["--query", str(tmp_path / "videos" / "1.mp4"), "--output_dir", str(tmp_path / "search"), "--pictured", "0"]
    main(["search", "--embeddings", str(tmp_path / "embeddings"), *query, *flags])
    assert "1.mp4" in (tmp_path / "search" / "search.json").read_text(encoding="utf-8").split('"videos": [')[-1]


def test_what_does_not_fit_is_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(ValueError, match=f"{tmp_path}: no encoder of the type 'bert'"):
        ViDiDiModel.from_encoder(str(tmp_path))
    with pytest.raises(StrictDataclassError, match="pooling must be one of"):
        ViDiDiModel.from_encoder(str(folders("vivit")), pooling="max")
    model = ViDiDiModel.from_encoder(str(folders("vivit")))
    other = ViDiDiModel.from_encoder(str(folders("vivit")), pooling="class_token")
    assert encoder_digest(model) != encoder_digest(other)


def test_code_of_a_folder_neither_runs_nor_is_asked_for(tmp_path, monkeypatch):
    """With its own code, transformers would ask on the terminal whether to run it."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    (tmp_path / "config.json").write_text('{"model_type": "strange", "auto_map": {"AutoConfig": "code.Config"}}')
    (tmp_path / "code.py").write_text("raise SystemExit('executed')")
    with pytest.raises(ValueError, match=r"strange|custom code"):
        ViDiDiModel.from_encoder(str(tmp_path))
