"""Monitors of a representation against their definitions, written out, and against what collapse looks like."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.pretraining.runs import BATCH, make_recipe
from vididi_hf.pretraining import loop
from vididi_hf.pretraining.collapse import (
    alignment,
    collapse_warnings,
    describe_representation,
    participation_ratio,
    rank_me,
    relative_std,
    uniformity,
)
from vididi_hf.pretraining.logging import read_metrics


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(rows: Tensor) -> Tensor:
    return rows / rows.square().sum(1, keepdim=True).sqrt()


def test_rank_me_is_the_exponential_of_the_entropy_of_singular_values() -> None:
    features = random(12, 5) * torch.tensor([1.0, 1.0, 3.0, 0.1, 0.0])
    values = torch.linalg.eigvalsh(features.T @ features).clamp_min(0).sqrt()
    shares = [value / values.sum().item() for value in values.tolist()]
    entropy = -sum((share + 1e-7) * math.log(share + 1e-7) for share in shares)
    assert rank_me(features).item() == pytest.approx(math.exp(entropy), rel=1e-6)
    assert rank_me(7 * features).item() == pytest.approx(rank_me(features).item())  # a matter of shape, not of scale


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rank_me_counts_directions_of_equal_weight(rank: int) -> None:
    rows, columns = (torch.linalg.qr(random(size, size)).Q for size in (20, 8))
    assert rank_me(rows[:, :rank] @ columns[:rank]).item() == pytest.approx(rank, rel=1e-4)


def test_deviation_is_one_for_directions_spread_evenly_and_zero_for_one_direction() -> None:
    embeddings = random(50, 4)
    columns = unit(embeddings).T.tolist()
    deviations = []
    for column in columns:
        mean = sum(column) / len(column)
        deviations.append(math.sqrt(sum((value - mean) ** 2 for value in column) / len(column)))
    assert relative_std(embeddings).item() == pytest.approx(2 * sum(deviations) / 4)
    assert relative_std(random(5000, 32)).item() == pytest.approx(1, abs=0.01)
    one_direction = random(50, 1).abs() * random(1, 4)  # of any length
    assert relative_std(one_direction).item() == pytest.approx(0, abs=1e-9)


def test_alignment_is_the_mean_squared_distance_of_partners() -> None:
    first, second = random(6, 3), random(6, 3, seed=1)
    cosines = (unit(first) * unit(second)).sum(1)
    assert alignment(first, second).item() == pytest.approx((2 - 2 * cosines).mean().item())
    assert alignment(first, 5 * first).item() == pytest.approx(0)


def test_uniformity_is_the_log_of_the_mean_potential_of_all_pairs() -> None:
    rows = unit(random(7, 3)).tolist()
    potentials = [
        math.exp(-2 * sum((a - b) ** 2 for a, b in zip(rows[i], rows[j]))) for i in range(7) for j in range(i)
    ]
    assert uniformity(random(7, 3)).item() == pytest.approx(math.log(sum(potentials) / 21))
    assert uniformity(torch.ones(5, 3)).item() == 0


@pytest.mark.parametrize("shares", [(1.0, 0.0, 0.0), (0.7, 0.2, 0.1), (0.4, 0.3, 0.3)])
def test_the_participation_ratio_is_that_of_the_eigenvalues_of_the_covariance(shares: tuple[float, ...]) -> None:
    rows = unit(random(40, 3) * torch.tensor(shares, dtype=torch.float64).sqrt() + torch.tensor([3.0, 1.0, 2.0]))
    eigenvalues = np.linalg.eigvalsh(np.cov(rows.numpy(), rowvar=False))
    expected = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert participation_ratio(5 * rows).item() == pytest.approx(expected, rel=1e-6)
    assert participation_ratio(torch.ones(5, 3)).item() == pytest.approx(3)  # no direction stands out


def test_a_batch_is_described_view_by_view() -> None:
    features, embeddings = random(10, 2, 6), random(10, 2, 8, seed=1)
    values = describe_representation(features.requires_grad_(), embeddings.to(torch.float32))
    assert values["rank_me"].item() == pytest.approx(rank_me(features.reshape(20, 6)).item())
    assert values["alignment"].item() == pytest.approx(alignment(embeddings[:, 0], embeddings[:, 1]).item(), rel=1e-5)
    for name, measure in (("std", relative_std), ("participation", participation_ratio), ("uniformity", uniformity)):
        expected = (measure(embeddings[:, 0]) + measure(embeddings[:, 1])).item() / 2
        assert values[name].item() == pytest.approx(expected, rel=1e-5)
    assert not any(value.requires_grad for value in values.values())
    for too_few in (embeddings[:7], embeddings[..., :7]):
        assert "participation" not in describe_representation(features[: len(too_few)], too_few)


def test_collapse_is_named_and_health_is_not() -> None:
    healthy = describe_representation(random(16, 2, 32), random(16, 2, 8))
    assert collapse_warnings(healthy) == {}
    same_embedding = random(1, 1, 8) + 1e-3 * random(16, 2, 8, seed=1)
    complete = describe_representation(random(16, 2, 32), same_embedding)
    assert list(collapse_warnings(complete)) == ["std"]
    assert collapse_warnings(complete)["std"].startswith("all videos have nearly the same embedding (std 0.0")
    line = random(16, 2, 1) * random(1, 1, 32)
    dimensional = describe_representation(line, random(16, 2, 8))
    assert collapse_warnings(dimensional) == {"rank_me": "the features lie on one line (rank_me 1 is below 1.1)"}
    two_poles = random(1, 1, 8) * random(16, 2, 1, seed=1).sign() + 0.1 * random(16, 2, 8, seed=2)
    (words,) = collapse_warnings(describe_representation(random(16, 2, 32), two_poles)).values()
    assert words.startswith("the embeddings of the videos vary along hardly more than one line (participation 1.")


def test_collapse_is_warned_of_once_with_step_and_files(videos, tmp_path, capsys, monkeypatch) -> None:
    """In a real run, whose embeddings are the same for all videos."""
    build = loop.build_model

    def build_collapsed(*args):
        model = build(*args)
        with torch.no_grad():  # BatchNorm that gives all videos the same, before a linear layer
            model.objective.projector[1].weight.zero_()
            model.objective.projector[1].bias.fill_(1)
        return model

    monkeypatch.setattr(loop, "build_model", build_collapsed)
    options = {"order_schedule": "baseline", "monitor_steps": 1, "optimizer": "sgd", "learning_rate": 0.0}
    loop.pretrain(make_recipe(videos, tmp_path, "byol", **options))
    [warning] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "all videos have nearly the same embedding (std 0" in warning
    assert "at step 1 with derivative orders (0, 0); the videos of this step were " in warning
    assert warning.count(".mp4") == BATCH
    assert read_metrics(tmp_path)[0]["std/00"] == pytest.approx(0, abs=1e-5)
