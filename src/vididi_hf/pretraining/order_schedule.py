"""The order schedule of balanced alternating learning: the derivative orders of the two views at each step."""

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
    """Returns the derivative orders of both views for an epoch and a step.

    The schedule cycles through `pairs`, so each pair gets the same share of training. In addition, each step may lift
    both orders by one: in the paper, both clips are differentiated once more in a random half of the steps. The
    schedule is a pure function of (seed, epoch, step), so all processes agree and a resumed run continues it.

    Args:
        pairs: The pairs of orders to cycle through.
        every: `"epoch"` takes the next pair in each epoch (the paper). `"step"` takes it in each step: every block of
            `len(pairs)` steps has all pairs in a new random order.
        lift_probability: Probability that a step lifts both orders by one.
        lifts: Number of independent draws of a lift per step.
        seed: Seed of the lifts and of the order within blocks.

    Raises:
        ValueError: If a pair is not two non-negative integers, or an argument is out of range.

    Source: the authors' code of "Unfolding Videos Dynamics via Taylor Expansion" (arXiv 2409.02371).

    Example:
        >>> from vididi_hf import AlternatingSchedule
        >>> schedule = AlternatingSchedule.from_preset("first-order")
        >>> [schedule(epoch, step=0) for epoch in range(5)]
        [(1, 1), (0, 1), (1, 0), (0, 0), (1, 1)]
    """

    pairs: tuple[OrderPair, ...] = _MODES
    every: str = "epoch"
    lift_probability: float = 0.0
    lifts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", tuple(tuple(pair) for pair in self.pairs))
        orders = [order for pair in self.pairs for order in pair]
        are_valid = all(type(order) is int and order >= 0 for order in orders)
        if not orders or {len(pair) for pair in self.pairs} != {2} or not are_valid:
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
            name: `"baseline"`: always (0, 0). `"paper"`: the four modes of the authors' code with random lifts.
                `"paper-per-step"`: the same, with a new mode in each step. `"first-order"`: without lifts.
                `"third-order"`: two lifts, up to order 3. `"scheduled-lift"`: four epochs without and four with a lift,
                without chance. `"fixed-pair"`: always (0, 1).
            seed: Seed of the random choices.

        Raises:
            ValueError: If the name is unknown.
        """
        if name not in ORDER_SCHEDULES:
            raise ValueError(f"unknown schedule {name!r}; choose one of {', '.join(ORDER_SCHEDULES)}")
        return cls(**ORDER_SCHEDULES[name], seed=seed)

    @property
    def max_order(self) -> int:
        """The highest order that occurs, which is the number of extra frames that a clip needs."""
        return max(max(pair) for pair in self.pairs) + self.lifts * (self.lift_probability > 0)

    def __call__(self, epoch: int, step: int) -> OrderPair:
        """Returns the orders of both views at a step of an epoch, both counted from 0."""
        import torch  # here, because the command line reads the names of the schedules without torch

        from vididi_hf.data.seeding import seeded_generator

        place = epoch % len(self.pairs)
        if self.every == "step":
            block, place = divmod(step, len(self.pairs))
            generator = seeded_generator("schedule-order", self.seed, epoch, block)
            place = int(torch.randperm(len(self.pairs), generator=generator)[place])
        pair, lift = self.pairs[place], 0
        if self.lift_probability > 0:
            generator = seeded_generator("schedule-lift", self.seed, epoch, step)
            lift = int((torch.rand(self.lifts, generator=generator) < self.lift_probability).sum())
        return pair[0] + lift, pair[1] + lift

    def imbalance(self, epochs: int) -> str:
        """Says so if a number of epochs does not give each pair of orders the same share of training."""
        if self.every == "step" or epochs % len(self.pairs) == 0:
            return ""
        pairs = f"the {len(self.pairs)} pairs of derivative orders equally, one pair per epoch"
        return f"{epochs} epochs do not train {pairs}: choose a multiple of {len(self.pairs)}"

    def counts(self, epochs: int, steps_per_epoch: int) -> dict[OrderPair, int]:
        """Counts the steps of each pair of orders in a whole run."""
        pairs = Counter(self(epoch, step) for epoch in range(epochs) for step in range(steps_per_epoch))
        return dict(sorted(pairs.items()))
