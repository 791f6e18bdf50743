"""The schedule against the rule of the paper, written down once more as a loop over epochs and steps."""

import random
from collections import Counter

import pytest
import torch

from vididi_hf.data.seeding import seeded_generator
from vididi_hf.pretraining.order_schedule import ORDER_SCHEDULES, AlternatingSchedule

# Mode i of the scheduled step: how often the first and the second clip are differentiated.
MODES = {0: (1, 1), 1: (0, 1), 2: (1, 0), 3: (0, 0)}
STEPS = 200


def pairs_of(schedule: AlternatingSchedule, epoch: int, steps: int = STEPS) -> list[tuple[int, int]]:
    return [schedule(epoch, step) for step in range(steps)]


@pytest.mark.parametrize("seed", [0, 1, 77])
def test_paper_differentiates_both_clips_at_random_and_then_as_scheduled(seed: int) -> None:
    schedule = AlternatingSchedule.from_preset("paper", seed=seed)
    seen = set()
    for epoch in range(8):
        first, second = MODES[epoch % 4]
        pairs = set(pairs_of(schedule, epoch))
        assert pairs == {(first, second), (first + 1, second + 1)}
        seen |= pairs
    assert seen == {(1, 1), (2, 2), (0, 1), (1, 2), (1, 0), (2, 1), (0, 0)}
    assert schedule.max_order == 2


def test_random_step_comes_half_of_the_time_independently_of_epoch_and_step() -> None:
    schedule = AlternatingSchedule.from_preset("paper")
    lifts = torch.tensor([[min(schedule(epoch, step)) == 1 for step in range(STEPS)] for epoch in (3, 7, 11, 15, 19)])
    count, total = int(lifts.sum()), lifts.numel()
    assert abs(count - total / 2) < 4 * (total / 4) ** 0.5  # four standard deviations of a fair coin
    # Neighbors, in time and between epochs, agree as often as two coins do.
    for agreements in (lifts[:, 1:] == lifts[:, :-1], lifts[1:] == lifts[:-1]):
        assert abs(agreements.float().mean() - 0.5) < 4 * (0.25 / agreements.numel()) ** 0.5


def test_each_pair_of_the_paper_gets_its_share() -> None:
    """Modes take a quarter each, and the random step halves it; (1, 1) is reached in two ways."""
    epochs, steps = 40, 50
    total = epochs * steps
    counts = AlternatingSchedule.from_preset("paper").counts(epochs, steps)
    shares = {(1, 1): 2 / 8, **dict.fromkeys([(2, 2), (0, 1), (1, 2), (1, 0), (2, 1), (0, 0)], 1 / 8)}
    assert set(counts) == set(shares)
    for pair, share in shares.items():
        assert counts[pair] == pytest.approx(total * share, abs=4 * (total * share * (1 - share)) ** 0.5)
    assert sum(counts.values()) == total


@pytest.mark.parametrize("name", ["first-order", "paper-per-step"])
def test_every_epoch_or_block_of_four_steps_holds_each_mode_once(name: str) -> None:
    every = "step" if name == "paper-per-step" else "epoch"
    schedule = AlternatingSchedule(every=every)  # the modes of the preset without its random step
    arrangements = set()
    for epoch in range(4):
        for block in range(10):
            if every == "step":
                pairs = [schedule(epoch, 4 * block + place) for place in range(4)]
            else:
                pairs = [schedule(4 * block + place, epoch) for place in range(4)]
            assert sorted(pairs) == [(0, 0), (0, 1), (1, 0), (1, 1)]
            arrangements.add(tuple(pairs))
    # An epoch follows the paper's order; blocks of steps are shuffled anew.
    assert len(arrangements) == 1 if every == "epoch" else len(arrangements) > 10


def test_per_step_variant_lifts_about_half_of_the_steps_of_every_mode() -> None:
    schedule, plain = AlternatingSchedule.from_preset("paper-per-step"), AlternatingSchedule(every="step")
    lifted: Counter[tuple[int, int]] = Counter()
    for epoch in range(4):
        for step in range(STEPS):
            (first, second), mode = schedule(epoch, step), plain(epoch, step)
            assert (first - mode[0], second - mode[1]) in {(0, 0), (1, 1)}
            lifted[mode] += first - mode[0]
    for count in lifted.values():
        assert count == pytest.approx(STEPS / 2, abs=4 * (STEPS / 4) ** 0.5)


