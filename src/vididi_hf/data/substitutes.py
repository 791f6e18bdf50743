"""What takes the place of a video that cannot be decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from vididi_hf.data.decoding import BrokenVideoError
from vididi_hf.data.seeding import seeded_generator

# So many others are tried in place of a broken one; when all are broken, the data set is at fault.
SUBSTITUTES = 20


def make_or_replace(
    make: Callable[[int], dict[str, Any]], index: int, rows: Sequence[int], seed: int, epoch: int
) -> dict[str, Any]:
    """Makes a training sample, of another row where the video of the one that is asked for is broken.

    Which one is a pure function of (seed, epoch, index): a broken video has another substitute in every epoch.

    Args:
        make: Makes the sample of a row; raises `BrokenVideoError`.
        index: The row that is asked for.
        rows: All rows that can be had, `index` among them.
        seed: The seed of the choice.
        epoch: The epoch.

    Returns:
        The sample, and as `broken` the reasons by name of the videos that could not be decoded.

    Raises:
        ValueError: If all that were tried are broken.
    """
    broken: dict[str, str] = {}
    for row in _candidates(index, rows, seed, epoch):
        try:
            return {**make(row), "broken": broken}
        except BrokenVideoError as error:
            broken[error.source] = error.reason
    listed = "; ".join(f"{source}: {reason}" for source, reason in list(broken.items())[:3])
    raise ValueError(f"{len(broken)} videos in a row cannot be decoded, among them {listed}")


def _candidates(index: int, rows: Sequence[int], seed: int, epoch: int) -> Iterator[int]:
    """The row that is asked for and then others in random order, which is drawn only where it is needed."""
    yield index
    others = [row for row in rows if row != index]
    order = torch.randperm(len(others), generator=seeded_generator("substitutes", seed, epoch, index))
    yield from (others[place] for place in order[:SUBSTITUTES].tolist())
