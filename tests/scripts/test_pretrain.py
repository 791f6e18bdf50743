"""The command line from end to end, in this process and, with two processes, as users launch it."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torchcodec.encoders import VideoEncoder
from transformers import AutoModel, AutoVideoProcessor

from vididi_hf import ViDiDiModel
from vididi_hf.pretraining.logging import read_metrics
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.checkpoints import list_checkpoints

# torch's error handler wants a real stderr, which pytest has replaced.
pytestmark = pytest.mark.filterwarnings("ignore:Unable to enable fault handler")

SCRIPT = Path(__file__).parents[2] / "scripts" / "pretrain.py"
VIDEOS = 12
FLAGS = """
    --hidden_sizes 4 4 8 8 --depths 1 1 1 1 --projector_sizes 8 8 --num_frames 4 --frame_stride 1 --image_size 32
    --batch_size 3 --optimizer adamw --learning_rate 0.1 --num_workers 0 --no_progress
"""
TINY = FLAGS.split()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for index in range(VIDEOS):
        generator = torch.Generator().manual_seed(index)
        blocks = torch.randint(256, (10, 3, 6, 6), dtype=torch.uint8, generator=generator)
        frames = blocks.repeat_interleave(8, -1).repeat_interleave(8, -2)
        VideoEncoder(frames, frame_rate=12).to_file(folder / f"{index:02}.mp4")
    return folder


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Runs the script's main function with arguments."""
    spec = importlib.util.spec_from_file_location("pretrain_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments: str | Path) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        module.main()

    yield run
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_folder_becomes_an_encoder_and_its_recipe_continues_the_run(
    script: Callable[..., None], videos: Path, tmp_path: Path
) -> None:
    script("--dataset", videos, "--output_dir", tmp_path, "--order_schedule", "first-order", "--epochs", "1", *TINY)
    model, processor = AutoModel.from_pretrained(tmp_path), AutoVideoProcessor.from_pretrained(tmp_path)
    assert type(model) is ViDiDiModel
    clips = processor(str(videos / "00.mp4"))["pixel_values"]
    assert model.eval()(clips).pooler_output.shape == (1, 8)
    script("--config", tmp_path / "recipe.json", "--resume", "--epochs", "3")
    assert [(row["epoch"], row["total_steps"]) for row in read_metrics(tmp_path)] == [(1, 4), (2, 8), (3, 12)]
    recipe = PretrainingRecipe.read_values(tmp_path / "recipe.json")
    assert (recipe["order_schedule"], recipe["epochs"], recipe["resume"]) == ("first-order", 3, True)
    assert list_checkpoints(tmp_path)[-1].name == "step-00000012"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
        (["--backbone", "r3d_19"], "backbone must be one of 'r3d_18', 'r2plus1d_18', 'mc3_18', 's3d', got 'r3d_19'"),
        (["--dataset", "nowhere"], "no data set 'nowhere'"),
        (["--dataset", "VIDEOS", "--split", "validation"], "has no split 'validation'"),
        (["--dataset", "VIDEOS", "--batch_size", "13"], "12 videos, fewer than one global batch"),
    ],
)
def test_mistakes_end_with_one_line_that_names_them(
    arguments: list[str],
    message: str,
    script: Callable[..., None],
    videos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(videos) if argument == "VIDEOS" else argument for argument in arguments]
    with pytest.raises(SystemExit) as end:
        script(*TINY, "--output_dir", tmp_path / "run", *given)
    assert end.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("pretrain.py: error: ")
    assert message in last
    assert list_checkpoints(tmp_path / "run") == []


def test_help_shows_how_it_is_used(script: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        script("--help")
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "accelerate launch scripts/pretrain.py" in text
    assert "--order_schedule" in text


def test_accelerate_launch_trains_in_two_processes(videos: Path, tmp_path: Path) -> None:
    """No port has to be free for it: the processes meet at one that the system chooses."""
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes", "2", "--cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT"):
        environment.pop(name, None)
    command = [*launcher, str(SCRIPT), "--dataset", str(videos), "--output_dir", str(tmp_path), "--epochs", "2", *TINY]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-4000:]
    assert "1 of 2 processes" in run.stdout
    # Two batches of 3 at a time: 12 videos take 2 steps, and not the 4 of a single process.
    assert [(row["epoch"], row["total_steps"]) for row in read_metrics(tmp_path)] == [(1, 2), (2, 4)]
    assert type(AutoModel.from_pretrained(tmp_path)) is ViDiDiModel
