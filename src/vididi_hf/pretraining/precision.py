"""Which numbers to compute with."""

from __future__ import annotations

import torch


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
