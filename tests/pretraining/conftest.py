"""The videos of whole runs, and runs that nothing interrupted."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from tests.pretraining.runs import make_recipe, write_videos
from vididi_hf.pretraining.loop import pretrain


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(autouse=True)
def _own_accelerate_state() -> Iterator[None]:
    # accelerate keeps one state per process, and refuses another precision in it.
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def whole_runs(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an uninterrupted run with an objective, made when first asked for. Do not write to it."""
    folders: dict[str, Path] = {}

    def run(objective: str) -> Path:
        if objective not in folders:
            AcceleratorState._reset_state(reset_partial_state=True)
            folders[objective] = pretrain(make_recipe(videos, tmp_path_factory.mktemp(objective), objective))
        return folders[objective]

    return run
