"""Gathering with gradient, proven with real processes: this file is also the program that they run."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vididi_hf.objectives import OBJECTIVES, SimCLR, VICReg, build_objective, gather, gather_with_gradient
from vididi_hf.objectives.gather import gather_views

PROCESSES = 4
PAIRS = 8


class Trained(nn.Module):
    """A network under an objective, without its heads. Without BatchNorm, only the loss depends on the batch."""

    def __init__(self, name: str, batch_norm: bool = False):
        super().__init__()
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(5) if batch_norm else nn.Identity()
        self.network = nn.Sequential(nn.Linear(6, 5), norm, nn.Tanh(), nn.Linear(5, 4)).double()
        options = {"projector_sizes": [4]} | ({"predictor_sizes": [4]} if name == "byol" else {})
        self.objective = build_objective(name, 4, options).requires_grad_(False)

    def forward(self, views: torch.Tensor, parts: int = 1) -> torch.Tensor:
        """The loss of all pairs, which pass through the network in so many parts."""
        embeddings = [self.network(part.flatten(0, 1)).unflatten(0, (-1, 2)) for part in views.chunk(parts)]
        first, second = torch.cat(embeddings).unbind(1)
        targets = views[..., :4].unbind(1) if self.objective.uses_target else ()
        return self.objective(first, second, *targets).loss


def batch() -> torch.Tensor:
    return torch.randn(PAIRS, 2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def measure(model: nn.Module, views: torch.Tensor, parts: int = 1) -> dict[str, Any]:
    loss = model(views, parts)
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    return {"loss": loss.item(), "gradients": gradients}


def run_one_process(rank: int, folder: Path) -> None:
    """Measure with a world of four processes, then, in two of them, with a world of two."""
    results: dict[Any, Any] = {}
    for world in (4, 2):
        if rank >= world:
            break
        dist.init_process_group("gloo", f"file://{folder}/rendezvous{world}", rank=rank, world_size=world)
        views = batch().chunk(world)[rank]
        for name in OBJECTIVES:
            results[world, name] = measure(DistributedDataParallel(Trained(name)), views)
            results[world, name, "norm"] = measure(DistributedDataParallel(Trained(name, batch_norm=True)), views)
        results[world, "gathered"] = gather_with_gradient(torch.full((2, 3), float(rank)))
        try:
            gather_with_gradient(torch.zeros(1 + rank, 3))
        except ValueError as error:
            results[world, "unequal"] = str(error)
        dist.destroy_process_group()
    torch.save(results, folder / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    folder = tmp_path_factory.mktemp("gather")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_averaged_gradients_equal_those_of_one_process_with_the_whole_batch(results, name: str, world: int) -> None:
    expected = measure(Trained(name), batch())
    assert max(gradient.abs().max() for gradient in expected["gradients"]) > 1e-2
    for rank in range(world):
        torch.testing.assert_close(results[rank][world, name]["gradients"], expected["gradients"], rtol=0, atol=1e-10)
    losses = [results[rank][world, name]["loss"] for rank in range(world)]
    assert sum(losses) / world == pytest.approx(expected["loss"])
    assert name == "byol" or losses == pytest.approx([expected["loss"]] * world)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_with_batch_norm_the_gradients_are_those_of_parts_of_the_batch(results, name: str, world: int) -> None:
    expected = measure(Trained(name, batch_norm=True), batch(), parts=world)
    for rank in range(world):
        found = results[rank][world, name, "norm"]["gradients"]
        torch.testing.assert_close(found, expected["gradients"], rtol=0, atol=1e-10)
    whole = measure(Trained(name, batch_norm=True), batch())  # is something else
    assert max((a - b).abs().max() for a, b in zip(whole["gradients"], expected["gradients"])) > 1e-4


@pytest.mark.parametrize("world", [2, 4])
def test_rows_come_in_rank_order_and_unequal_batches_are_an_error_on_every_process(results, world: int) -> None:
    rows = torch.arange(world).repeat_interleave(2)[:, None].expand(-1, 3).float()
    assert all(torch.equal(results[rank][world, "gathered"], rows) for rank in range(world))
    counts = list(range(1, world + 1))
    expected = f"every process must hold the same number of rows, but ranks 0 to {world - 1} hold {counts}"
    assert all(results[rank][world, "unequal"].startswith(expected) for rank in range(world))


def test_without_a_process_group_nothing_is_gathered() -> None:
    tensor = torch.randn(3, 2, requires_grad=True)
    assert gather_with_gradient(tensor) is tensor
    assert all(map(torch.equal, gather_views(tensor, 2 * tensor), (tensor, 2 * tensor)))


@pytest.mark.parametrize("objective", [VICReg, SimCLR])
def test_an_objective_of_each_process_does_not_communicate(objective, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensor: torch.Tensor) -> torch.Tensor:
        raise AssertionError("gathered")

    monkeypatch.setattr(gather, "gather_with_gradient", fail)
    views = torch.randn(2, 4, 8)
    assert torch.isfinite(objective(8, gather=False)(*views).loss)
    with pytest.raises(AssertionError, match="gathered"):
        objective(8)(*views)


if __name__ == "__main__":
    # Forked from this one small process, which has imported torch once and computed nothing yet.
    arguments = (Path(sys.argv[1]),)
    torch.multiprocessing.start_processes(run_one_process, arguments, nprocs=PROCESSES, start_method="fork")
