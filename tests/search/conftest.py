"""A tiny encoder on the disk, labeled videos with a broken one among them, and their embeddings."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.search.options import EmbeddingOptions

BROKEN = 3
VIDEOS = 11


def save_checkpoint(folder: Path, seed: int) -> Path:
    """An encoder whose BatchNorm has statistics of its own."""
    torch.manual_seed(seed)
    model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1), batch_norm="shared"))
    for _ in range(2):
        model(torch.randn(4, 4, 3, 32, 32))
    model.save_pretrained(folder)
    ViDiDiVideoProcessor(num_frames=3, frame_stride=2, size=36, crop_size=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"), seed=7)


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("other"), seed=8)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory, write_video: Callable[..., Path]) -> Path:
    """A list of 11 videos of 3 classes; the one in row 3 is broken. Do not write to its folder."""
    folder = tmp_path_factory.mktemp("videos")
    lines = ["video,label,camera"]
    for number in range(VIDEOS):
        if number == BROKEN:
            (folder / f"{number}.mp4").write_text("no video")
        else:
            write_video(folder / f"{number}.mp4", frames=9, seed=number)
        lines.append(f"{number}.mp4,{'cab'[number % 3]},{number % 2}")
    (folder / "clips.csv").write_text("\n".join(lines))
    return folder / "clips.csv"


@pytest.fixture
def options(checkpoint: Path, videos: Path, tmp_path: Path) -> Callable[..., EmbeddingOptions]:
    """`options(**changes)`: 3 shards of 4 videos each in a new folder."""

    def make(**changes) -> EmbeddingOptions:
        fixed = {"model": str(checkpoint), "dataset": str(videos), "output_dir": str(tmp_path / "embeddings")}
        small = {"num_clips": 2, "videos_per_shard": 4, "batch_size": 3, "num_workers": 0}
        return EmbeddingOptions(**{**fixed, **small, "device": "cpu", "progress": False, **changes})

    return make
