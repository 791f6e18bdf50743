"""Random streams: functions of their key alone, and unrelated between keys."""

import torch

from vididi_hf.data.seeding import seeded_generator, seeded_random


def draw(*key, count=8):
    return torch.rand(count, generator=seeded_generator(*key))


def test_a_key_always_gives_the_same_stream_and_touches_no_global_generator():
    torch.manual_seed(0)
    first = draw("clip", 3, 7)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(first, draw("clip", 3, 7))
    assert torch.equal(first, draw("clip", torch.tensor(3), True * 7))
    assert seeded_random("clip", 3).random() == seeded_random("clip", torch.tensor(3)).random()
    assert torch.equal(before, torch.get_rng_state())


def test_every_part_of_a_key_matters():
    """Also a trailing zero, which hashes of padded integers drop, and an integer beyond 32 bits."""
    numbers = [(), (0,), (0, 0), (0, 1), (1, 0), (1,), (2**32,), (2**64,), (12,), (1, 2), (-1,)]
    keys = [("order",), *(("clip", *key) for key in numbers)]
    assert len({tuple(draw(*key).tolist()) for key in keys}) == len(keys)
    assert len({seeded_random(*key).random() for key in keys}) == len(keys)


def test_streams_of_neighboring_keys_are_uncorrelated_and_first_draws_uniform():
    """Of 4000 uniform draws each, the correlation of unrelated streams has deviation 1/sqrt(4000) = 0.016."""
    streams = torch.stack([draw("clip", 0, index, count=4000) for index in range(6)])
    correlations = torch.corrcoef(streams) - torch.eye(6)
    assert correlations.abs().max() < 0.08
    first = torch.cat([draw("clip", 0, index, count=1) for index in range(2000)])
    counts = torch.histc(first, bins=10, min=0, max=1)
    assert (counts - 200).abs().max() < 70  # five standard deviations of a binomial(2000, 0.1)
