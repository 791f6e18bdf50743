"""What takes the place of broken videos: others in random order, the same again for the same epoch and sample."""

from typing import Any

import pytest

from vididi_hf.data.decoding import BrokenVideoError
from vididi_hf.data.loading import SUBSTITUTES, make_or_replace


def made(index: int, rows: Any, broken: set[int], seed: int = 0, epoch: int = 0) -> tuple[dict[str, Any], list[int]]:
    tried = []

    def make(row: int) -> dict[str, Any]:
        tried.append(row)
        if row in broken:
            raise BrokenVideoError(f"{row}.mp4", "it is empty")
        return {"row": row}

    return make_or_replace(make, index, rows, seed, epoch), tried


def test_a_good_video_is_made_and_no_other_is_tried():
    assert made(3, range(8), {1}) == ({"row": 3, "broken": {}}, [3])


def test_broken_ones_are_named_and_never_tried_twice():
    sample, tried = made(3, [3, 5, 7, 9], {3, 5, 9})
    assert sample == {"row": 7, "broken": {f"{row}.mp4": "it is empty" for row in tried[:-1]}}
    assert tried[0] == 3
    assert tried[-1] == 7
    assert len(set(tried)) == len(tried)


def test_the_choice_is_a_function_of_seed_epoch_and_index_and_reaches_all_others():
    choices = [made(3, range(100), {3}, seed, epoch)[0]["row"] for seed in (0, 1) for epoch in range(10)]
    assert choices == [made(3, range(100), {3}, seed, epoch)[0]["row"] for seed in (0, 1) for epoch in range(10)]
    assert len(set(choices)) > 10
    assert {made(0, range(4), {0}, epoch=epoch)[0]["row"] for epoch in range(40)} == {1, 2, 3}


@pytest.mark.parametrize(("rows", "number"), [(5, 5), (100, SUBSTITUTES + 1)])
def test_after_so_many_broken_ones_the_data_set_is_at_fault(rows, number):
    message = rf"^{number} videos in a row cannot be decoded, among them 2\.mp4: it is empty; \d+\.mp4: it is empty; "
    with pytest.raises(ValueError, match=message):
        made(2, range(rows), set(range(rows)))
