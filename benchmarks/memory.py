#!/usr/bin/env python
"""Peak memory of one training step: a small batch, a large one, and the large one with cached gradients.

python benchmarks/memory.py --batch_size 1024 --chunk_size 32 --output memory.json

What is counted is every tensor that is alive at the same time, beyond what was there before the step (the model, its
gradients, and the uint8 clips of the batch, which come from the loader): activations, what autograd saves, embeddings,
the loss. Tensors are made without contents, so that any size can be counted on any machine, in seconds. Scratch memory
within an operator is not seen; `--real` runs the step as well, and reports how much the process grew.
"""

import json
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vididi_hf.options import option, parse_arguments
from vididi_hf.pretraining.gradient_caching import accumulate_gradients, cache_gradients
from vididi_hf.pretraining.loop import build_processor
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.pretraining.recipe import PretrainingRecipe


@dataclass
class Arguments:
    """What to count."""

    batch_size: int = option(default=1024, help="Videos of the large batch.")
    chunk_size: int = option(default=32, help="Videos of a chunk, and of the small batch.")
    objective: str = option(default="simclr", help="vicreg, byol or simclr.")
    backbone: str = option(default="r3d_18", help="See PretrainingRecipe.")
    hidden_sizes: list[int] | None = option(default=None, help="See PretrainingRecipe.")
    depths: list[int] | None = option(default=None, help="See PretrainingRecipe.")
    image_size: int = option(default=112, help="See PretrainingRecipe.")
    num_frames: int = option(default=8, help="See PretrainingRecipe.")
    real: bool = option(default=False, help="Run one step of the small and of the cached batch as well.")
    output: str = option(default="memory.json", help="JSON file of the results.")


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the storages that operators make, from their making to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and id(leaf.untyped_storage()) not in given:
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self.known:
            return

        def forget(_: Any) -> None:
            del self.known[key]
            self.alive -= size

        self.known[key] = weakref.ref(storage, forget)
        self.alive += size
        self.peak = max(self.peak, self.alive)


class ResidentPeak(threading.Thread):
    """Watches how much memory this process takes beyond what it took before."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.process, self.over = psutil.Process(), threading.Event()
        self.before, self.grown = self.process.memory_info().rss, 0

    def run(self) -> None:
        """Looks every two milliseconds."""
        while not self.over.wait(0.002):
            self.grown = max(self.grown, self.process.memory_info().rss - self.before)


def build(arguments: Arguments) -> tuple[Accelerator, ViDiDiForPreTraining, Any]:
    """The model with gradients, and what makes its input."""
    recipe = PretrainingRecipe(
        objective=arguments.objective,
        backbone=arguments.backbone,
        hidden_sizes=arguments.hidden_sizes,
        depths=arguments.depths,
        image_size=arguments.image_size,
        num_frames=arguments.num_frames,
        order_schedule="first-order",
    )
    model = ViDiDiForPreTraining(recipe.model_config()).train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    processor = build_processor(recipe)

    def views_of(clips: torch.Tensor, orders: tuple[int, int]) -> torch.Tensor:
        frames = recipe.num_frames
        views = [processor.views(clips[:, i, : frames + order], orders=(order,))[0] for i, order in enumerate(orders)]
        return torch.stack(views, dim=1)

    accelerator = Accelerator(cpu=True)
    return accelerator, accelerator.prepare_model(model, device_placement=False), views_of


def clips_of(arguments: Arguments, videos: int) -> torch.Tensor:
    size = arguments.image_size
    return torch.randint(256, (videos, 2, arguments.num_frames + 1, 3, size, size), dtype=torch.uint8)


def count(arguments: Arguments, videos: int, chunk_size: int) -> float:
    """Peak of the tensors alive during a step of so many videos, in MiB; in chunks unless `chunk_size` is 0."""
    with FakeTensorMode(allow_non_fake_inputs=True):  # shapes and storages without contents
        accelerator, model, views_of = build(arguments)
        clips = clips_of(arguments, videos)
        with LiveTensors() as live:
            if chunk_size:
                cache_gradients(accelerator, model, clips, (0, 1), views_of, chunk_size)
            else:
                accumulate_gradients(accelerator, model, clips, (0, 1), views_of)
    return live.peak / 2**20


def measure(arguments: Arguments, videos: int, chunk_size: int) -> float:
    """By how much this process grows during a step, in MiB, after a step of a chunk has made what is made once."""
    accelerator, model, views_of = build(arguments)
    clips = clips_of(arguments, videos)
    accumulate_gradients(accelerator, model, clips[:2], (0, 1), views_of)
    watch = ResidentPeak()
    watch.start()
    if chunk_size:
        cache_gradients(accelerator, model, clips, (0, 1), views_of, chunk_size)
    else:
        accumulate_gradients(accelerator, model, clips, (0, 1), views_of)
    watch.over.set()
    watch.join()
    return watch.grown / 2**20


def main() -> None:
    """Counts, and prints a line for each step."""
    arguments = parse_arguments(Arguments, None, __doc__)
    steps = {
        "small": (arguments.chunk_size, 0),
        "cached": (arguments.batch_size, arguments.chunk_size),
        "whole": (arguments.batch_size, 0),
    }
    results: dict[str, Any] = {"arguments": vars(arguments), "torch": torch.__version__}
    for name, (videos, chunk_size) in steps.items():
        results[name] = {"videos": videos, "counted_mib": count(arguments, videos, chunk_size)}
        if arguments.real and name != "whole":
            results[name]["grown_mib"] = measure(arguments, videos, chunk_size)
        print(name, {key: round(value, 1) for key, value in results[name].items()}, flush=True)
    results["ratio"] = results["cached"]["counted_mib"] / results["small"]["counted_mib"]
    Path(arguments.output).write_text(json.dumps(results, indent=2) + "\n")
    print(f"cached / small: {results['ratio']:.2f}")


if __name__ == "__main__":
    main()
