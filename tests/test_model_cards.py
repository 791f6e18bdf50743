"""The reference checkpoints in `model_cards/` load, are small, say what was measured, and ViDiDi's sees motion."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import vididi_hf
from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.data.motion import describe_motion, render_motion
from vididi_hf.hub.card import write_card
from vididi_hf.hub.options import PublishOptions

FOLDER = Path(__file__).parents[1] / "model_cards"
NAMES = ("vididi-vicreg-tiny-motion", "baseline-vicreg-tiny-motion")


@pytest.fixture(params=NAMES)
def checkpoint(request: pytest.FixtureRequest) -> Path:
    return FOLDER / request.param


def test_small_and_without_traces_of_the_machine(checkpoint: Path) -> None:
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_500_000
    for path in files:
        if path.suffix in (".json", ".jsonl", ".md"):
            assert not re.search(r'"(/|~|[A-Z]:\\)|/(home|root|tmp|Users|mnt|data)/', path.read_text()), path
    assert "/" not in json.loads((checkpoint / "recipe.json").read_text())["output_dir"]


def test_configuration_weights_and_processor_round_trip(checkpoint: Path, tmp_path: Path) -> None:
    model, report = ViDiDiModel.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    processor = ViDiDiVideoProcessor.from_pretrained(checkpoint)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    saved, original = (ViDiDiConfig.from_pretrained(folder).to_dict() for folder in (tmp_path, checkpoint))
    assert {**saved, "_name_or_path": ""} == {**original, "_name_or_path": "", "auto_map": saved["auto_map"]}
    assert ViDiDiVideoProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()
    saved, original = (load_file(folder / "model.safetensors") for folder in (tmp_path, checkpoint))
    assert saved.keys() == original.keys()
    assert all(torch.equal(saved[name], original[name]) for name in original)


def test_the_card_is_what_the_folder_says(checkpoint: Path, tmp_path: Path) -> None:
    """The card can be written again from the other files, and its model-index is that of the report."""
    folder = shutil.copytree(checkpoint, tmp_path / "copy", ignore=shutil.ignore_patterns("README.md"))
    notes = str(FOLDER / "notes.md")
    options = PublishOptions(checkpoint=str(checkpoint), repo=f"model_cards/{checkpoint.name}", notes=notes)
    text = (checkpoint / "README.md").read_text(encoding="utf-8")
    assert write_card(folder, options).read_text(encoding="utf-8") == text
    report = json.loads((checkpoint / "results" / "retrieval-motion-test.json").read_text())
    assert (report["dataset"], report["protocol"]["query_videos"], report["random_init"]) == ("motion", 400, False)
    told = {
        (entry.metric_args["input"], entry.metric_name.split(",")[0]): entry
        for entry in ModelCard(text).data.eval_results
    }
    for shown, metrics in report["metrics"].items():
        for name, value in metrics.items():
            assert told[shown, name].metric_value == value
        assert re.search(rf"^\| {shown} \| {100 * metrics['R@1']:.1f} \|", text, flags=re.MULTILINE)
    assert ("It was trained with VICReg alone" in text) is checkpoint.name.startswith("baseline")


def test_the_encoder_in_the_wheel_is_the_reference_checkpoint() -> None:
    packaged = Path(vididi_hf.__file__).with_name("reference_encoder")
    names = {"config.json", "model.safetensors", "video_preprocessor_config.json"}
    assert {path.name for path in packaged.iterdir()} == names
    for name in names:
        assert (packaged / name).read_bytes() == (FOLDER / NAMES[0] / name).read_bytes()


def retrieval(name: str, orders: tuple[int, ...]) -> list[float]:
    """R@1 of 32 videos in 64, by derivative order, in a `motion` set that nothing was trained on."""
    model = ViDiDiModel.from_pretrained(FOLDER / name)
    processor = ViDiDiVideoProcessor.from_pretrained(FOLDER / name)
    embedded, labels = {}, {}
    for split, count in (("train", 64), ("test", 32)):
        labels[split] = [str(describe_motion(split, index, seed=7)["label"]) for index in range(count)]
        clips = processor([render_motion(split, index, seed=7) for index in range(count)], derivative_orders=orders)
        for order in orders:
            key = f"pixel_values_order_{order}" if order else "pixel_values"
            with torch.inference_mode():
                features = model(clips[key], derivative_order=order).pooler_output
            embedded[split, order] = torch.nn.functional.normalize(features)
    recalls = []
    for order in orders:
        nearest = (embedded["test", order] @ embedded["train", order].T).argmax(dim=1).tolist()
        recalls.append(sum(labels["train"][row] == label for row, label in zip(nearest, labels["test"])) / 32)
    return recalls


def test_vididi_finds_videos_that_move_alike_and_the_baseline_does_not() -> None:
    frames, derivative = retrieval(NAMES[0], orders=(0, 1))
    [baseline] = retrieval(NAMES[1], orders=(0,))
    assert min(frames, derivative) > 0.6
    assert baseline < 0.4
