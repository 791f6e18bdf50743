"""What a run reports: means, the metrics file over resumes and kills, bar, tracker, and losses that are not finite."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from vididi_hf.pretraining import logging as module
from vididi_hf.pretraining.checkpoints import Progress
from vididi_hf.pretraining.collapse import describe_representation
from vididi_hf.pretraining.logging import METRICS_FILE, MetricsFile, RunLog, RunningMeans, read_metrics
from vididi_hf.pretraining.modeling import ViDiDiForPreTrainingOutput
from vididi_hf.pretraining.recipe import PretrainingRecipe

STEPS = 3


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., RunLog]]:
    """Builds a reporter of a run of two epochs of three steps, in a state of accelerate of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)

    def build(place: Progress | None = None, **options: Any) -> RunLog:
        recipe = PretrainingRecipe(output_dir=str(tmp_path), epochs=2, **{"progress": False, **options})
        tracker = None if recipe.tracker == "none" else recipe.tracker
        accelerator = Accelerator(cpu=True, log_with=tracker, project_dir=tmp_path)
        reporter = RunLog(recipe, accelerator, total_steps=2 * STEPS)
        reporter.start(place or Progress())
        return reporter

    yield build
    AcceleratorState._reset_state(reset_partial_state=True)


def take_step(reporter: RunLog, loss: float, orders: tuple[int, int] = (0, 1), collapsed: bool = False) -> None:
    """Of four videos, whose embeddings are the same if they have collapsed."""
    reporter.progress.step += 1
    reporter.progress.total_steps += 1
    generator = torch.Generator().manual_seed(reporter.progress.total_steps)
    features, embeddings = (torch.randn(4, 2, width, generator=generator) for width in (8, 6))
    if collapsed:
        embeddings = embeddings[:1, :1].expand(4, 2, 6)
    terms = {"variance": torch.tensor(2 * loss)}
    output = ViDiDiForPreTrainingOutput(torch.tensor(loss), terms, pooler_output=features, embeddings=embeddings)
    sources = [f"{reporter.progress.total_steps}-{letter}.mp4" for letter in "abcd"]
    reporter.step(orders, 0.25, output, sources)


def end_epoch(reporter: RunLog, evaluation: dict[str, float] | None = None) -> None:
    reporter.progress.epoch, reporter.progress.step = reporter.progress.epoch + 1, 0
    reporter.epoch(evaluation or {})


def test_a_row_holds_the_means_of_its_epoch(make, tmp_path, monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    reporter = make(monitor_steps=0)
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
def test_a_loss_that_is_not_finite_is_an_error_that_says_where(make: Callable[..., RunLog], bad: float) -> None:
    reporter = make()
    take_step(reporter, loss=1.0)
    reporter.require_finite_loss()
    take_step(reporter, loss=bad)
    take_step(reporter, loss=1.0)  # what came after does not hide it
    message = rf"the loss is {bad} at step 2 .* orders \(0, 1\) and learning rate 0\.25: .* 2-a\.mp4, .*2-d\.mp4$"
    with pytest.raises(FloatingPointError, match=message):
        reporter.require_finite_loss()


def test_losses_are_looked_at_every_tenth_step_and_the_first_bad_one_is_named(make: Callable[..., RunLog]) -> None:
    reporter = make(monitor_steps=0)
    for step in range(1, 10):
        take_step(reporter, loss=1.0 if step < 7 else float("nan"))
    with pytest.raises(FloatingPointError, match="at step 7 "):
        take_step(reporter, loss=float("nan"))


def test_the_representation_is_measured_by_pair_of_orders(make: Callable[..., RunLog], tmp_path: Path) -> None:
    reporter = make(monitor_steps=2)
    described = []
    for step in range(1, 8):
        orders = (1, 2) if step == 3 else (0, 1)
        take_step(reporter, loss=1.0, orders=orders)
        generator = torch.Generator().manual_seed(step)
        described.append(describe_representation(*(torch.randn(4, 2, width, generator=generator) for width in (8, 6))))
    end_epoch(reporter)
    (row,) = read_metrics(tmp_path)
    for name in ("rank_me", "std", "alignment", "uniformity"):
        first, third, fifth, seventh = (described[step][name].item() for step in (0, 2, 4, 6))
        assert row[f"{name}/12"] == pytest.approx(third, rel=1e-5)
        assert row[f"{name}/01"] == pytest.approx((first + fifth + seventh) / 3, rel=1e-5)


def test_collapse_is_warned_of_once_for_each_pair_of_orders(make, capsys) -> None:
    reporter = make(monitor_steps=1)
    take_step(reporter, loss=1.0)
    assert capsys.readouterr().err == ""
    for orders in ((0, 1), (0, 1), (1, 1), (0, 1)):
        take_step(reporter, loss=1.0, orders=orders, collapsed=True)
    first, second = capsys.readouterr().err.splitlines()
    sign = "the representation may be collapsing: all videos have nearly the same embedding (std 0 is below 0.05)"
    assert first == (
        f"warning: {sign} at step 2 with derivative orders (0, 1); the videos of this step were "
        "2-a.mp4, 2-b.mp4, 2-c.mp4, 2-d.mp4"
    )
    assert "at step 4 with derivative orders (1, 1); the videos of this step were 4-a.mp4" in second


def test_tracker_gets_the_rows_and_the_recipe(make: Callable[..., RunLog], tmp_path: Path) -> None:
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


def test_means_are_those_of_everything_added_since_the_reset() -> None:
    values = torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means = RunningMeans()
    assert means.read() == {}
    for a, b in values:
        means.add({"a": a, "b": b})
    assert means.read() == pytest.approx({"a": values[:, 0].mean().item(), "b": values[:, 1].mean().item()}, rel=1e-6)
    assert means.read() == means.read()  # reading changes nothing
    means.reset()
    assert means.read() == {}
    means.add({"c": torch.tensor(3.0)})
    assert means.read() == {"c": 3.0}


def rows(*steps: int) -> list[dict]:
    return [{"epoch": index, "total_steps": step, "loss": 0.1 * step} for index, step in enumerate(steps)]


@pytest.mark.parametrize(("resumed_at", "kept"), [(15, 3), (12, 2), (10, 2), (4, 0), (0, 0)])
def test_a_resumed_run_drops_the_rows_of_steps_that_it_takes_again(tmp_path: Path, resumed_at: int, kept: int) -> None:
    file = MetricsFile(tmp_path)
    for row in rows(5, 10, 15):
        file.write(row)
    again = MetricsFile(tmp_path, keep_until=resumed_at)
    assert read_metrics(tmp_path) == rows(5, 10, 15)[:kept]
    again.write({"total_steps": 20})
    assert read_metrics(tmp_path) == [*rows(5, 10, 15)[:kept], {"total_steps": 20}]


def test_a_line_cut_off_by_a_kill_is_left_out_and_overwritten(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text(json.dumps(rows(5)[0]) + '\n{"epoch": 1, "total')
    assert read_metrics(tmp_path) == rows(5)
    MetricsFile(tmp_path, keep_until=5).write({"total_steps": 10})
    assert read_metrics(tmp_path) == [*rows(5), {"total_steps": 10}]
