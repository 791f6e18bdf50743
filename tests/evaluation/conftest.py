"""A tiny encoder, its processor, and the two splits of a small `motion` set."""

import shutil

import datasets
import pytest
import torch

from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor, load_video_dataset

TINY = {"hidden_sizes": (4, 4, 8, 8), "depths": (1, 1, 1, 1)}


@pytest.fixture(scope="session")
def splits(motion_root):
    return [load_video_dataset(motion_root / "clips.csv", split=split) for split in ("train", "test")]


@pytest.fixture(scope="session")
def processor():
    return ViDiDiVideoProcessor(num_frames=4, frame_stride=2, size=32, crop_size=32)


@pytest.fixture
def copied(tmp_path):
    """Gives rows whose videos are copies in other files."""

    def copy_of(rows):
        videos = rows.cast_column("video", datasets.Video(decode=False))["video"]
        paths = [shutil.copy(video["path"], tmp_path / f"{row}.mp4") for row, video in enumerate(videos)]
        return (
            rows.remove_columns("video")
            .add_column("video", list(map(str, paths)))
            .cast_column("video", datasets.Video())
        )

    return copy_of


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ViDiDiModel(ViDiDiConfig(**TINY)).eval()
