"""Random streams that depend on what is drawn, not on who draws it or when.

A clip's start, its augmentation, a generated video: each gets a generator keyed by (seed, epoch, sample, …). Workers,
ranks and resumed runs therefore see the same draws.
"""

import numpy as np
import torch


def seeded_generator(*key: int) -> torch.Generator:
    """Returns a CPU generator that is a pure function of a tuple of non-negative integers.

    Args:
        *key: The integers that identify the stream, e.g. `(seed, epoch, index)`. Streams of different keys are
            independent (numpy's `SeedSequence` mixes them), unlike those of `seed + index`.

    Returns:
        A `torch.Generator` on the CPU.

    Raises:
        ValueError: If an integer is negative.

    Example:
        ```python
        >>> from vididi_hf.data.seeding import seeded_generator
        >>> bool((seeded_generator(0, 3, 7).initial_seed() == seeded_generator(0, 3, 7).initial_seed()))
        True

        ```
    """
    state = np.random.SeedSequence(key).generate_state(1, dtype=np.uint64)
    generator = torch.Generator()
    generator.manual_seed(int(state[0]))
    return generator
