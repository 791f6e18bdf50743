"""Batches in parts have the gradients that they should, in one process and in two: this file is also their program."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.modules.batchnorm import _BatchNorm

from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.objectives import OBJECTIVES
from vididi_hf.pretraining.gradient_caching import accumulate_gradients, cache_gradients
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining

BATCH = 8
ORDERS = (1, 0)


def build(objective: str, batch_norm: bool, view_forward: str = "separate") -> ViDiDiForPreTraining:
    """In double precision; without BatchNorm, a video's embedding depends on no other video."""
    torch.manual_seed(0)
    options = {"projector_sizes": [12, 6]} | ({"predictor_sizes": [9, 6]} if objective == "byol" else {})
    model = ViDiDiForPreTraining(
        ViDiDiConfig(
            hidden_sizes=(4, 4, 6, 8),
            depths=(1, 1, 1, 1),
            num_frames=4,
            image_size=32,
            objective=objective,
            objective_options=options,
            view_forward=view_forward,
            batch_norm="per_order" if view_forward == "separate" else "shared",
        )
    ).double()
    if not batch_norm:
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, _BatchNorm):
                    setattr(module, name, nn.Identity())
    return model.train()


def clips() -> Tensor:
    return torch.randint(256, (BATCH, 2, 5, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def views_of(clips: Tensor, orders: tuple[int, int]) -> Tensor:
    """Something that depends on both; the real one is tested with the loop."""
    return clips[:, :, :4].double() / 64 - torch.tensor(orders).double()[:, None, None, None, None]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


def assert_close(left: Any, right: Any) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=1e-9)


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("view_forward", ["separate", "joint"])
@pytest.mark.parametrize("chunk_size", [1, 4])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_without_batch_statistics_cached_gradients_are_those_of_the_whole_batch(
    objective, chunk_size, view_forward, accelerator
) -> None:
    whole = build(objective, batch_norm=False, view_forward=view_forward)
    expected = whole(views_of(clips(), ORDERS), ORDERS)
    expected.loss.backward()
    cached = accelerator.prepare(build(objective, batch_norm=False, view_forward=view_forward))
    output = cache_gradients(accelerator, cached, clips(), ORDERS, views_of, chunk_size)
    assert max(gradient.abs().max() for gradient in gradients(whole).values()) > 1e-3
    assert_close(gradients(cached), gradients(whole))
    assert_close([output.loss, output.loss_terms], [expected.loss.detach(), expected.loss_terms])
    assert_close(
        [output.pooler_output, output.embeddings], [expected.pooler_output.detach(), expected.embeddings.detach()]
    )
    assert not any(
        t.requires_grad for t in (output.loss, output.pooler_output, output.embeddings, *output.loss_terms.values())
    )


@pytest.mark.parametrize("view_forward", ["separate", "joint"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_batch_norm_sees_one_chunk_and_counts_it_once(objective, view_forward, accelerator) -> None:
    by_hand = build(objective, batch_norm=True, view_forward=view_forward)
    outputs, targets = [], []
    for chunk in clips().chunk(2):
        outputs.append(by_hand(views_of(chunk, ORDERS), ORDERS, compare=False))
        targets.append(by_hand.embed_targets(views_of(chunk, ORDERS), ORDERS))
    predictions = torch.cat([output.predictions for output in outputs])
    loss, _ = by_hand.objective(*predictions.unbind(1), *map(torch.cat, zip(*targets)))
    loss.backward()
    cached = accelerator.prepare(build(objective, batch_norm=True, view_forward=view_forward))
    output = cache_gradients(accelerator, cached, clips(), ORDERS, views_of, BATCH // 2)
    assert_close(output.loss, loss.detach())
    assert_close(gradients(cached), gradients(by_hand))
    assert_close(dict(cached.state_dict()), dict(by_hand.state_dict()))  # running statistics, the target's too


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_accumulated_gradients_are_the_mean_of_those_of_the_parts(objective: str, accelerator: Accelerator) -> None:
    by_hand = build(objective, batch_norm=True)
    losses = [by_hand(views_of(part, ORDERS), ORDERS).loss for part in clips().chunk(4)]
    (sum(losses) / 4).backward()
    accumulated = accelerator.prepare(build(objective, batch_norm=True))
    output = accumulate_gradients(accelerator, accumulated, clips(), ORDERS, views_of, parts=4)
    assert_close(output.loss, sum(losses).detach() / 4)
    assert_close(gradients(accumulated), gradients(by_hand))
    assert_close(dict(accumulated.state_dict()), dict(by_hand.state_dict()))
    assert output.pooler_output.shape == (BATCH, 2, 8)
    assert output.embeddings.shape == (BATCH, 2, 6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_accumulation_is_the_whole_batch_for_byol_only(objective: str, accelerator: Accelerator) -> None:
    whole, accumulated = (accelerator.prepare(build(objective, batch_norm=False)) for _ in range(2))
    accumulate_gradients(accelerator, whole, clips(), ORDERS, views_of, parts=1)
    accumulate_gradients(accelerator, accumulated, clips(), ORDERS, views_of, parts=2)
    differences = [
        (left - right).abs().max().item()
        for left, right in zip(gradients(whole).values(), gradients(accumulated).values())
    ]
    assert (max(differences) < 1e-9) == (objective == "byol")


def test_cached_gradients_are_scaled_once(accelerator: Accelerator) -> None:
    """As fp16 needs it, whose scaler accelerate leaves out on a CPU."""
    plain, scaled = (accelerator.prepare(build("simclr", batch_norm=False)) for _ in range(2))
    cache_gradients(accelerator, plain, clips(), ORDERS, views_of, chunk_size=2)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    cache_gradients(accelerator, scaled, clips(), ORDERS, views_of, chunk_size=2)
    assert_close(gradients(scaled), {name: 8 * gradient for name, gradient in gradients(plain).items()})


# Two processes

METHODS: dict[str, Callable[..., Any]] = {
    "cached": lambda *args: cache_gradients(*args, chunk_size=BATCH // 4),
    "accumulated": lambda *args: accumulate_gradients(*args, parts=2),
    "whole": lambda *args: accumulate_gradients(*args, parts=1),
}


def run_one_process(rank: int, folder: Path, port: int) -> None:
    """Measures every objective by every method under DistributedDataParallel, on a half of the batch."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    accelerator = Accelerator(cpu=True)
    results = {}
    for objective in OBJECTIVES:
        for method, compute in METHODS.items():
            model = accelerator.prepare(build(objective, batch_norm=False))
            reductions = []

            def count(state, bucket, reductions=reductions):  # torch checks annotations
                reductions.append(bucket.index())
                return allreduce_hook(state, bucket)

            model.register_comm_hook(None, count)
            output = compute(accelerator, model, clips().chunk(2)[rank], ORDERS, views_of)
            raw = accelerator.unwrap_model(model)
            results[objective, method] = {"gradients": gradients(raw), "loss": output.loss, "reductions": reductions}
    torch.save(results, folder / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    folder = tmp_path_factory.mktemp("gradients")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, __file__, str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_with_cached_gradients_compute_those_of_one_with_the_whole_batch(
    objective, two_processes
) -> None:
    model = build(objective, batch_norm=False)
    loss = model(views_of(clips(), ORDERS), ORDERS).loss
    loss.backward()
    for method in ("cached", "whole"):
        ranks = [rank[objective, method] for rank in two_processes]
        for rank in ranks:
            assert_close(rank["gradients"], gradients(model))
        assert_close(sum(rank["loss"] for rank in ranks) / 2, loss.detach())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_that_accumulate_compare_equal_parts_of_both(objective, two_processes) -> None:
    model = build(objective, batch_norm=False)
    quarters = clips().chunk(4)  # the first process holds the first two
    parts = [torch.cat(quarters[0::2]), torch.cat(quarters[1::2])]
    (sum(model(views_of(part, ORDERS), ORDERS).loss for part in parts) / 2).backward()
    for rank in two_processes:
        assert_close(rank[objective, "accumulated"]["gradients"], gradients(model))


def test_two_processes_exchange_gradients_once_a_step(two_processes: list[dict[Any, Any]]) -> None:
    assert all(
        result["reductions"] == two_processes[0][objective, "whole"]["reductions"] != []
        for rank in two_processes
        for (objective, _), result in rank.items()
    )


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked from this one process, which has imported everything once and computed nothing yet.
    torch.multiprocessing.start_processes(
        run_one_process, args=(Path(sys.argv[1]), port), nprocs=2, start_method="fork"
    )
