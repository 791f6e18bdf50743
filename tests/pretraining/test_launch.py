"""When processes are missing, and how they are started; tests/scripts/test_pretrain.py starts real ones."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from vididi_hf.pretraining.launch import missing_processes, start_missing_processes

ACCELERATE = ["/usr/bin/python", "/usr/bin/accelerate", "launch"]
TOLD_BY_ACCELERATE = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
RANKS = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch):
    """`launched(*flags, **environment)`: as if `accelerate launch` had started this process with these flags."""

    def launch(*flags: str, **environment: str) -> None:
        for name in (*RANKS, *TOLD_BY_ACCELERATE):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        command = [*ACCELERATE, *flags, "scripts/pretrain.py", "--epochs", "3", "--num_workers", "7"]
        monkeypatch.setattr(psutil.Process, "cmdline", lambda self: command)

    return launch


@pytest.mark.parametrize(
    "flags",
    [
        ("--num_processes", "3", "--cpu"),
        ("--cpu", "--num_processes=3"),
        ("--cpu", "--num-processes", "3", "--num_machines", "1", "--mixed_precision", "no"),
    ],
)
def test_accelerate_on_a_cpu_leaves_all_but_one_process_out(launched, flags: tuple[str, ...]) -> None:
    launched(*flags, **TOLD_BY_ACCELERATE)
    assert missing_processes() == 3


@pytest.mark.parametrize("missing", sorted(TOLD_BY_ACCELERATE.keys() - {"MASTER_ADDR"}))
def test_nothing_is_missing_where_accelerate_did_not_ask_for_several_on_a_cpu(launched, missing: str) -> None:
    environment = {name: value for name, value in TOLD_BY_ACCELERATE.items() if name != missing}
    launched("--num_processes", "3", "--cpu", **environment)
    assert missing_processes() == 0
    launched("--num_processes", "3", **{**TOLD_BY_ACCELERATE, "ACCELERATE_USE_CPU": "False"})
    assert missing_processes() == 0


@pytest.mark.parametrize(
    "rank", [{"LOCAL_RANK": "0"}, {"WORLD_SIZE": "3"}, {"PMI_SIZE": "3"}, {"OMPI_COMM_WORLD_SIZE": "3"}]
)
def test_nothing_is_missing_where_a_launcher_has_given_ranks(launched, rank: dict[str, str]) -> None:
    launched("--num_processes", "3", "--cpu", **TOLD_BY_ACCELERATE, **rank)
    assert missing_processes() == 0


@pytest.mark.parametrize(
    "flags", [("--cpu",), ("--num_processes", "1"), ("--num_processes", "4", "--num_machines", "2")]
)
def test_one_process_or_several_machines_are_left_to_accelerate(launched, flags: tuple[str, ...]) -> None:
    launched(*flags, **TOLD_BY_ACCELERATE)
    assert missing_processes() == 0
    start_missing_processes()  # returns


def test_this_process_becomes_a_launcher_of_all(
    launched, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launched("--num_processes", "3", "--cpu", **TOLD_BY_ACCELERATE)
    monkeypatch.setattr(sys, "argv", ["scripts/pretrain.py", "--epochs", "3"])
    executed: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: executed.append((program, arguments)))
    start_missing_processes()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3"]
    assert executed == [(sys.executable, [sys.executable, *launcher, "scripts/pretrain.py", "--epochs", "3"])]
    assert "accelerate has started 1 of 3 processes" in capsys.readouterr().out


@pytest.mark.slow
def test_accelerate_still_starts_one_process_only(tmp_path: Path) -> None:
    """The reason for all this: should it fail one day, `start_missing_processes` can go."""
    script = tmp_path / "script.py"
    script.write_text("import os; print('process', os.environ['MASTER_PORT'], os.environ.get('LOCAL_RANK'))")
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2"]
    environment = {name: value for name, value in os.environ.items() if name not in (*RANKS, *TOLD_BY_ACCELERATE)}
    run = subprocess.run([*command, str(script)], env=environment, capture_output=True, text=True, timeout=200)
    assert run.stdout.splitlines() == ["process 29500 None"], run.stderr
