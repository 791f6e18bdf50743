"""What talks to other processes or files: NCCL, resuming, and the tests that need a GPU."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.modules._functions import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel

from vididi_hf.batch_norm_vididi import PerOrderBatchNorm3d, synchronize
from vididi_hf.objectives.gather import _Gather
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.run_state import RunState, open_output_dir

from .correctness import bounded, build_encoder, features_and_gradients, random_views, relative_difference
from .machine_state import free_memory, use_tf32
from .runner import Context, Row, Skipped
from .training import Training, make_recipe, random_clips

ROOT = Path(__file__).resolve().parents[2]
STEPS, SAVED, STOPPED = 6, 3, 4  # steps of an epoch, the step of the checkpoint, the step at which a run stops


def check_process_group(context: Context) -> Iterator[Row]:
    """Gather, SyncBatchNorm and DistributedDataParallel in a process group of one (NCCL, or gloo on a CPU)."""
    use_tf32(False)
    on_gpu = context.device == "cuda"
    with TemporaryDirectory() as folder:
        store = dist.FileStore(str(Path(folder, "store")), 1)
        dist.init_process_group("nccl" if on_gpu else "gloo", store=store, rank=0, world_size=1)
        try:
            yield from _gather(context)
            yield from _parallel_training(context)
            if on_gpu:
                yield from _synchronized_statistics()
        finally:
            dist.destroy_process_group()


def _gather(context: Context) -> Iterator[Row]:
    rows = torch.randn(8, 16, device=context.device, requires_grad=True)
    weights = torch.randn(8, 16, device=context.device)
    gathered = _Gather.apply(rows)  # the public function returns at once if there is one process
    (gradient,) = torch.autograd.grad((gathered * weights).sum(), rows)
    yield "gather", bounded(relative_difference(gathered, rows), 0.0)
    yield "gather, gradient", bounded(relative_difference(gradient, weights), 0.0)


def _parallel_training(context: Context) -> Iterator[Row]:
    clips = random_views(context, 2 if context.small else 4).to(context.device)
    encoder = build_encoder(context, "r3d_18").to(context.device)
    parallel = DistributedDataParallel(copy.deepcopy(encoder))
    _, expected = features_and_gradients(encoder, clips)
    _, found = features_and_gradients(parallel, clips)
    yield "DistributedDataParallel, gradients", bounded(relative_difference(found, expected), 1e-3)


def _synchronized_statistics() -> Iterator[Row]:
    """With one process, the module falls back to BatchNorm, so the kernels behind it are called, too."""
    norm = torch.nn.Sequential(PerOrderBatchNorm3d(8, orders=(0, 1))).cuda().train()
    synced = copy.deepcopy(norm)
    synchronize(synced)
    hidden = 3 + torch.randn(4, 8, 4, 6, 6, device="cuda")
    yield "SyncBatchNorm, module", bounded(relative_difference(synced(hidden), norm(hidden)), 1e-5)
    mean, variance = torch.zeros(2, 8, device="cuda"), torch.ones(2, 8, device="cuda")
    weight, bias = torch.ones(8, device="cuda"), torch.zeros(8, device="cuda")
    found = SyncBatchNorm.apply(hidden, weight, bias, mean[0], variance[0], 1e-5, 0.1, dist.group.WORLD, 1)
    expected = F.batch_norm(hidden, mean[1], variance[1], weight, bias, True, 0.1, 1e-5)
    yield "SyncBatchNorm, kernels", bounded(relative_difference(found, expected), 1e-5)
    yield "SyncBatchNorm, running mean", bounded(relative_difference(mean[0], mean[1]), 1e-5)
    yield "SyncBatchNorm, running variance", bounded(relative_difference(variance[0], variance[1]), 1e-5)


def check_resume(context: Context) -> Iterator[Row]:
    """A run that stops within an epoch and resumes, against one that does not, and against its repetition.

    With deterministic kernels, both must agree bit by bit. With torch's default ones, a resumed run may differ ten
    times as much as a repeated one.
    """
    precisions = ("no",) if context.device == "cpu" else ("no", "bf16", "fp16")
    for deterministic in (True, False)[: 1 if context.device == "cpu" else 2]:
        for precision in precisions if deterministic else precisions[-1:]:
            torch.backends.cudnn.deterministic = deterministic
            whole, again, resumed = (_train(context, precision, stop) for stop in (0, 0, STOPPED))
            repeated = relative_difference(again["tensors"], whole["tensors"])
            value = relative_difference(resumed["tensors"], whole["tensors"])
            row = bounded(value, 0.0 if deterministic else 10 * repeated, repeated=repeated, scaler=whole["scaler"])
            # Only fp16 has a loss scaler, whose scale and counter must be restored.
            has_scaler = whole["scaler"] is not None
            row["ok"] = row["ok"] and resumed["scaler"] == whole["scaler"] and has_scaler == (precision == "fp16")
            yield f"{precision}, {'deterministic' if deterministic else 'default'} kernels", row
            free_memory()


class _Stopped(Exception):
    """Stands for whatever ends a run before its time."""


def _train(context: Context, precision: str, stop: int) -> dict[str, Any]:
    """Returns what a run of one epoch has learned. With `stop`, it stops there and another one resumes it."""
    batch_size = 8 if context.small else 16
    recipe = make_recipe(context, mixed_precision=precision, batch_size=batch_size, epochs=1, save_steps=SAVED)
    clips = random_clips(recipe, context.device)
    with TemporaryDirectory() as folder:
        recipe.output_dir = folder
        if stop:
            try:
                _run(recipe, clips, stop)
            except _Stopped:
                recipe.resume = True
        return _run(recipe, clips, 0)


def _run(recipe: PretrainingRecipe, clips: torch.Tensor, stop: int) -> dict[str, Any]:
    open_output_dir(recipe)
    training = Training(recipe, STEPS)
    schedule, batch = recipe.build_order_schedule(), {"broken": {}, "sources": ["noise"] * len(clips)}
    parts = (recipe, training.accelerator, training.network, training.optimizer, training.processor)
    with RunState(*parts, STEPS) as run:
        for step in range(run.step, STEPS):
            orders = schedule(0, step)
            output = training.step(clips.roll(step, 0), orders, run.total_steps)
            run.after_step(orders, 0.0, output, batch)
            if run.total_steps == stop:
                raise _Stopped
    scaler = training.accelerator.scaler
    momenta = [value for state in training.optimizer.state.values() for value in state.values()]
    tensors = [*training.network.state_dict().values(), *momenta]
    return {
        "tensors": [one.detach().clone() for one in tensors if isinstance(one, torch.Tensor)],
        "scaler": None if scaler is None else scaler.state_dict(),
    }


def run_gpu_tests(context: Context) -> Iterator[Row]:
    """The tests marked `gpu`. They need no fixture of other tests, whose libraries may be missing."""
    if find_spec("pytest") is None or not (ROOT / "tests" / "gpu").is_dir():
        raise Skipped("pytest or the tests are missing")
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-m", "gpu", "--noconftest", "-p", "no:cacheprovider"]
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    command += ["-o", "addopts=--import-mode=importlib", str(ROOT / "tests" / "gpu")]
    environment = {**os.environ, "PYTHONPATH": paths}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=max(1.0, context.left())
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError("the tests did not end in time: run `pytest -m gpu`") from None
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    if not counts:
        raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout[-500:]} {done.stderr[-500:]}")
    failures = re.findall(r"^(?:FAILED|ERROR) (.*)$", done.stdout, flags=re.MULTILINE)
    yield "tests", {**counts, "ok": done.returncode == 0, **({"failures": failures} if failures else {})}
