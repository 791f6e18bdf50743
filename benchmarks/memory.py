#!/usr/bin/env python
"""Peak memory of one training step: a small batch, a large one, and the large one with cached gradients.

python benchmarks/memory.py --batch_size 1024 --chunk_size 32 --output memory.json

Counts the tensors that are alive at the same time, beyond the model, its gradients and the uint8 clips: activations,
tensors saved by autograd, embeddings, the loss. Tensors have no contents, so any size can be counted on any machine.
Scratch memory inside an operator is not counted. `--real` also runs the step and reports how much the process grew.
"""

import json
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vididi_hf.options import Options, option, parse_options
from vididi_hf.pretraining.gradient_caching import accumulate_gradients, cache_gradients
from vididi_hf.pretraining.loop import derivative_views
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.setup import build_processor


@dataclass(kw_only=True)
class MemoryBenchmarkOptions(Options):
    """The options of the benchmark."""

    batch_size: int = option(default=1024, at_least=1, help="Videos of the large batch.")
    chunk_size: int = option(default=32, at_least=1, help="Videos of a chunk, and of the small batch.")
    objective: str = option(default="simclr", help="vicreg, byol or simclr.")
    backbone: str = option(default="r3d_18", help="See PretrainingRecipe.")
    hidden_sizes: list[int] | None = option(default=None, help="See PretrainingRecipe.")
    depths: list[int] | None = option(default=None, help="See PretrainingRecipe.")
    image_size: int = option(default=112, help="See PretrainingRecipe.")
    num_frames: int = option(default=8, help="See PretrainingRecipe.")
    real: bool = option(default=False, help="Also run one step of the small and of the cached batch.")
    output: str = option(default="memory.json", help="JSON file of the results.")


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the storages that operators create, until they are freed."""

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
    """Watches how much the memory of this process grows."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.process, self.over = psutil.Process(), threading.Event()
        self.before, self.grown = self.process.memory_info().rss, 0

    def run(self) -> None:
        """Measures every two milliseconds."""
        while not self.over.wait(0.002):
            self.grown = max(self.grown, self.process.memory_info().rss - self.before)


def build(arguments: MemoryBenchmarkOptions) -> tuple[Accelerator, ViDiDiForPreTraining, Any]:
    """Builds the model with gradients, and the function that makes its input."""
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
    differentiate = partial(derivative_views, processor=build_processor(recipe), num_frames=recipe.num_frames)
    accelerator = Accelerator(cpu=True)
    return accelerator, accelerator.prepare_model(model, device_placement=False), differentiate


def clips_of(arguments: MemoryBenchmarkOptions, videos: int) -> torch.Tensor:
    size = arguments.image_size
    return torch.randint(256, (videos, 2, arguments.num_frames + 1, 3, size, size), dtype=torch.uint8)


def step_of(arguments: MemoryBenchmarkOptions, videos: int, chunk_size: int) -> Callable[[], object]:
    """Returns one training step without the optimizer."""
    accelerator, model, differentiate = build(arguments)
    clips = clips_of(arguments, videos)
    if chunk_size:
        return partial(cache_gradients, accelerator, model, clips, (0, 1), differentiate, chunk_size)
    return partial(accumulate_gradients, accelerator, model, clips, (0, 1), differentiate, 1)


def count(arguments: MemoryBenchmarkOptions, videos: int, chunk_size: int) -> float:
    """Returns the peak of the tensors alive during a step, in MiB. 0 passes the videos at once, not in chunks."""
    with FakeTensorMode(allow_non_fake_inputs=True):  # shapes and storages without contents
        step = step_of(arguments, videos, chunk_size)
        with LiveTensors() as live:
            step()
    return live.peak / 2**20


def measure(arguments: MemoryBenchmarkOptions, videos: int, chunk_size: int) -> float:
    """Returns how much this process grows during a step, in MiB, after a warm-up step."""
    step_of(arguments, 2, 0)()
    step = step_of(arguments, videos, chunk_size)
    watch = ResidentPeak()
    watch.start()
    step()
    watch.over.set()
    watch.join()
    return watch.grown / 2**20


def main() -> None:
    """Counts, and prints a line for each step."""
    arguments = parse_options(MemoryBenchmarkOptions, description=__doc__)
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
    Path(arguments.output).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"cached / small: {results['ratio']:.2f}")


if __name__ == "__main__":
    main()
