"""Balanced alternating learning: which derivative orders the two views of a training step get."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

OrderPair = tuple[int, int]

# The four modes that the authors' code cycles through, epoch after epoch: (∂V, ∂V'), (V, ∂V'), (∂V, V'), (V, V').
_MODES: tuple[OrderPair, ...] = ((1, 1), (0, 1), (1, 0), (0, 0))

ORDER_SCHEDULES: dict[str, dict[str, Any]] = {
    "baseline": {"pairs": ((0, 0),)},
    "paper": {"pairs": _MODES, "lift_probability": 0.5},
    "paper-per-step": {"pairs": _MODES, "lift_probability": 0.5, "every": "step"},
    "first-order": {"pairs": _MODES},
    "third-order": {"pairs": _MODES, "lift_probability": 0.5, "lifts": 2},
    "scheduled-lift": {"pairs": _MODES + tuple((first + 1, second + 1) for first, second in _MODES)},
    "fixed-pair": {"pairs": ((0, 1),)},
}


@dataclass(frozen=True)
class AlternatingSchedule:
    """Says, for (epoch, step), the derivative orders of the first and of the second view.

    The schedule walks through `pairs`, one pair an epoch (or a step), over and over, so each pair gets the same share
    of training. On top of that, each step may lift both orders by one: the random step of the paper's nested rule, in
    which both clips are differentiated once before the scheduled differentiation. It is a pure function of (seed,
    epoch, step): every rank computes the same orders without talking, and a resumed run continues the same sequence.

    Args:
        pairs: The order pairs to walk through.
        every: `"epoch"` moves on once an epoch (the paper); `"step"` goes through all pairs within each block of
            `len(pairs)` steps of an epoch, in a fresh random order.
        lift_probability: The probability with which a step lifts both orders by one.
        lifts: How often a step draws whether to do that: both orders are then lifted by up to so many.
        seed: The seed of the random lifts (and of the orders within blocks).

    Raises:
        ValueError: If a pair is not two non-negative orders, `every` is unknown, the probability is not in [0, 1] or
            `lifts` is below 1.

    Source: the two nested steps of balanced alternating learning in the authors' code of "Unfolding Videos Dynamics via
    Taylor Expansion" (arXiv 2409.02371).

    Example:
        ```python
        >>> from vididi_hf import AlternatingSchedule
        >>> schedule = AlternatingSchedule.from_preset("first-order")
        >>> [schedule(epoch, step=0) for epoch in range(5)]
        [(1, 1), (0, 1), (1, 0), (0, 0), (1, 1)]

        ```
    """

    pairs: tuple[OrderPair, ...] = _MODES
    every: str = "epoch"
    lift_probability: float = 0.0
    lifts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", tuple(tuple(pair) for pair in self.pairs))
        orders = [order for pair in self.pairs for order in pair]
        if not orders or {len(pair) for pair in self.pairs} != {2} or not all(map(_is_order, orders)):
            raise ValueError(f"pairs must hold pairs of non-negative derivative orders, got {self.pairs}")
        if self.every not in ("epoch", "step"):
            raise ValueError(f"every must be 'epoch' or 'step', got {self.every!r}")
        if not 0.0 <= self.lift_probability <= 1.0:
            raise ValueError(f"lift_probability must lie in [0, 1], got {self.lift_probability}")
        if self.lifts < 1:
            raise ValueError(f"lifts must be at least 1, got {self.lifts}")

    @classmethod
    def from_preset(cls, name: str, seed: int = 0) -> AlternatingSchedule:
        """Builds a named schedule.

        Args:
            name: `"baseline"` — (V, V') only; `"paper"` — the nested rule of the authors' code; `"paper-per-step"` —
                the same with the modes changing every step; `"first-order"` — the paper's modes without the random
                lift; `"third-order"` — with two random lifts, so that orders reach 3; `"scheduled-lift"` — no random
                lift but, after the four modes, the same four lifted: the pairs of `"paper"` in their shares, by epochs
                alone; `"fixed-pair"` — (V, ∂V') only.
            seed: The seed of the schedule's random choices.

        Raises:
            ValueError: If there is no such preset.
        """
        if name not in ORDER_SCHEDULES:
            raise ValueError(f"unknown schedule {name!r}; choose one of {', '.join(ORDER_SCHEDULES)}")
        return cls(**ORDER_SCHEDULES[name], seed=seed)

    @property
    def max_order(self) -> int:
        """The highest derivative order that can come up: how many extra frames a training clip needs."""
        return max(max(pair) for pair in self.pairs) + self.lifts * (self.lift_probability > 0)

    def __call__(self, epoch: int, step: int) -> OrderPair:
        """Returns the orders of the two views at a step of an epoch (both counted from 0)."""
        import torch  # here, because the command line reads the names of the schedules without torch

        from vididi_hf.data.seeding import seeded_generator

        if self.every == "epoch":
            pair = self.pairs[epoch % len(self.pairs)]
        else:
            block, place = divmod(step, len(self.pairs))
            generator = seeded_generator("schedule-order", self.seed, epoch, block)
            shuffled = torch.randperm(len(self.pairs), generator=generator)
            pair = self.pairs[int(shuffled[place])]
        lift = 0
        if self.lift_probability > 0:
            generator = seeded_generator("schedule-lift", self.seed, epoch, step)
            lift = int((torch.rand(self.lifts, generator=generator) < self.lift_probability).sum())
        return pair[0] + lift, pair[1] + lift

    def counts(self, epochs: int, steps_per_epoch: int) -> dict[OrderPair, int]:
        """Counts how many steps of a whole run train each pair of orders."""
        pairs = Counter(self(epoch, step) for epoch in range(epochs) for step in range(steps_per_epoch))
        return dict(sorted(pairs.items()))

    def order_counts(self, epochs: int, steps_per_epoch: int) -> tuple[dict[int, int], dict[int, int]]:
        """Counts how many steps of a whole run show each order to the first and to the second view."""
        views: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
        for pair, steps in self.counts(epochs, steps_per_epoch).items():
            for view, order in zip(views, pair):
                view[order] += steps
        return dict(sorted(views[0].items())), dict(sorted(views[1].items()))


def _is_order(value: Any) -> bool:
    return type(value) is int and value >= 0
