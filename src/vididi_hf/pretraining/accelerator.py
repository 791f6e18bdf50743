"""The `Accelerator` of a run: device, processes, precision and tracker."""

from __future__ import annotations

import warnings

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from vididi_hf.pretraining.recipe import PretrainingRecipe


def usable_precision(requested: str) -> str:
    """Returns the requested mixed precision if there is a GPU, and "no" otherwise.

    fp16 needs a loss scaler, which accelerate has only for GPUs. bf16 is wrong on CPUs: with torch 2.14.1, the weight
    gradient of a 3-D convolution reads uninitialized memory if its kernel is three frames long and its input two, as in
    the last stage of every backbone here.
    """
    return requested if torch.accelerator.is_available() else "no"


def build_accelerator(recipe: PretrainingRecipe) -> Accelerator:
    """Builds the accelerator of a run, and says so if it does not use the requested precision.

    Raises:
        ImportError: If the tracker is not installed.
        ValueError: If accelerate is configured to shard the parameters over the processes.
    """
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
    )
    if precision != recipe.mixed_precision:
        accelerator.print(f"{recipe.mixed_precision} needs a GPU: training in full precision")
    if recipe.tracker != "none" and not accelerator.log_with:
        raise ImportError(f"tracker {recipe.tracker!r} is not installed: pip install {recipe.tracker}")
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ValueError(
            f"accelerate is configured for {accelerator.distributed_type.value}, but checkpoints need whole "
            "parameters: configure it for DistributedDataParallel (MULTI_GPU)"
        )
    return accelerator
