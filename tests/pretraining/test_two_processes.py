"""Two processes train as one. This file is also their program."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.pretraining.runs import (
    BATCH,
    EPOCHS,
    STEPS,
    TOTAL,
    VIDEOS,
    Interrupted,
    assert_same,
    final_state,
    make_recipe,
    stop_after,
)
from vididi_hf.data.loading import ClipLoader
from vididi_hf.pretraining import loop
from vididi_hf.pretraining.checkpoints import list_checkpoints
from vididi_hf.pretraining.logging import RunLog, read_metrics
from vididi_hf.pretraining.loop import pretrain
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.pretraining.recipe import PretrainingRecipe

ROOT = Path(__file__).parents[2]


def run_one_process(folder: Path) -> None:
    """What each of two processes does: a whole run, and one that is stopped and resumed. It writes down what it saw."""
    seen: dict[str, Any] = {"orders": [], "indices": []}
    views, collate = loop.derivative_views, ClipLoader.epoch

    def spy_views(clips: Tensor, orders: Any, **kwargs: Any) -> Tensor:
        seen["orders"].append(orders)
        return views(clips, orders, **kwargs)

    def spy_epoch(self: Any, epoch: int, first_step: int = 0) -> Iterator[Any]:
        for batch in collate(self, epoch, first_step):
            seen["indices"].append((epoch, batch["indices"].tolist()))
            yield batch

    loop.derivative_views, ClipLoader.epoch = spy_views, spy_epoch
    recipe = make_recipe(folder / "videos", folder / "whole", "byol", batch_size=BATCH // 2, evaluate_epochs=2)
    trained: list[ViDiDiForPreTraining] = []
    build = loop.build_model
    loop.build_model = lambda *args: trained.append(build(*args)) or trained[-1]
    pretrain(recipe)
    torch.save(seen | {"model": trained[0].state_dict()}, folder / f"rank{os.environ['RANK']}.pt")

    stopped = replace(recipe, output_dir=str(folder / "stopped"), save_steps=2, resume=True)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(5, patch)
        try:
            pretrain(stopped)
        except Interrupted:
            print("interrupted")
    pretrain(stopped)

    asked = replace(recipe, output_dir=str(folder / "asked"), resume=True)
    report = RunLog.step

    def report_and_ask(self: RunLog, *args: Any) -> None:
        report(self, *args)
        if self.progress.total_steps == 2 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "step", report_and_ask)
        try:
            pretrain(asked)
        except SystemExit as error:
            print(f"left with {error.code} at {list_checkpoints(asked.output_dir)[-1].name}")
    pretrain(asked)


@pytest.fixture(scope="module")
def two_processes(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of `run_one_process` in two processes; one video of rank 1 is broken."""
    folder = tmp_path_factory.mktemp("two")
    for path in videos.rglob("*.mp4"):
        link = folder / "videos" / path.relative_to(videos)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    (folder / "videos" / "train" / "a" / "00.mp4").unlink()
    (folder / "videos" / "train" / "a" / "00.mp4").touch()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [*launcher, __file__, str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return folder, run.stdout


def test_two_processes_see_the_same_orders_and_share_the_videos(two_processes: tuple[Path, str]) -> None:
    folder, _ = two_processes
    first, second = (torch.load(folder / f"rank{rank}.pt") for rank in range(2))
    schedule = make_recipe(folder, folder).build_order_schedule()
    assert first["orders"] == second["orders"] == [schedule(*divmod(step, STEPS)) for step in range(TOTAL)]
    for epoch in range(EPOCHS):
        indices = [index for rank in (first, second) for at, batch in rank["indices"] if at == epoch for index in batch]
        assert sorted(indices) == list(range(VIDEOS))


def test_two_processes_end_with_the_same_weights_which_are_the_published_ones(two_processes: tuple[Path, str]) -> None:
    folder, _ = two_processes
    first, second = (torch.load(folder / f"rank{rank}.pt")["model"] for rank in range(2))
    parameters = [name for name, value in first.items() if "running" not in name and "num_batches" not in name]
    assert_same({name: first[name] for name in parameters}, {name: second[name] for name in parameters})
    published = load_file(folder / "whole" / "model.safetensors")
    assert_same(published, {name: first[f"vididi.{name}"].contiguous() for name in published})


def test_two_processes_resume_exactly_and_report_for_both(two_processes: tuple[Path, str]) -> None:
    folder, output = two_processes
    assert output.count("interrupted") == 2
    assert output.count("resumed from") == 2  # in each of two runs, only one of them talks
    assert_same(final_state(folder / "stopped"), final_state(folder / "whole"))
    for run in ("whole", "stopped"):
        rows = read_metrics(folder / run)
        assert [(row["epoch"], row["total_steps"]) for row in rows] == [(1, STEPS), (2, TOTAL)]
        assert "R@1" in rows[1]
    # Once at the end of each of the three runs that ended, unless the one that was asked to had met it, too.
    assert output.count("1 videos could not be decoded and were replaced by others:") in (3, 4)
    assert output.count("a/00.mp4: ") in (3, 4)


def test_when_one_process_is_asked_to_stop_both_save_the_same_step_and_leave(two_processes: tuple[Path, str]) -> None:
    folder, output = two_processes
    assert output.count("left with 143 at step-00000002") == 2
    assert output.count("stopped and saved after 2 steps") == 1
    assert_same(final_state(folder / "asked"), final_state(folder / "whole"))


def test_a_run_of_two_processes_is_not_resumed_by_one(two_processes: tuple[Path, str]) -> None:
    folder, _ = two_processes
    recipe = PretrainingRecipe(**PretrainingRecipe.read_values(folder / "whole" / "recipe.json"))
    with pytest.raises(
        ValueError, match="has 2 processes, and this run has 1: keep the videos and the number of processes"
    ):
        pretrain(replace(recipe, resume=True))


if __name__ == "__main__":
    run_one_process(Path(sys.argv[1]))
