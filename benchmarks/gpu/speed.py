"""Time and memory of training steps: relative to the bare network, by batch size and option, and the loader's share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import VideoMAEConfig

from vididi_hf.backbone_vididi import build_backbone
from vididi_hf.choices_vididi import OBJECTIVE_NAMES
from vididi_hf.pretraining.optimization import build_optimizer
from vididi_hf.pretraining.order_schedule import ORDER_SCHEDULES

from .machine_state import free_memory, synchronize
from .runner import Context, Row
from .training import Training, make_recipe, random_clips
from .videos import read_details

BATCHES = (64, 256, 1024)
PRECISION: dict[str, Any] = {"mixed_precision": "bf16"}
SETTINGS: dict[str, dict[str, Any]] = {
    "bf16": PRECISION,
    "fp32": {},
    "bf16, channels first": {**PRECISION, "channels_last": False},
    "bf16, checkpointing": {**PRECISION, "activation_checkpointing": True},
    "bf16, caching": {**PRECISION, "chunk_size": 64},
    "bf16, compiled": {**PRECISION, "torch_compile": True},
}


def median_seconds(work: Callable[[int], object], steps: int, warm_up: int) -> float:
    """Returns the median time of a step. The device is waited for before and after each one."""
    times = []
    for number in range(warm_up + steps):
        synchronize()
        start = time.perf_counter()
        work(number)
        synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[warm_up:])


def measure_schedules(context: Context) -> Iterator[Row]:
    """Step time of each objective and order schedule, relative to the network alone, measured before and after.

    The network alone: forward pass of two float views (BYOL: and once more without a graph), backward pass, optimizer.
    """
    plans = [(objective, name) for objective in OBJECTIVE_NAMES for name in ("baseline", "paper")]
    plans += [("vicreg", name) for name in ORDER_SCHEDULES if name not in ("baseline", "paper")]
    if context.small:
        plans = plans[:3]
    for objective, schedule in plans:
        start = time.perf_counter()
        yield f"{objective}, {schedule}", _compare(context, objective, schedule)
        free_memory()
        if context.left() < 1.5 * (time.perf_counter() - start):
            return


def _compare(context: Context, objective: str, schedule: str) -> dict[str, Any]:
    recipe = make_recipe(context, objective=objective, order_schedule=schedule)
    orders_at, training = recipe.build_order_schedule(), Training(recipe)
    clips = random_clips(recipe, context.device, orders_at.max_order)
    views = training.differentiate(clips, (0, 0)).unbind(dim=1)
    alone = _network_alone(context, recipe, views, again=objective == "byol")
    steps, warm_up = (1, 1) if context.small else (6, 2)
    before = median_seconds(alone, steps, warm_up)
    # Each pair of orders takes its turn: a schedule may keep a pair for an epoch.
    seconds = median_seconds(lambda number: training.step(clips, orders_at(number, number), number), steps, warm_up)
    floor = (before + median_seconds(alone, steps, 1)) / 2
    return {"seconds": seconds, "bare_network": floor, "relative": seconds / floor}


def _network_alone(context: Context, recipe: Any, views: Any, again: bool) -> Callable[[int], None]:
    config = recipe.model_config()
    config.batch_norm = "shared"
    network = build_backbone(config).to(context.device, memory_format=torch.channels_last_3d).train()
    optimizer = build_optimizer(network, recipe)
    target = torch.randn(len(views[0]), config.hidden_size, device=context.device)

    def step(number: int) -> None:
        if again:
            with torch.no_grad():
                for view in views:
                    network(view.transpose(1, 2))
        products = [(network(view.transpose(1, 2))[0].mean(dim=(2, 3, 4)) * target).sum() for view in views]
        sum(products).backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure_throughput(context: Context) -> Iterator[Row]:
    """Videos per second and peak memory by batch size and option. VICReg, frames only; a video is two clips."""
    sizes = (8,) if context.small else BATCHES
    # Compiling takes longer than all else: larger batches are compiled last.
    plans = [(size, name) for size in sizes for name in SETTINGS]
    plans.sort(key=lambda plan: "compiled" in plan[1] and plan[0] > sizes[0])
    seconds_per_video = 0.0
    for size, name in plans:
        options = {**SETTINGS[name], "batch_size": size, "order_schedule": "baseline"}
        if context.small:
            options |= {"chunk_size": min(options.get("chunk_size", 0), 4)}
        steps = 1 if context.small else max(2, min(8, 256 // size))
        if context.small and "compiled" in name:
            yield f"{size}, {name}", {"skipped": "a small run does not compile"}
        elif context.left() < 1.3 * (steps + 2) * size * seconds_per_video + (60 if "compiled" in name else 0):
            yield f"{size}, {name}", {"skipped": "no time left"}
        else:
            row = _measure_step(context, options, steps)
            seconds_per_video = max(seconds_per_video, row.get("seconds", 0.0) / size)
            yield f"{size}, {name}", row
        free_memory()


def _measure_step(context: Context, options: dict[str, Any], steps: int) -> dict[str, Any]:
    recipe = make_recipe(context, **options).completed()
    try:
        clips = random_clips(recipe, context.device, 0)
        training = Training(recipe)
        seconds = median_seconds(lambda number: training.step(clips, (0, 0), number), steps, 1 if context.small else 2)
    except torch.OutOfMemoryError:
        return {"skipped": "out of memory"}
    except RuntimeError as error:
        if "CUDA error" in str(error):  # then no other row can be measured in this process
            raise
        return {"ok": False, "error": " ".join(str(error).split())[:100]}
    row = {"seconds": seconds, "videos_per_second": recipe.batch_size / seconds}
    if context.device == "cuda":
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return row


def measure_loader(context: Context) -> Iterator[Row]:
    """What the fastest step needs from the loader, and what a core delivers.

    The loader was timed when the videos were prepared, because it needs torchcodec. The augmentation, which is most of
    its work on prepared videos, is timed here.
    """
    speeds = [row.get("videos_per_second", 0.0) for row in context.results.get("throughput", {}).values()]
    required = max(speeds, default=0.0)
    yield "required by the fastest step", {"videos_per_second": required}
    recipe = make_recipe(context)
    augmentation, generator = recipe.augmentation(), Random(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    frames = torch.randint(256, (recipe.num_frames + 2, 96, 128, 3), dtype=torch.uint8).movedim(-1, -3)
    start, clips = time.perf_counter(), 0
    while time.perf_counter() - start < (0.3 if context.small else 3):
        augmentation(frames, generator)
        clips += 1
    rate = clips / 2 / (time.perf_counter() - start)
    torch.set_num_threads(threads)
    yield "augmentation, one core", {"videos_per_second": rate, "cores_needed": required / rate}
    loader = read_details(context.videos).get("loader")
    if loader:
        yield (
            f"whole loader, one core ({loader['processor']})",
            {
                "videos_per_second": loader["videos_per_second"],
                "cores_needed": required / loader["videos_per_second"],
            },
        )


def measure_vit(context: Context) -> Iterator[Row]:
    """A ViT-B of VideoMAE's architecture (16 frames of 224²) with random weights, whole and with LoRA."""
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    sizes: dict[str, Any] = {**tiny, "image_size": 32, "num_frames": 4} if context.small else {}
    with TemporaryDirectory() as folder:
        VideoMAEConfig(**sizes).save_pretrained(folder)
        shared = {"encoder": folder, "random_init": True, "num_frames": 0, "image_size": 0, "batch_size": 8}
        shared |= {
            "hidden_sizes": None,
            "depths": None,
            "optimizer": "adamw",
            "order_schedule": "baseline",
            **PRECISION,
        }
        plans: dict[str, dict[str, Any]] = {"ViT-B": {}, "ViT-B, checkpointing": {"activation_checkpointing": True}}
        if find_spec("peft"):
            plans["ViT-B, LoRA of rank 8"] = {"lora_rank": 8}
        for name, options in plans.items():
            yield name, _measure_step(context, shared | options, 1 if context.small else 4)
            free_memory()