def test_it_is_a_pure_function_of_seed_epoch_and_step() -> None:
    for name in ORDER_SCHEDULES:
        schedule = AlternatingSchedule.from_preset(name, seed=5)
        places = [(epoch, step) for epoch in range(5) for step in range(9)]
        expected = {place: schedule(*place) for place in places}
        random.Random(0).shuffle(places)
        state = torch.get_rng_state()
        torch.manual_seed(1234)
        again = AlternatingSchedule.from_preset(name, seed=5)
        assert {place: again(*place) for place in places} == expected
        torch.set_rng_state(state)
        schedule(0, 0)
        assert torch.equal(torch.get_rng_state(), state)  # and draws nothing from the global generator


@pytest.mark.parametrize("name", ["paper", "paper-per-step", "third-order"])
def test_seeds_and_epochs_have_draws_of_their_own(name: str) -> None:
    runs = [pairs_of(AlternatingSchedule.from_preset(name, seed=seed), epoch) for seed in (0, 1) for epoch in (0, 4)]
    assert all(runs[i] != runs[j] for i in range(4) for j in range(i))


def test_highest_order_says_how_many_frames_a_clip_needs_more() -> None:
    expected = {"baseline": 0, "paper": 2, "paper-per-step": 2, "first-order": 1, "fixed-pair": 1}
    expected |= {"third-order": 3, "scheduled-lift": 2}
    assert {name: AlternatingSchedule.from_preset(name).max_order for name in ORDER_SCHEDULES} == expected
    assert AlternatingSchedule(pairs=((0, 3), (1, 0)), lift_probability=1.0).max_order == 4


def test_third_order_draws_the_random_step_twice() -> None:
    schedule = AlternatingSchedule.from_preset("third-order", seed=2)
    lifts: Counter[int] = Counter()
    for epoch in range(40):
        mode = MODES[epoch % 4]
        for first, second in pairs_of(schedule, epoch, 50):
            assert first - mode[0] == second - mode[1]
            lifts[first - mode[0]] += 1
    for lift, share in {0: 0.25, 1: 0.5, 2: 0.25}.items():
        assert lifts[lift] == pytest.approx(2000 * share, abs=4 * (2000 * share * (1 - share)) ** 0.5)


def test_scheduled_lift_shows_the_pairs_of_the_paper_in_their_shares_without_chance() -> None:
    schedule = AlternatingSchedule.from_preset("scheduled-lift", seed=2)
    counts = schedule.counts(8, 5)
    assert counts == {(1, 1): 10, **dict.fromkeys([(2, 2), (0, 1), (1, 2), (1, 0), (2, 1), (0, 0)], 5)}
    assert [set(pairs_of(schedule, epoch, 5)) for epoch in range(4)] == [{MODES[epoch]} for epoch in range(4)]
    assert AlternatingSchedule.from_preset("scheduled-lift", seed=3).counts(8, 5) == counts


def test_the_papers_draws_are_those_of_one_number_a_step() -> None:
    """Runs from before there was a number of lifts go on as they began."""
    schedule = AlternatingSchedule.from_preset("paper", seed=7)
    for step in range(20):
        generator = seeded_generator("schedule-lift", 7, 3, step)
        assert schedule(3, step)[0] == int(torch.rand((), generator=generator) < 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": ((0, 1, 2),)}, r"pairs must hold pairs of .*got \(\(0, 1, 2\),\)"),
        ({"pairs": ((0, -1),)}, r"pairs must hold pairs of .*got \(\(0, -1\),\)"),
        ({"every": "batch"}, "every must be 'epoch' or 'step', got 'batch'"),
        ({"lift_probability": float("nan")}, "lift_probability must lie in .* got nan"),
        ({"lifts": 0}, "lifts must be at least 1, got 0"),
    ],
)
def test_impossible_schedules_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlternatingSchedule(**options)
    with pytest.raises(ValueError, match="unknown schedule 'papper'; choose one of baseline, paper, paper-per-step"):
        AlternatingSchedule.from_preset("papper")


@pytest.mark.parametrize(
    ("preset", "balanced", "unbalanced"),
    [("baseline", 1, None), ("paper", 8, 6), ("scheduled-lift", 8, 4), ("paper-per-step", 3, None)],
)
def test_epochs_that_do_not_balance_the_pairs_are_known(preset, balanced, unbalanced) -> None:
    schedule = AlternatingSchedule.from_preset(preset)
    assert schedule.imbalance(balanced) == ""
    if unbalanced:
        assert f"a multiple of {len(schedule.pairs)}" in schedule.imbalance(unbalanced)
