#!/usr/bin/env python
"""What the processes of a run tell each other in a step, and how long that takes beside computing: on paper.

python benchmarks/communication.py
python benchmarks/communication.py --batch_size 64 --node_bandwidth 12.5e9 --output communication.json

Bytes are those of the collective calls that a training step makes, FLOPs are counted by torch in a forward and backward
pass. Times follow from assumed bandwidths, latencies and speeds, all of which are options; nothing is measured here.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from vididi_hf.evaluation.results import write_report
from vididi_hf.objectives import build_objective
from vididi_hf.options import errors_in_one_line, option, parse_arguments
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.pretraining.recipe import PretrainingRecipe

BYTES = 4  # gradients, embeddings and statistics are exchanged in float32


@dataclass(kw_only=True)
class Arguments:
    """What is assumed. The defaults are round numbers in the range of common clusters, and of no particular one."""

    backbone: str = option(default="r3d_18", help="See PretrainingRecipe.")
    num_frames: int = option(default=8, help="See PretrainingRecipe.")
    image_size: int = option(default=112, help="See PretrainingRecipe.")
    batch_size: int = option(default=32, help="Videos of a GPU.")
    gpus: list[int] = option(default_factory=lambda: [8, 64, 512], help="Sizes of the cluster.")
    gpus_per_node: int = option(default=8, help="GPUs of a node.")
    gpu_speed: float = option(default=1e14, help="FLOP/s that a GPU sustains in these networks.")
    gpu_bandwidth: float = option(default=2e11, help="Bytes/s that a GPU sends to others of its node, one way.")
    node_bandwidth: float = option(default=5e10, help="Bytes/s that a node sends to others, one way.")
    gpu_latency: float = option(default=5e-6, help="Seconds that a message within a node takes at least.")
    node_latency: float = option(default=2e-5, help="Seconds that a message between nodes takes at least.")
    output: str | None = option(default=None, help="JSON file of all numbers.")

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, (int, float)) and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        for number in self.gpus:
            if number < 1 or (number > self.gpus_per_node and number % self.gpus_per_node):
                raise ValueError(f"gpus must fill nodes of {self.gpus_per_node}, got {number}")


@dataclass(frozen=True)
class Call:
    """A collective call of a step.

    Attributes:
        purpose: What it is for.
        kind: `"all_reduce"` or `"all_gather"`.
        size: Bytes of the result on every GPU.
        times: How often it is made.
    """

    purpose: str
    kind: str
    size: int
    times: int = 1


@dataclass(frozen=True)
class Link:
    """The slowest link between GPUs.

    Attributes:
        bandwidth: Bytes/s, one way.
        latency: Seconds that a message takes at least.
    """

    bandwidth: float
    latency: float


def slowest_link(arguments: Arguments, gpus: int) -> Link:
    """The link that so many GPUs wait for: that between nodes, where there are several; a ring leaves each once."""
    if gpus <= arguments.gpus_per_node:
        return Link(arguments.gpu_bandwidth, arguments.gpu_latency)
    return Link(min(arguments.gpu_bandwidth, arguments.node_bandwidth), arguments.node_latency)


def seconds_of(call: Call, gpus: int, link: Link) -> float:
    """Time of a collective call: around a ring or along a tree, whichever is faster.

    Around a ring, an all-gather takes g - 1 rounds, in each of which every GPU sends one of g parts; an all-reduce
    takes twice as many, half of them to add up. Along a tree there are log2 g rounds: an all-gather doubles what it
    sends in each, an all-reduce sends everything up and down. Large messages are faster around the ring.

    Args:
        call: The call.
        gpus: GPUs g.
        link: The slowest link between them.

    Returns:
        Seconds of all the times that it is made.

    Source: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH" (2005).
    """
    if gpus == 1:
        return 0.0
    passes = 2 if call.kind == "all_reduce" else 1
    transfer = call.size / link.bandwidth
    share, depth = (gpus - 1) / gpus, math.ceil(math.log2(gpus))
    ring = passes * ((gpus - 1) * link.latency + share * transfer)
    tree = passes * depth * link.latency + (passes * depth if passes == 2 else share) * transfer
    return call.times * min(ring, tree)


def calls_of_step(model: ViDiDiForPreTraining, batch_size: int, gpus: int) -> list[Call]:
    """The collective calls of a step with SyncBatchNorm, one forward pass for each view.

    Args:
        model: What is trained.
        batch_size: Videos of a GPU.
        gpus: GPUs.
    """
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    calls = [Call("gradients", "all_reduce", BYTES * trained)]
    objective = model.config.objective
    if objective != "byol":  # BYOL compares each pair by itself
        size = BYTES * 2 * gpus * batch_size * embedding_width(model)
        calls += [Call("embeddings", "all_gather", 8 * gpus), Call("embeddings", "all_gather", size)]  # rows, values
        calls += [Call("embeddings", "all_reduce", size)]  # their gradients
    # Each BatchNorm gathers mean, inverse deviation and count of every GPU, and in the backward pass adds up two sums
    # for each channel; BYOL's target has none of the latter.
    online = _norm_widths(model.vididi) + _norm_widths(model.objective)
    target = _norm_widths(model.target) if model.target is not None else []
    calls += [Call("BatchNorm", "all_gather", BYTES * gpus * (2 * one + 1), 2) for one in online + target]
    calls += [Call("BatchNorm", "all_reduce", BYTES * 2 * one, 2) for one in online]
    return calls


def _norm_widths(module: nn.Module) -> list[int]:
    return [one.num_features for one in module.modules() if isinstance(one, _BatchNorm)]


def network_flops(model: ViDiDiForPreTraining, batch_size: int) -> int:
    """FLOPs of the networks of one GPU in a step, forward and backward, counted by torch on tensors without contents.

    Args:
        model: What is trained, on the meta device.
        batch_size: Videos of the GPU.
    """
    config = model.config
    shape = (batch_size, 2, config.num_frames, config.num_channels, config.image_size, config.image_size)
    views = torch.empty(shape, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(views, compare=False).predictions.sum().backward()
        model.embed_targets(views)
    return counter.get_total_flops()


def loss_flops(model: ViDiDiForPreTraining, videos: int) -> int:
    """FLOPs of the loss of all GPUs' videos, which every GPU computes, likewise.

    Args:
        model: What is trained.
        videos: Videos of all GPUs.
    """
    if model.target is not None:  # BYOL compares pairs, without a matrix product
        return 0
    width = embedding_width(model)
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        objective = build_objective(model.config.objective, model.config.hidden_size)
        objective(*(torch.empty(videos, width, requires_grad=True) for _ in range(2))).loss.backward()
    return counter.get_total_flops()


def embedding_width(model: ViDiDiForPreTraining) -> int:
    return [one for one in model.objective.projector if isinstance(one, nn.Linear)][-1].out_features


def model_of(arguments: Arguments, objective: str) -> ViDiDiForPreTraining:
    """The model of an objective with its own heads, without contents."""
    recipe = PretrainingRecipe(
        objective=objective,
        backbone=arguments.backbone,
        num_frames=arguments.num_frames,
        image_size=arguments.image_size,
        batch_norm="shared",
    )
    with torch.device("meta"):
        return ViDiDiForPreTraining(recipe.model_config()).train()


def rows_of(arguments: Arguments, objective: str) -> list[dict]:
    """What each size of the cluster sends, and how long that takes, in a step of an objective."""
    model = model_of(arguments, objective)
    networks = network_flops(model, arguments.batch_size) / arguments.gpu_speed
    rows = []
    for gpus in arguments.gpus:
        loss = loss_flops(model, gpus * arguments.batch_size) / arguments.gpu_speed
        link = slowest_link(arguments, gpus)
        size: dict[str, int] = {}
        seconds: dict[str, float] = {}
        for call in calls_of_step(model, arguments.batch_size, gpus):
            size[call.purpose] = size.get(call.purpose, 0) + call.size * call.times
            seconds[call.purpose] = seconds.get(call.purpose, 0.0) + seconds_of(call, gpus, link)
        # Gradients are sent while the backward pass, two thirds of the computing, goes on; the rest holds it up.
        waits = max(0.0, seconds["gradients"] - 2 / 3 * networks)
        waits += sum(value for purpose, value in seconds.items() if purpose != "gradients")
        rows.append(
            {
                "objective": objective,
                "gpus": gpus,
                "bytes": size,
                "seconds": seconds,
                "network_seconds": networks,
                "loss_seconds": loss,
                "network_share": networks / (networks + loss + waits),
            }
        )
    return rows


def print_rows(rows: list[dict]) -> None:
    """Prints a Markdown table: MB and milliseconds by purpose."""
    purposes = ("gradients", "embeddings", "BatchNorm")
    print(
        "| objective | GPUs | networks | loss |" + "".join(f" {one} |" for one in purposes) + " share of the networks |"
    )
    print("| --- | ---: | ---: | ---: |" + " ---: |" * len(purposes) + " ---: |")
    for row in rows:
        cells = "".join(
            f" {row['bytes'][one] / 1e6:.1f} MB, {row['seconds'][one] * 1e3:.1f} ms |"
            if one in row["bytes"]
            else " – |"
            for one in purposes
        )
        compute = f"{row['network_seconds'] * 1e3:.0f} ms | {row['loss_seconds'] * 1e3:.1f} ms"
        print(f"| {row['objective']} | {row['gpus']} | {compute} |{cells} {row['network_share']:.0%} |")


def main() -> None:
    """Calculates, prints, writes."""
    arguments = parse_arguments(Arguments, None, __doc__)
    with errors_in_one_line("communication.py"):
        rows = [row for objective in ("vicreg", "simclr", "byol") for row in rows_of(arguments, objective)]
        print_rows(rows)
        if arguments.output:
            write_report(arguments.output, {"arguments": asdict(arguments), "rows": rows})


if __name__ == "__main__":
    main()
