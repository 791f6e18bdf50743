"""Half precision is for GPUs."""

import pytest
import torch

from vididi_hf.pretraining.precision import usable_precision


@pytest.mark.parametrize("asked", ["no", "bf16", "fp16"])
def test_a_gpu_gets_what_was_asked_for_and_a_cpu_full_precision(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert usable_precision(asked) == asked
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert usable_precision(asked) == "no"
