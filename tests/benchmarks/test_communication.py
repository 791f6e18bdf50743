"""`benchmarks/communication.py` against rings that are walked through, and networks of torchvision."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn
from torchvision.models.video import R3D_18_Weights, r3d_18

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "communication.py"


@pytest.fixture(scope="module")
def script() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def walk_ring(gpus: int) -> int:
    """Adds up vectors of as many parts as there are GPUs by passing parts to the neighbor; returns the rounds."""
    vectors = [[10**gpu * (part + 1) for part in range(gpus)] for gpu in range(gpus)]
    total = [sum(vector[part] for vector in vectors) for part in range(gpus)]
    rounds = 0
    for adding in (True, False):
        for turn in range(gpus - 1):
            parts = [(gpu - turn + (not adding)) % gpus for gpu in range(gpus)]
            sent = [vectors[gpu][parts[gpu]] for gpu in range(gpus)]
            for gpu in range(gpus):
                part, value = parts[gpu - 1], sent[gpu - 1]
                vectors[gpu][part] = vectors[gpu][part] + value if adding else value
            rounds += 1
    assert all(vector == total for vector in vectors)
    return rounds


@pytest.mark.parametrize("gpus", [2, 5, 8])
def test_large_messages_go_around_the_ring(script: SimpleNamespace, gpus: int) -> None:
    link, size = script.Link(bandwidth=1e9, latency=1e-9), 10**9
    each_round = size / gpus / 1e9 + 1e-9
    call = script.Call("gradients", "all_reduce", size)
    assert script.seconds_of(call, gpus, link) == pytest.approx(walk_ring(gpus) * each_round)
    call = script.Call("embeddings", "all_gather", size, times=3)
    assert script.seconds_of(call, gpus, link) == pytest.approx(3 * (gpus - 1) * each_round, rel=1e-6)


def test_small_messages_go_along_a_tree(script: SimpleNamespace) -> None:
    link = script.Link(bandwidth=1e9, latency=1e-3)
    assert script.seconds_of(script.Call("", "all_reduce", 1000), 64, link) == pytest.approx(2 * 6 * (1e-3 + 1e-6))
    # Of 64 parts, 1, 2, 4, … 32 are sent in the six rounds.
    parts = sum(2**round_ for round_ in range(6))
    gathered = script.seconds_of(script.Call("", "all_gather", 64_000), 64, link)
    assert gathered == pytest.approx(6 * 1e-3 + parts * 1000 / 1e9)


def test_one_gpu_talks_to_nobody(script: SimpleNamespace) -> None:
    assert script.seconds_of(script.Call("", "all_reduce", 1000), 1, script.Link(1.0, 1.0)) == 0


def test_the_slowest_link_is_that_between_nodes(script: SimpleNamespace) -> None:
    arguments = script.Arguments(gpu_bandwidth=5.0, node_bandwidth=3.0, gpu_latency=0.1, node_latency=0.2)
    assert script.slowest_link(arguments, 8) == script.Link(5.0, 0.1)
    assert script.slowest_link(arguments, 64) == script.Link(3.0, 0.2)
    with pytest.raises(ValueError, match="gpus must fill nodes of 8, got 12"):
        script.Arguments(gpus=[12])


def test_what_vicreg_sends_is_counted_from_torchvisions_network(script: SimpleNamespace) -> None:
    batch, gpus = 4, 16
    network = r3d_18()
    network.fc = nn.Sequential(
        *(nn.Linear(512, 2048), nn.BatchNorm1d(2048)),
        *(nn.Linear(2048, 2048), nn.BatchNorm1d(2048)),
        nn.Linear(2048, 2048, bias=False),
    )
    widths = [one.num_features for one in network.modules() if isinstance(one, (nn.BatchNorm1d, nn.BatchNorm3d))]
    model = script.model_of(script.Arguments(), "vicreg")
    sent: dict[tuple[str, str], int] = {}
    for call in script.calls_of_step(model, batch, gpus):
        key = (call.purpose, call.kind)
        sent[key] = sent.get(key, 0) + call.size * call.times
    embeddings = 2 * gpus * batch * 2048 * 4
    assert sent == {
        ("gradients", "all_reduce"): 4 * sum(one.numel() for one in network.parameters()),
        ("embeddings", "all_gather"): embeddings + 8 * gpus,
        ("embeddings", "all_reduce"): embeddings,
        ("BatchNorm", "all_gather"): 2 * gpus * 4 * sum(2 * width + 1 for width in widths),
        ("BatchNorm", "all_reduce"): 2 * 4 * sum(2 * width for width in widths),
    }


def test_byol_gathers_no_embeddings_and_its_target_has_statistics(script: SimpleNamespace) -> None:
    calls = script.calls_of_step(script.model_of(script.Arguments(), "byol"), 4, 16)
    assert {call.purpose for call in calls} == {"gradients", "BatchNorm"}
    forward = [call for call in calls if call.purpose == "BatchNorm" and call.kind == "all_gather"]
    backward = [call for call in calls if call.purpose == "BatchNorm" and call.kind == "all_reduce"]
    assert (len(forward), len(backward)) == (20 + 2 + 20 + 1, 20 + 2)  # the network's 20, and one in each head


def test_flops_are_those_that_torchvision_states(script: SimpleNamespace) -> None:
    """It states multiply-adds of 16 frames. A backward pass costs twice a forward pass; there are two views."""
    stated = 2 * R3D_18_Weights.DEFAULT.meta["_ops"] * 1e9 / 2
    counted = {o: script.network_flops(script.model_of(script.Arguments(), o), 3) for o in ("simclr", "byol")}
    assert counted["simclr"] == pytest.approx(3 * 2 * 3 * stated, rel=0.03)
    assert counted["byol"] == pytest.approx(3 * 2 * 4 * stated, rel=0.03)  # the target passes forward only


def test_the_loss_of_all_is_computed_by_everyone(script: SimpleNamespace) -> None:
    """Its matrix products, twice as many FLOPs as multiply-adds, and twice as many again in the backward pass."""
    videos = 96
    products = {"vicreg": 2 * videos * 2048**2, "simclr": (2 * videos) ** 2 * 128, "byol": 0}
    for objective, multiply_adds in products.items():
        model = script.model_of(script.Arguments(), objective)
        assert script.loss_flops(model, videos) == 3 * 2 * multiply_adds


def test_gradients_wait_for_the_backward_pass_and_the_rest_holds_it_up(script: SimpleNamespace) -> None:
    fast = script.rows_of(script.Arguments(gpus=[8], gpu_speed=1e12), "byol")[0]
    assert fast["network_share"] > 0.99
    slow = script.rows_of(script.Arguments(gpus=[8], gpu_bandwidth=1e6), "byol")[0]
    networks, seconds = slow["network_seconds"], slow["seconds"]
    waits = seconds["gradients"] - 2 / 3 * networks + seconds["BatchNorm"]
    assert slow["network_share"] == pytest.approx(networks / (networks + waits))
