"""Fixtures of the Hub's tests: the loopback server, and small runs to publish."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image

from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.evaluation.results import EvaluationResult, report_of, write_report
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

collect_ignore = ["loading_process.py", "publishing_process.py"]  # programs, not tests

TINY = {"hidden_sizes": [4, 4, 8, 8], "depths": [1, 1, 1, 1], "image_size": 32}
ROWS = [
    {"epoch": 1, "total_steps": 5, "loss": 3.5, "videos_per_second": 40.0},
    {"epoch": 2, "total_steps": 10, "loss": 2.25, "videos_per_second": 60.0, "R@1": 0.375},
]


@pytest.fixture(scope="session")
def server_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hub_server", Path(__file__).with_name("hub_server.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hub(server_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """A loopback Hub for the client in this process."""
    # The client reads this setting from the environment when it is imported, which has happened.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with server_module.HubServer().running() as server:
        yield server


def save_untrained(recipe: PretrainingRecipe) -> None:
    """Writes what a pretraining run writes, without training."""
    torch.manual_seed(recipe.seed)
    ViDiDiModel(recipe.model_config()).save_pretrained(recipe.output_dir)
    size = recipe.image_size
    ViDiDiVideoProcessor(num_frames=8, size=size * 8 // 7, crop_size=size).save_pretrained(recipe.output_dir)
    Path(recipe.output_dir, "recipe.json").write_text(recipe.to_json())


def _picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(path)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a pretraining run leaves, evaluated by retrieval, and once more with random weights."""
    home = tmp_path_factory.mktemp("home")
    folder, videos = home / "runs" / "vididi", home / "videos"
    videos.mkdir()
    save_untrained(PretrainingRecipe(dataset=str(videos), output_dir=str(folder), projector_sizes=[8, 8], **TINY))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, random_init in (("retrieval", False), ("random", True)):
        result = EvaluationResult(
            "retrieval",
            {"frames": {"R@1": 0.25, "R@5": 0.5}, "both": {"R@1": 0.125}},
            {
                "clips_per_video": 10,
                "crop": "center",
                "group_column": None,
                "failed_videos": [str(videos / "broken.mp4")],
            },
            primary="R@1",
            dataset="videos",
        )
        if random_init:
            result.metrics["frames"]["R@1"] = 0.0625
        report = report_of(result, str(folder), seed=0, random_init=random_init)
        write_report(folder / name / "metrics.json", report)
    _picture(folder / "retrieval" / "retrieval.png")
    checkpoint = folder / "checkpoints" / "step-00000010"
    save_untrained(PretrainingRecipe(dataset=str(videos), output_dir=str(checkpoint), seed=1, **TINY))
    (checkpoint / "training_state").mkdir()
    (checkpoint / "training_state" / "optimizer.pt").write_bytes(b"state of an optimizer")
    (checkpoint / "training_state" / "progress.json").write_text("{}")
    return folder


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned classifier of three classes, of frames and their derivative, without a record of its training."""
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(3)
    labels = {0: "rise", 1: "fall", 2: "turn"}
    config = ViDiDiConfig(**TINY, id2label=labels, classifier_orders=(0, 1))
    ViDiDiForVideoClassification(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    ViDiDiVideoProcessor(num_frames=4, frame_stride=2, size=size, crop_size=size).save_pretrained(folder)
    return folder
