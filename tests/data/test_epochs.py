"""The order of an epoch: a function of (seed, epoch), shared out evenly, and begun at any step."""

from collections import Counter

import pytest

from vididi_hf.data.loading import EpochBatches


def keys(num_samples, batch_size, epoch=0, **options):
    batches = EpochBatches(num_samples, batch_size, **options)
    batches.set_epoch(epoch)
    return list(batches)


@pytest.mark.parametrize(("num_samples", "batch_size", "world_size"), [(24, 4, 2), (17, 3, 2), (10, 10, 1), (31, 2, 5)])
def test_ranks_share_the_batches_of_one_process(num_samples, batch_size, world_size):
    alone = keys(num_samples, batch_size * world_size)
    ranks = [keys(num_samples, batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [[key for part in parts for key in part] for parts in zip(*ranks)] == alone
    assert all(len(batch) == batch_size for rank in ranks for batch in rank)


@pytest.mark.parametrize(("num_samples", "batch_size"), [(24, 4), (17, 3), (10, 10), (7, 5), (1, 1)])
def test_every_video_comes_once_and_the_first_again_to_fill_the_last_batch(num_samples, batch_size):
    batches = keys(num_samples, batch_size, epoch=3)
    steps = (num_samples + batch_size - 1) // batch_size
    assert len(batches) == steps
    order = [index for batch in batches for _, index in batch]
    assert {epoch for batch in batches for epoch, _ in batch} == {3}
    assert sorted(order[:num_samples]) == list(range(num_samples))
    assert order[num_samples:] == order[: steps * batch_size - num_samples]


def test_orders_are_shuffled_and_differ_between_epochs_and_seeds():
    orders = [keys(40, 40, epoch=epoch, seed=seed)[0] for epoch in (0, 1) for seed in (0, 1)]
    plain = [[index for _, index in order] for order in orders]
    assert len({tuple(order) for order in [*plain, range(40)]}) == 5


def test_the_place_of_a_video_is_uniform():
    places = Counter(next(i for i, key in enumerate(keys(5, 5, epoch=epoch)[0]) if key[1] == 0) for epoch in range(500))
    assert all(abs(places[place] - 100) < 45 for place in range(5))  # five standard deviations


def test_the_number_of_batches_that_remain():
    batches = EpochBatches(17, 3, world_size=2)
    assert len(batches) == batches.steps_per_epoch == 3
    batches.set_epoch(2, first_step=2)
    assert len(batches) == len(list(batches)) == 1
    assert batches.steps_per_epoch == 3


def test_a_step_to_start_at_leaves_out_what_came_before_it():
    batches = EpochBatches(17, 3, seed=5, rank=1, world_size=2)
    batches.set_epoch(4)
    whole = list(batches)
    batches.set_epoch(4, first_step=1)
    assert list(batches) == whole[1:]
