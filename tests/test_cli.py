"""The `vididi` command: what answers at once, what a mistake costs, and that every entry leads somewhere."""

import importlib
import os
import signal
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path

import pytest
from transformers import AutoModel, AutoVideoProcessor

from vididi_hf import ViDiDiModel
from vididi_hf.cli import COMMANDS, main
from vididi_hf.options import Options, parse_options
from vididi_hf.pretraining.checkpoints import list_checkpoints
from vididi_hf.pretraining.logging import read_metrics
from vididi_hf.pretraining.recipe import PretrainingRecipe

ROOT = Path(__file__).parents[1]
FLAGS = """
    --hidden_sizes 4 4 8 8 --depths 1 1 1 1 --projector_sizes 8 8 --num_frames 4 --frame_stride 1 --image_size 32
    --batch_size 3 --optimizer adamw --learning_rate 0.1 --num_workers 0 --no_progress
"""
TINY = FLAGS.split()

# torch's error handler wants a real stderr, which pytest has replaced.
pytestmark = pytest.mark.filterwarnings("ignore:Unable to enable fault handler")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, write_video) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for index in range(12):
        write_video(folder / f"{index:02}.mp4", 12, seed=index)
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_options_and_a_function(name: str):
    options, run = (
        getattr(importlib.import_module(f"vididi_hf.{path.split(':')[0]}"), path.split(":")[1])
        for path in (COMMANDS[name].options, COMMANDS[name].run)
    )
    assert is_dataclass(options)
    assert issubclass(options, Options)
    assert callable(run)
    prefix = f"vididi {name} "
    assert COMMANDS[name].example.startswith(prefix)
    parse_options(options, COMMANDS[name].example.removeprefix(prefix).split())


def test_help_imports_nothing_heavy():
    """Importing torch or transformers costs seconds; the standard library costs a tenth of one."""
    heavy = {"torch", "transformers", "datasets", "torchcodec", "torchvision", "numpy", "matplotlib", "accelerate"}
    for name in ("", *COMMANDS):
        code = (
            "import sys; sys.argv = ['vididi']; from vididi_hf.cli import main\n"
            f"try: main({[*name.split(), '--help']!r})\nexcept SystemExit: pass\n"
            f"print('HEAVY', sorted({heavy!r} & set(sys.modules)))"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert result.stdout.splitlines()[-1] == "HEAVY []", name
        assert "usage: vididi" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("pretran", "vididi: error: unknown command 'pretran': did you mean 'pretrain'?"),
        ("evaluate nearest", "vididi: error: unknown command 'evaluate nearest': "),
        ("evaluate --model m", "name the evaluation first, as in `vididi evaluate retrieval`"),
        ("pretrain --epoch 3", "vididi pretrain: error: unknown option '--epoch': did you mean '--epochs'?"),
        ("pretrain nowhere", "vididi pretrain: error: no data set 'nowhere'"),
        ("pretrain VIDEOS --split validation", "has no split 'validation'"),
        ("pretrain VIDEOS --batch_size 13", "12 videos, fewer than one global batch"),
    ],
)
def test_a_mistake_costs_one_line(arguments, message, videos, tmp_path, capsys):
    words = [str(videos) if word == "VIDEOS" else word for word in arguments.split()]
    if words[0] == "pretrain" and words[1] != "--epoch":
        words[2:2] = [*TINY, "--output_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in last
    assert list_checkpoints(tmp_path / "run") == []


def test_a_folder_becomes_an_encoder_and_its_recipe_continues_the_run(videos: Path, tmp_path: Path):
    order = ["--order_schedule", "first-order", "--epochs", "1"]
    main(["pretrain", str(videos), "--output_dir", str(tmp_path), *order, *TINY])
    model, processor = AutoModel.from_pretrained(tmp_path), AutoVideoProcessor.from_pretrained(tmp_path)
    assert type(model) is ViDiDiModel
    clips = processor(str(videos / "00.mp4"))["pixel_values"]
    assert model.eval()(clips).pooler_output.shape == (1, 8)
    main(["pretrain", "--config", str(tmp_path / "recipe.json"), "--resume", "--epochs", "3"])
    assert [(row["epoch"], row["total_steps"]) for row in read_metrics(tmp_path)] == [(1, 4), (2, 8), (3, 12)]
    recipe = PretrainingRecipe.read_values(tmp_path / "recipe.json")
    assert (recipe["order_schedule"], recipe["epochs"], recipe["resume"]) == ("first-order", 3, True)
    assert list_checkpoints(tmp_path)[-1].name == "step-00000012"


@pytest.mark.parametrize(
    "launch",
    [
        pytest.param(
            ["accelerate.commands.accelerate_cli", "launch", "--cpu", "scripts/pretrain.py"], marks=pytest.mark.slow
        ),
        ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "vididi_hf", "pretrain"],
    ],
    ids=["accelerate-script", "torchrun-module"],
)
def test_launchers_train(launch: list[str], videos: Path, tmp_path: Path):
    """accelerate starts one process on a CPU; torchrun starts two, whose batches of 3 make 2 steps of 12 videos."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT"):
        environment.pop(name, None)
    command = [sys.executable, "-m", *launch, "--dataset", str(videos), "--output_dir", str(tmp_path), "--epochs", "1"]
    run = subprocess.run([*command, *TINY], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-4000:]
    steps = 2 if "torch" in launch[0] else 4
    assert [(row["epoch"], row["total_steps"]) for row in read_metrics(tmp_path)] == [(1, steps)]


INTERRUPTED = """
import os, signal, sys, time
sys.argv[0] = "vididi"  # as the command, which imports torch later
from vididi_hf.options import errors_in_one_line
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it

class Trap:
    def __del__(self):  # Python swallows what a destructor raises
        os.kill(os.getpid(), signal.SIGINT)

with errors_in_one_line("vididi test", "continue so"):
    if sys.argv[1] == "swallowed":
        Trap()
    if sys.argv[1] == "twice":
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
    signal.alarm(20)
    if sys.argv[1] == "plain":
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
"""


@pytest.mark.parametrize("how", ["plain", "swallowed", "twice"])
def test_ctrl_c_ends_a_command_with_one_line_and_the_second_one_at_once(how: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if how == "twice":
        assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
    else:
        assert (done.returncode, done.stderr) == (130, "vididi test: interrupted; continue so\n")
