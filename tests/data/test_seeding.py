"""Random streams: functions of their key alone, and unrelated between keys."""

import torch

from vididi_hf.data.seeding import seeded_generator, seeded_random


def draw(*key, count=8):
    return torch.rand(count, generator=seeded_generator(*key))


def test_a_key_always_gives_the_same_stream():
    torch.manual_seed(0)
    first = draw("clip", 3, 7)
    torch.manual_seed(1)
    assert torch.equal(first, draw("clip", 3, 7))


def test_the_stream_does_not_depend_on_the_integer_type():
    assert torch.equal(draw("clip", 3, 7), draw("clip", torch.tensor(3), True * 7))


def test_every_part_of_a_key_matters():
    """Also a trailing zero, which hashes of padded integers drop, and an integer beyond 32 bits."""
    keys = [
        ("clip",),
        ("order",),
        ("clip", 0),
        ("clip", 0, 0),
        ("clip", 0, 1),
        ("clip", 1, 0),
        ("clip", 1),
        ("clip", 2**32),
        ("clip", 2**64),
        ("clip", 12),
        ("clip", 1, 2),
        ("clip", -1),
    ]
    streams = {tuple(draw(*key).tolist()) for key in keys}
    assert len(streams) == len(keys)


def test_pythons_generator_is_a_function_of_the_same_keys():
    keys = [("clip",), ("order",), ("clip", 0), ("clip", 0, 0), ("clip", 0, 1), ("clip", 1, 0), ("clip", 2**64)]
    assert [seeded_random(*key).random() for key in keys] == [seeded_random(*key).random() for key in keys]
    assert len({seeded_random(*key).random() for key in keys}) == len(keys)
    assert seeded_random("clip", 3).random() == seeded_random("clip", torch.tensor(3)).random()


def test_streams_of_neighboring_keys_are_uncorrelated():
    """Of 4000 uniform draws each, the correlation of unrelated streams has deviation 1/sqrt(4000) = 0.016."""
    streams = torch.stack([draw("clip", 0, index, count=4000) for index in range(6)])
    correlations = torch.corrcoef(streams) - torch.eye(6)
    assert correlations.abs().max() < 0.08


def test_first_draws_over_keys_are_uniform():
    first = torch.cat([draw("clip", 0, index, count=1) for index in range(2000)])
    counts = torch.histc(first, bins=10, min=0, max=1)
    assert (counts - 200).abs().max() < 70  # five standard deviations of a binomial(2000, 0.1)


def test_no_global_generator_is_touched():
    before = torch.get_rng_state()
    draw("clip", 0)
    assert torch.equal(before, torch.get_rng_state())
