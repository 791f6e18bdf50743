"""Two tiny encoders with random weights, and a small gallery."""

import pytest
import torch

from explorer.exploration import Explorer
from explorer.uploads import read_upload
from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor


@pytest.fixture(scope="session", autouse=True)
def read_in_this_process():
    """A process of its own for each upload would first import torch, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("explorer.exploration.read_in_time", read_upload)
        yield


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of two encoders that process videos alike."""
    folder = tmp_path_factory.mktemp("encoders")
    for seed, name in enumerate(("baseline", "ViDiDi")):
        torch.manual_seed(seed)
        ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1), image_size=32)).save_pretrained(
            folder / name
        )
        ViDiDiVideoProcessor(size={"shortest_edge": 36}, crop_size=32, frame_stride=1).save_pretrained(folder / name)
    return {name: str(folder / name) for name in ("baseline", "ViDiDi")}


@pytest.fixture(scope="session")
def explorer(checkpoints: dict[str, str]) -> Explorer:
    """An explorer of the two."""
    return Explorer.from_pretrained(checkpoints, per_motion=1)
