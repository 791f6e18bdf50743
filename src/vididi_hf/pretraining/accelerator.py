"""The `Accelerator` of a run: device, processes, precision and tracker."""

from __future__ import annotations

import os
import warnings
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, parse_flag_from_env

from vididi_hf.pretraining.recipe import PretrainingRecipe

PATIENCE = timedelta(hours=12)
"""So long the other processes wait for the main one, which evaluates or generates videos."""


def usable_precision(requested: str) -> str:
    """Returns the requested mixed precision if there is a GPU, and "no" otherwise.

    accelerate has fp16's loss scaler only for GPUs. bf16 is wrong on CPUs: with torch 2.14.1, the weight gradient of a
    3-D convolution of three frames reads uninitialized memory if its input has two, as in every last stage here.
    """
    has_gpu = torch.accelerator.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")
    return requested if has_gpu else "no"


def check_environment() -> None:
    """Raises a ValueError if accelerate's environment variables, as of its configuration, would change the training."""
    for name in ("DEEPSPEED", "FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if parse_flag_from_env(f"ACCELERATE_USE_{name}"):
            found = f"accelerate is configured for {name} (ACCELERATE_USE_{name})"
            advice = "configure it for DistributedDataParallel (MULTI_GPU)"
            raise ValueError(f"{found}, but checkpoints need whole parameters: {advice}")
    if (backend := os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")).lower() not in ("no", ""):
        advice = "unset it (to compile, vididi pretrain has --torch_compile)"
        raise ValueError(f"ACCELERATE_DYNAMO_BACKEND={backend} would compile the model: {advice}")


def build_accelerator(recipe: PretrainingRecipe) -> Accelerator:
    """Builds the accelerator of a run, and says so if it does not use the requested precision."""
    check_environment()
    precision = usable_precision(recipe.mixed_precision)
    # accelerate warns and goes on without the tracker. Below, that is an error.
    warnings.filterwarnings("ignore", message=".*no supported trackers")
    accelerator = Accelerator(
        mixed_precision=precision,
        # Without a GPU accelerate must be told, or it takes each process for a run of its own.
        cpu=not torch.accelerator.is_available(),
        log_with=None if recipe.tracker == "none" else recipe.tracker,
        project_dir=recipe.output_dir,
        # Explicit, because the environment variable ACCELERATE_GRADIENT_ACCUMULATION_STEPS would set it otherwise.
        gradient_accumulation_steps=1,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    if precision != recipe.mixed_precision:
        accelerator.print(f"{recipe.mixed_precision} needs a GPU: training in full precision")
    if recipe.tracker != "none" and not accelerator.log_with:
        raise ImportError(f"tracker {recipe.tracker!r} is not installed: pip install {recipe.tracker}")
    return accelerator
