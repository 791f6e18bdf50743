"""What a run says about itself: rows, bar, tracker, and an end at the first loss that is not finite."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from vididi_hf.pretraining import reporter as module
from vididi_hf.pretraining.checkpoints import Progress
from vididi_hf.pretraining.monitors import read_metrics
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.reporter import Reporter

STEPS = 3


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Reporter]]:
    """Builds a reporter of a run of two epochs of three steps, in a state of accelerate of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)

    def build(place: Progress | None = None, **options: Any) -> Reporter:
        recipe = PretrainingRecipe(output_dir=str(tmp_path), epochs=2, **{"progress": False, **options})
        tracker = None if recipe.tracker == "none" else recipe.tracker
        accelerator = Accelerator(cpu=True, log_with=tracker, project_dir=tmp_path)
        return Reporter(recipe, accelerator, total_steps=2 * STEPS, progress=place or Progress())

    yield build
    AcceleratorState._reset_state(reset_partial_state=True)


def take_step(reporter: Reporter, loss: float, videos: int = 4) -> None:
    reporter.progress.step += 1
    reporter.progress.total_steps += 1
    reporter.step((0, 1), 0.25, torch.tensor(loss), {"variance": torch.tensor(2 * loss)}, videos)


def end_epoch(reporter: Reporter, evaluation: dict[str, float] | None = None) -> None:
    reporter.progress.epoch, reporter.progress.step = reporter.progress.epoch + 1, 0
    reporter.epoch(evaluation or {})


def test_a_row_holds_the_means_of_its_epoch(
    make: Callable[..., Reporter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    reporter = make()
    for epoch in range(2):
        reporter.start_epoch()
        for step in range(STEPS):
            clock[0] += 0.5
            take_step(reporter, loss=10 * epoch + step)
        clock[0] += 60  # evaluation and checkpoints are no training time
        end_epoch(reporter, {"R@1": 0.5} if epoch else {})
    reporter.close()
    common = {"learning_rate": 0.25, "videos_per_second": 8.0}
    assert read_metrics(tmp_path) == [
        {"epoch": 1, "total_steps": 3, "loss": 1.0, "variance": 2.0, **common},
        {"epoch": 2, "total_steps": 6, "loss": 11.0, "variance": 22.0, **common, "R@1": 0.5},
    ]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_an_error_that_says_where(make: Callable[..., Reporter], bad: float) -> None:
    reporter = make()
    take_step(reporter, loss=1.0)
    reporter.require_finite_loss()
    take_step(reporter, loss=bad)
    take_step(reporter, loss=1.0)  # what came after does not hide it
    with pytest.raises(FloatingPointError, match=rf"loss of this epoch is {bad} at step 3 .*\(0, 1\).*rate 0\.25"):
        reporter.require_finite_loss()


def test_the_loss_is_looked_at_every_tenth_step(make: Callable[..., Reporter]) -> None:
    reporter = make()
    for _ in range(9):
        take_step(reporter, loss=float("nan"))
    with pytest.raises(FloatingPointError, match="at step 10 "):
        take_step(reporter, loss=float("nan"))


def test_bar_counts_steps_and_shows_epoch_loss_terms_and_speed(
    make: Callable[..., Reporter], capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = make(Progress(epoch=1, total_steps=7), progress=True, objective="simclr", schedule="first-order")
    for _ in range(3):
        take_step(reporter, loss=1.5)
    reporter.close()
    shown = capsys.readouterr().err
    assert reporter.bar.n == 10  # those before a resume count
    assert "simclr · first-order" in shown
    assert "epoch 2/2 loss 1.5 variance 3 " in shown
    assert " videos/s" in shown


def test_without_progress_nothing_is_shown(make: Callable[..., Reporter], capsys: pytest.CaptureFixture[str]) -> None:
    reporter = make()
    for _ in range(3):
        take_step(reporter, loss=1.5)
    end_epoch(reporter)
    reporter.close()
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""


def test_a_resumed_run_keeps_the_rows_up_to_its_place(make: Callable[..., Reporter], tmp_path: Path) -> None:
    first = make()
    for _ in range(2):
        for _ in range(STEPS):
            take_step(first, loss=1.0)
        end_epoch(first)
    resumed = make(Progress(epoch=1, step=1, total_steps=4))
    for _ in range(2):
        take_step(resumed, loss=5.0)
    end_epoch(resumed)
    assert [(row["epoch"], row["total_steps"], row["loss"]) for row in read_metrics(tmp_path)] == [
        (1, 3, 1.0),
        (2, 6, 5.0),
    ]


def test_broken_videos_are_counted_and_named_at_the_end(
    make: Callable[..., Reporter], capsys: pytest.CaptureFixture[str]
) -> None:
    make(Progress(broken={"b.mp4": "no video stream", "a.mp4": "empty file"})).close()
    assert capsys.readouterr().out.splitlines() == [
        "videos that could not be decoded, replaced by others: 2",
        "  a.mp4: empty file",
        "  b.mp4: no video stream",
    ]
    make(Progress()).close()
    assert capsys.readouterr().out == ""


def test_tracker_gets_the_rows_and_the_recipe(make: Callable[..., Reporter], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reporter = make(tracker="tensorboard", hidden_sizes=[4, 4, 8, 8])
    for _ in range(2):
        for _ in range(STEPS):
            take_step(reporter, loss=2.5)
        end_epoch(reporter)
    reporter.close()
    logged = [EventAccumulator(str(path.parent)).Reload() for path in tmp_path.rglob("events.out.tfevents.*")]
    scalars = {tag: events.Scalars(tag) for events in logged for tag in events.Tags()["scalars"]}
    assert [(event.step, event.value) for event in scalars["loss"]] == [(3, 2.5), (6, 2.5)]
    assert [(event.step, event.value) for event in scalars["learning_rate"]] == [(3, 0.25), (6, 0.25)]
    assert "hidden_sizes: '[4, 4, 8, 8]'" in next(tmp_path.rglob("hparams.yml")).read_text()
