"""Running means, the metrics file over resumes and kills, and the union of broken videos."""

import json
from pathlib import Path

import pytest
import torch

from vididi_hf.pretraining.logging import METRICS_FILE, MetricsFile, RunningMeans, merge_broken, read_metrics


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


def test_means_keep_neither_graph_nor_the_callers_tensor() -> None:
    weight = torch.ones((), requires_grad=True)
    loss = 2 * weight
    means = RunningMeans()
    means.add({"loss": loss})
    means.add({"loss": loss})
    with torch.no_grad():
        loss.zero_()
    assert means.read() == {"loss": 2.0}
    assert not any(total.requires_grad for total in means._sums.values())


def test_half_precision_is_summed_in_full() -> None:
    means = RunningMeans()
    for _ in range(1000):
        means.add({"loss": torch.tensor(1.0, dtype=torch.bfloat16)})  # where 256 + 1 is 256
    assert means.read() == {"loss": 1.0}


def test_one_bad_loss_stays_visible() -> None:
    means = RunningMeans()
    for value in (1.0, float("inf"), 2.0):
        means.add({"loss": torch.tensor(value)})
    assert means.read()["loss"] == float("inf")


def rows(*steps: int) -> list[dict]:
    return [{"epoch": index, "total_steps": step, "loss": 0.1 * step} for index, step in enumerate(steps)]


def test_rows_come_back_in_order_and_at_once(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    assert read_metrics(tmp_path) == []
    for count, row in enumerate(rows(5, 10, 15), start=1):
        file.write(row)
        assert read_metrics(tmp_path) == rows(5, 10, 15)[:count]  # on disk, not in a buffer
    assert [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()] == rows(5, 10, 15)
    assert [path.name for path in tmp_path.iterdir()] == [METRICS_FILE]


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


def test_garbage_in_the_middle_is_an_error_and_not_a_gap(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('{"total_steps": 1}\ngarbage\n{"total_steps": 2}\n')
    with pytest.raises(ValueError, match="Expecting value"):
        read_metrics(tmp_path)


def test_without_a_file_there_are_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    assert read_metrics(tmp_path / "nowhere") == []


def test_one_process_keeps_its_broken_videos() -> None:
    broken = {"a.mp4": "empty"}
    merged = merge_broken(broken)
    assert merged == broken
    assert merged is not broken
