"""Fixtures of the Hub's tests: the loopback server, and small runs to publish."""

import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from PIL import Image

from tests.hub.hub_server import HubServer
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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A loopback Hub for the client in this process."""
    # The client reads this setting from the environment when it is imported, which has happened.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with HubServer().running() as server:
        yield server


def save_untrained(recipe: PretrainingRecipe) -> None:
    """Writes what a pretraining run writes, without training."""
    torch.manual_seed(recipe.seed)
    ViDiDiModel(recipe.model_config()).save_pretrained(recipe.output_dir)
    ViDiDiVideoProcessor(num_frames=8, size=36, crop_size=32).save_pretrained(recipe.output_dir)
    Path(recipe.output_dir, "recipe.json").write_text(recipe.to_json())


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a pretraining run leaves, evaluated by retrieval, and once more with random weights."""
    home = tmp_path_factory.mktemp("home")
    folder, videos = home / "runs" / "vididi", home / "videos"
    videos.mkdir()
    save_untrained(PretrainingRecipe(dataset=str(videos), output_dir=str(folder), projector_sizes=[8, 8], **TINY))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    failed = [str(videos / "broken.mp4")]
    protocol = {"clips_per_video": 10, "crop": "center", "group_column": None, "failed_videos": failed}
    for name, random_init, recall in (("retrieval", False, 0.25), ("random", True, 0.0625)):
        metrics = {"frames": {"R@1": recall, "R@5": 0.5}, "both": {"R@1": 0.125}}
        result = EvaluationResult("retrieval", metrics, protocol, primary="R@1", dataset="videos")
        report = report_of(result, str(folder), seed=0, random_init=random_init)
        write_report(folder / name / "metrics.json", report)
    Image.effect_noise((4, 4), 50).save(folder / "retrieval" / "retrieval.png")
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
    ViDiDiVideoProcessor(num_frames=4, frame_stride=2, size=36, crop_size=32).save_pretrained(folder)
    return folder
