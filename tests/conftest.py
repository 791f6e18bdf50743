"""Fixtures that several test files share: small real video files, good and broken, and the smallest `motion` set."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.dynamic_module_utils
from torch import Tensor
from torchcodec.encoders import AudioEncoder, VideoEncoder

import vididi_hf
from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.data.augment import ClipAugmentation
from vididi_hf.data.motion import generate_motion


@pytest.fixture(scope="session", autouse=True)
def vididi_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keeps built-in sets out of the user's cache."""
    home = tmp_path_factory.mktemp("vididi_home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDIDI_HOME", str(home))
        yield home


@pytest.fixture
def remote_code_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps code that comes with checkpoints out of the user's cache, and apart from that of other tests."""
    cache = tmp_path / "remote_code"
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(cache))
    monkeypatch.setattr(sys, "path", list(sys.path))  # transformers adds the cache
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)
    return cache


@pytest.fixture(scope="session")
def motion_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a `motion` set: 2 training videos and 1 test video of each of the 8 classes. Do not write to it."""
    return generate_motion(tmp_path_factory.mktemp("motion"), num_train=16, num_test=8, progress=False).parent


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pretraining leaves: an encoder with its processor, as small as can be. Do not write to it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(7)
    ViDiDiModel(ViDiDiConfig(hidden_sizes=(8, 8, 16, 32), depths=(1, 1, 1, 1), num_frames=4)).save_pretrained(folder)
    ViDiDiVideoProcessor(num_frames=4, frame_stride=1, size=32, crop_size=32).save_pretrained(folder)
    return folder


HOLDER = """
import os, sys, time
sys.path.insert(0, sys.argv[2])
from files import folder_lock  # alone: the package imports torch
with folder_lock(sys.argv[1]):
    if os.fork() == 0:
        time.sleep(60)  # a worker that outlives its parent
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of the folder `tmp_path / "held"` until its standard input is closed."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "held"), str(Path(vididi_hf.__file__).parent)]
    how: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True, "text": True}
    with subprocess.Popen(command, **how) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == str(holder.pid)
        yield holder
        os.killpg(holder.pid, signal.SIGKILL)


def _write_video(path: Path, frames: Tensor | int = 24, seed: int = 0) -> Path:
    if isinstance(frames, int):
        generator = torch.Generator().manual_seed(seed)
        blocks = torch.randint(256, (frames, 3, 5, 6), dtype=torch.uint8, generator=generator)
        frames = blocks.repeat_interleave(8, -1).repeat_interleave(8, -2)
    path.parent.mkdir(parents=True, exist_ok=True)
    VideoEncoder(frames, frame_rate=12).to_file(path, extra_options={"threads": "1"})
    return path


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """`write_video(path, frames=24, seed=0)` encodes uint8 frames, or so many frames of noise of 40×48 pixels."""
    return _write_video


@pytest.fixture(scope="session")
def broken_videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of every kind that cannot be decoded, by what is wrong with it."""
    folder = tmp_path_factory.mktemp("broken")
    paths = {kind: folder / f"{kind}.mp4" for kind in ("empty", "text", "truncated", "audio-only", "missing")}
    paths["empty"].touch()
    paths["text"].write_text("this is no video\n" * 40)
    whole = _write_video(folder / "whole.mp4").read_bytes()
    paths["truncated"].write_bytes(whole[: len(whole) // 2])
    AudioEncoder(torch.zeros(1, 8000), sample_rate=8000).to_file(paths["audio-only"])
    return paths


@pytest.fixture(scope="session")
def no_augmentation() -> ClipAugmentation:
    """Resizes square frames to 48 pixels and changes nothing else; `dataclasses.replace` switches single changes on."""
    return ClipAugmentation(
        image_size=48,
        area=(1.0, 1.0),
        ratio=(1.0, 1.0),
        flip_probability=0.0,
        jitter_probability=0.0,
        gray_probability=0.0,
        blur_probability=0.0,
    )
