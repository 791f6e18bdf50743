"""The state that a run goes on from; that it goes on exactly is tested with the loop."""

import pytest
import torch

from vididi_hf.finetuning.recognition import finetune
from vididi_hf.finetuning.state import STATE_FILE


def test_a_damaged_state_is_named(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / STATE_FILE).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"training_state.pt cannot be read; remove it"):
        finetune(recipe(resume=True))


def test_states_hold_nothing_that_has_to_be_unpickled(recipe, tmp_path):
    finetune(recipe(epochs=1, train="head"))
    state = torch.load(tmp_path / "run" / STATE_FILE, weights_only=True)
    assert set(state) == {"recipe", "epoch", "model", "optimizer"}
    assert state["epoch"] == 1
    assert not list((tmp_path / "run").glob(".*"))
