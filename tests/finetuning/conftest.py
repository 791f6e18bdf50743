"""What tests of fine-tuning share: videos that can be told apart, and a recipe for them."""

import pytest
import torch
from torchcodec.encoders import VideoEncoder

from vididi_hf.finetuning.recipe import FinetuningRecipe


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """A list of 12 + 6 videos of three classes, which brightness tells, and flicker too."""
    folder = tmp_path_factory.mktemp("videos")
    rows = ["video,label,split"]
    for index in range(18):
        generator = torch.Generator().manual_seed(index)
        kind = index % 3
        frames = torch.randint(90, 130, (8, 3, 36, 36), generator=generator) + (90, -80, 0)[kind]
        frames[::2] += (0, 40, 90)[kind]
        VideoEncoder(frames.clamp(0, 255).to(torch.uint8), frame_rate=10).to_file(folder / f"{index}.mp4")
        rows.append(f"{index}.mp4,{['bright', 'dark', 'flicker'][kind]},{'train' if index < 12 else 'test'}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    return folder / "clips.csv"


@pytest.fixture
def recipe(videos, checkpoint, tmp_path):
    def make(name="run", **changes):
        settings = {"epochs": 2, "batch_size": 6, "warmup_epochs": 0, "color_probability": 0.0, "test_clips": 2}
        settings |= {"model": str(checkpoint), "dataset": str(videos), "output_dir": str(tmp_path / name)}
        return FinetuningRecipe(**(settings | {"num_workers": 0, "progress": False} | changes))

    return make
