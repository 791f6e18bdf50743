"""Which numbers to compute with."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator


def usable_precision(asked: str) -> str:
    """Returns the mixed precision that was asked for where there is a GPU, and full precision elsewhere.

    fp16 needs a scaler of the loss, which accelerate has for GPUs only. bf16 runs on CPUs, and is wrong there: with
    torch 2.14.1, the gradient of the weights of a 3-D convolution reads memory that nobody has written if the kernel is
    three frames long and the input two, as in the last stages of every backbone here. It is arbitrary then, and NaN at
    times.

    Args:
        asked: `"no"`, `"bf16"` or `"fp16"`.

    Example:
        ```python
        >>> from vididi_hf.pretraining.precision import usable_precision
        >>> usable_precision("no")
        'no'

        ```
    """
    return asked if torch.accelerator.is_available() else "no"


def open_accelerator(mixed_precision: str, **settings: Any) -> Accelerator:
    """Builds what knows the device, the processes and the precision, and says so where it is not the one asked for.

    Args:
        mixed_precision: `"no"`, `"bf16"` or `"fp16"`.
        **settings: Further arguments of the `Accelerator`.
    """
    precision = usable_precision(mixed_precision)
    # Where there is nothing but a CPU, accelerate has to be told, or it takes each process for a run of its own.
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.accelerator.is_available(), **settings)
    if precision != mixed_precision:
        accelerator.print(f"{mixed_precision} needs a GPU: training in full precision")
    return accelerator
