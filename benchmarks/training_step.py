#!/usr/bin/env python
"""Measures time and memory of a training step, compared with the network alone and with other implementations.

python benchmarks/training_step.py                                           # r3d_18, 2 videos of 8 frames of 112²
python benchmarks/training_step.py --recipe_file scripts/recipes/motion-tiny.json --steps 10 --batch_size 32
python benchmarks/training_step.py --families ours flags --threads 2 --rounds 9 --output training_step.json

All methods run in turn in one process, in several rounds. The floor of a method runs before and after it, and its ratio
is relative to the mean of the two, so a change of the machine's speed does not matter. Numbers are medians over rounds.
The floor is the network alone: forward pass of two float views, backward pass, optimizer step. BYOL's floor adds a
forward pass of each view without a graph. Ours starts from uint8 clips and does everything that the training loop does
except loading. The cost of the measures of collapse, which run every `monitor_steps`, is spread over the steps.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torchvision
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from machine import processor_name
from memory import LiveTensors
from peers.training import Encoder, Step, lightly_step, plain_step
from vididi_hf.backbone_vididi import build_backbone
from vididi_hf.evaluation.results import write_report
from vididi_hf.objectives import build_objective, cosine_decay
from vididi_hf.options import Options, errors_in_one_line, option, parse_options
from vididi_hf.pretraining.checkpoints import Progress
from vididi_hf.pretraining.collapse import describe_representation
from vididi_hf.pretraining.logging import RunLog
from vididi_hf.pretraining.loop import derivative_views
from vididi_hf.pretraining.modeling import build_model
from vididi_hf.pretraining.optimization import build_lr_schedule, build_optimizer, set_learning_rate
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.setup import build_processor

OBJECTIVES = ("vicreg", "simclr", "byol")
ORDER_SCHEDULES = ("baseline", "paper")
FAMILIES = ("ours", "lightly", "plain", "flags")
Series = dict[str, list[float]]
FLOOR, BYOL_FLOOR = "floor", "floor, and the views once more"
STEPS_PER_EPOCH = 1000


@dataclass(kw_only=True)
class StepBenchmarkOptions(Options):
    """The options of the benchmark."""

    recipe_file: str | None = option(default=None, help="JSON file of the recipe; the default is r3d_18.")
    batch_size: int = option(default=2, at_least=1, help="Videos per step.")
    families: list[str] = option(default_factory=lambda: list(FAMILIES[:3]), choices=FAMILIES, help="Methods.")
    steps: int = option(default=1, at_least=1, help="Steps per measurement.")
    rounds: int = option(default=5, at_least=1, help="Rounds; numbers are medians over them.")
    seconds: float = option(default=0.0, at_least=0, help="Start no round after this time; 0 is no limit.")
    threads: int = option(default=1, at_least=1, help="Threads of torch on the CPU.")
    memory: bool = option(default=True, help="Count the tensors that are alive at the same time in a step.")
    output: str | None = option(default=None, help="JSON file of all numbers.")

    def recipe(self, **options: Any) -> PretrainingRecipe:
        """Returns the recipe of one method."""
        values = PretrainingRecipe.read_values(self.recipe_file) if self.recipe_file else {}
        values |= {"batch_size": self.batch_size, "epochs": 4, "progress": False, "evaluate_epochs": 0}
        values |= {"optimizer": "lars", "learning_rate": 0.1, "weight_decay": 1e-6}
        return PretrainingRecipe(**(values | options))


class Method:
    """What is measured, and what it is compared with."""

    def __init__(self, step: Step, floor: str = FLOOR, look: Callable[[], object] | None = None, every: int = 1):
        self.step, self.floor, self.look, self.every = step, floor, look, every


class Bench:
    """Builds the methods, all on the same clips."""

    def __init__(self, arguments: StepBenchmarkOptions, folder: str) -> None:
        self.arguments, self.folder = arguments, folder
        self.accelerator = Accelerator(cpu=not torch.accelerator.is_available())
        self.device = self.accelerator.device
        recipe = arguments.recipe()
        generator = torch.Generator().manual_seed(0)
        shape = (arguments.batch_size, 2, recipe.num_frames + 2, 3, recipe.image_size, recipe.image_size)
        self.clips = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        views = derivative_views(
            self.clips.to(self.device), (0, 0), processor=build_processor(recipe), num_frames=recipe.num_frames
        )
        self.views: tuple[Tensor, Tensor] = views.unbind(dim=1)  # type: ignore[assignment]
        self.config = recipe.model_config()
        self.config.batch_norm = "shared"

    def backbone(self) -> torch.nn.Module:
        """The network alone, in the memory layout of ours."""
        return build_backbone(self.config).to(self.device, memory_format=torch.channels_last_3d).train()

    def floor(self, again: bool = False) -> Method:
        """The network alone; with `again`, with one more forward pass of each view."""
        network = Encoder(self.backbone())
        update = build_optimizer(network, self.arguments.recipe())
        target = torch.randn(self.arguments.batch_size, self.config.hidden_size, device=self.device)

        def step() -> None:
            features = [network(view) for view in self.views]
            if again:
                with torch.no_grad():
                    features += [network(view) for view in self.views]
            sum((one * target).sum() for one in features).backward()  # type: ignore[union-attr]
            update.step()
            update.zero_grad()

        return Method(step)

    def ours(self, objective: str, schedule: str, floor: str | None = None, **options: Any) -> Method:
        """What our training loop does with a loaded batch. It repeats the body of `pretrain`."""
        recipe = self.arguments.recipe(objective=objective, order_schedule=schedule, output_dir=self.folder, **options)
        network = build_model(recipe, self.accelerator)
        model, optimizer = self.accelerator.prepare(network, build_optimizer(network, recipe))
        lr_schedule, order_schedule = build_lr_schedule(recipe, STEPS_PER_EPOCH), recipe.build_order_schedule()
        last_step = recipe.epochs * STEPS_PER_EPOCH
        differentiate = partial(derivative_views, processor=build_processor(recipe), num_frames=recipe.num_frames)
        # The measures of collapse are timed separately, because they run only every few steps.
        log = RunLog(replace(recipe, monitor_steps=0), self.accelerator, last_step)
        progress = Progress(steps_per_epoch=STEPS_PER_EPOCH)
        log.start(progress)
        log.start_epoch()
        clips = self.clips[:, :, : recipe.num_frames + order_schedule.max_order]
        clips = clips.pin_memory() if self.device.type == "cuda" else clips.clone()
        numbers, sources = count(), [f"{video}.mp4" for video in range(len(clips))]
        model.train()

        def step() -> Any:
            number = next(numbers)
            orders = order_schedule(number, number)  # all pairs of orders take turns
            output = model(differentiate(clips.to(self.device, non_blocking=True), orders), orders)
            self.accelerator.backward(output.loss)
            if recipe.max_grad_norm > 0:
                self.accelerator.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            set_learning_rate(optimizer, lr_schedule(number))
            optimizer.step()
            optimizer.zero_grad()
            if network.target is not None:
                network.update_target(cosine_decay(number, last_step, recipe.ema_momentum))
            progress.step = progress.total_steps = number + 1
            log.step(orders, lr_schedule(number), output, sources)
            return output

        output = step().detached()
        look = partial(describe_representation, output.pooler_output, output.embeddings)
        floor = floor or (BYOL_FLOOR if objective == "byol" else FLOOR)
        return Method(step, floor, look, recipe.monitor_steps)

    def head_sizes(self, objective: str) -> list[int]:
        """Widths of our projector's layers, input first."""
        config = self.arguments.recipe(objective=objective).model_config()
        projector = build_objective(objective, config.hidden_size, config.objective_options).projector
        layers = [one for one in projector if isinstance(one, torch.nn.Linear)]
        return [layers[0].in_features, *(one.out_features for one in layers)]

    def methods(self) -> dict[str, Method]:
        """Returns the chosen methods with their floors."""
        families = self.arguments.families
        found = {FLOOR: self.floor(), BYOL_FLOOR: self.floor(again=True)}
        if "ours" in families:
            found |= {f"ours, {o}, {s}": self.ours(o, s) for o in OBJECTIVES for s in ORDER_SCHEDULES}
        for family, make in (("lightly", lightly_step), ("plain", plain_step)):
            for objective in OBJECTIVES if family in families else ():
                step = make(objective, self.backbone(), self.head_sizes(objective), self.views, 0.1)
                found[f"{family}, {objective}"] = Method(step, BYOL_FLOOR if objective == "byol" else FLOOR)
        if "flags" in families:
            plain = "vicreg, paper"
            found[plain] = self.ours("vicreg", "paper")
            options: dict[str, dict[str, Any]] = {
                "channels_last off": {"channels_last": False},
                "torch_compile": {"torch_compile": True},
                "activation_checkpointing": {"activation_checkpointing": True},
                "adamw": {"optimizer": "adamw"},
                "adamw, fused_optimizer": {"optimizer": "adamw", "fused_optimizer": True},
            }
            for name, flags in options.items():
                found[f"{plain}, {name}"] = self.ours("vicreg", "paper", plain, **flags)
        return found

    def seconds(self, work: Callable[[], object], times: int) -> float:
        """Returns seconds per call: CPU time with one thread, which other processes hardly change, or wall time."""
        own_time = self.device.type == "cpu" and self.arguments.threads == 1
        clock = time.process_time if own_time else time.perf_counter
        self.wait()
        start = clock()
        for _ in range(times):
            work()
        self.wait()
        return (clock() - start) / times

    def wait(self) -> None:
        """Waits for an accelerator to finish."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()


def count_memory(step: Step) -> float:
    """Returns the peak of the tensors that are alive at the same time in a step, in MiB."""
    with LiveTensors() as live:
        step()
    return live.peak / 2**20


def run_rounds(bench: Bench, methods: dict[str, Method]) -> Iterator[tuple[Series, Series]]:
    """Yields, after every round, the seconds of each method so far and the ratios to its floor."""
    seconds: Series = {name: [] for name in methods}
    ratios: Series = {name: [] for name, method in methods.items() if method.floor != name}
    start, limit = time.perf_counter(), bench.arguments.seconds or math.inf

    def measure(name: str) -> float:
        method = methods[name]
        taken = bench.seconds(method.step, bench.arguments.steps)
        if method.look is not None and method.every:
            taken += bench.seconds(method.look, 1) / method.every
        seconds[name].append(taken)
        return taken

    for _ in tqdm(range(bench.arguments.rounds), unit="round"):
        if time.perf_counter() - start > limit:
            break
        for floor in dict.fromkeys(methods[name].floor for name in ratios):
            before = measure(floor)
            for name in ratios:
                if methods[name].floor == floor:
                    own, after = measure(name), measure(floor)
                    ratios[name].append(2 * own / (before + after))
                    before = after
        yield seconds, ratios


def summary(values: list[float]) -> dict[str, float]:
    """Returns the median and its 95 % interval from order statistics; the extremes for fewer than 6 values."""
    ranked, number = sorted(values), len(values)
    outside = 0
    while sum(math.comb(number, k) for k in range(outside + 1)) / 2**number <= 0.025:
        outside += 1
    cut = max(0, outside - 1)
    return {"ratio": statistics.median(ranked), "low": ranked[cut], "high": ranked[number - 1 - cut]}


def report(methods: dict[str, Method], seconds: Series, ratios: Series, memory: dict[str, float]) -> list[dict]:
    """One row for each method."""
    return [
        {
            "method": name,
            "seconds": statistics.median(seconds[name]),
            "compared_with": methods[name].floor,
            **summary(ratios.get(name, [1.0])),
            "memory_mib": memory.get(name),
        }
        for name in methods
        if seconds[name]
    ]


def schedule_ratios(ratios: Series) -> dict[str, dict[str, float]]:
    """Returns, by objective, the time of a ViDiDi step relative to a step without derivatives."""
    pairs = {o: [f"ours, {o}, {s}" for s in ORDER_SCHEDULES] for o in OBJECTIVES}
    return {
        objective: summary([own / base for base, own in zip(ratios[baseline], ratios[paper])])
        for objective, (baseline, paper) in pairs.items()
        if paper in ratios
    }


def print_rows(rows: list[dict]) -> None:
    """Prints a Markdown table."""
    print("\n| method | seconds a step | × floor | 95 % | alive at once |\n| --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        memory = "" if row["memory_mib"] is None else f"{row['memory_mib']:.0f} MiB"
        spread = f"{row['low']:.3f} – {row['high']:.3f}"
        print(f"| {row['method']} | {row['seconds']:.4f} | {row['ratio']:.3f} | {spread} | {memory} |")


def versions() -> dict[str, str]:
    """Returns what the numbers belong to."""
    return {"processor": processor_name(), "torch": torch.__version__, "torchvision": torchvision.__version__}


def main() -> None:
    """Measures, prints, writes."""
    arguments = parse_options(StepBenchmarkOptions, description=__doc__)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with errors_in_one_line("training_step.py"), TemporaryDirectory() as folder:
        bench = Bench(arguments, folder)
        methods = bench.methods()
        memory = {}
        for name, method in tqdm(methods.items(), desc="warming up", unit="method"):
            for _ in range(4 if "compile" in name else 1):  # a graph for each order
                method.step()
            if arguments.memory and "compile" not in name:  # compiled graphs make their tensors unseen
                memory[name] = count_memory(method.step)
        values = {"arguments": asdict(arguments), "versions": versions(), "memory_mib": memory}
        for seconds, ratios in run_rounds(bench, methods):
            rows, between = report(methods, seconds, ratios, memory), schedule_ratios(ratios)
            if arguments.output:  # after every round, since a long measurement may be cut off
                found = {"seconds": seconds, "ratios": ratios, "methods": rows, "paper_to_baseline": between}
                write_report(arguments.output, {**values, **found})
    print_rows(rows)
    for objective, found in between.items():
        spread = f"{found['ratio']:.3f} ({found['low']:.3f} – {found['high']:.3f})"
        print(f"\n{objective}: a step of the paper's schedule takes {spread} × one of the baseline")


if __name__ == "__main__":
    main()
