"""What only a GPU does: half precision, NCCL, compiled kernels, pinned memory. `pytest -m gpu` runs this file.

`benchmarks/gpu_check.py` runs it, too, on machines without data-set libraries, so nothing here uses them or fixtures.
"""

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.gpu.runner import Context, Part

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
SMALL = Context("cuda", "", small=True)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    from benchmarks.gpu.machine_state import start_afresh

    start_afresh()


@pytest.mark.parametrize("objective", ["vicreg", "byol", "simclr"])
def test_a_step_in_bf16_is_nearly_one_in_fp32(objective: str) -> None:
    from benchmarks.gpu.training import Training, make_recipe, random_clips

    losses = []
    for precision in ("no", "bf16"):
        training = Training(make_recipe(SMALL, objective=objective, mixed_precision=precision))
        before = [one.clone() for one in training.network.parameters() if one.requires_grad]
        clips = random_clips(training.recipe, "cuda")
        losses.append(training.step(clips, (0, 1), 50).loss.item())
        after = [one for one in training.network.parameters() if one.requires_grad]
        assert {one.dtype for one in after} == {torch.float32}
        assert all(torch.isfinite(one).all() for one in after)
        assert any(not torch.equal(*pair) for pair in zip(before, after))
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


@pytest.mark.parametrize(
    "check",
    [
        ".correctness:check_half_precision",
        ".processes:check_process_group",  # NCCL, gather, SyncBatchNorm
        ".correctness:check_gradient_caching",
        ".processes:check_resume",  # with the loss scaler
        ".correctness:check_compilation",  # fullgraph=True
    ],
)
def test_a_check_holds_on_a_small_network(check: str) -> None:
    rows = dict(Part("", "", check, 0).rows(SMALL))
    assert rows
    assert {name: row for name, row in rows.items() if not row["ok"]} == {}


class _Noise(Dataset):
    """Samples as the training clips make them."""

    def __getitem__(self, key: tuple[int, int]) -> dict[str, object]:
        return {"clips": clips_of(key[1]), "index": key[1], "row": key[1], "source": "noise", "broken": {}}


def clips_of(index: int) -> Tensor:
    generator = torch.Generator().manual_seed(index)
    return torch.randint(256, (2, 6, 32, 32, 3), dtype=torch.uint8, generator=generator).movedim(-1, -3)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_pinned_and_copied_asynchronously(num_workers: int) -> None:
    from vididi_hf.data.loading import EpochBatches, EpochLoader, collate_clips

    batches = EpochBatches(16, 8)
    loader = EpochLoader(
        _Noise(), batches, collate_clips, num_workers=num_workers, pin_memory=True, batch_sampler=batches
    )
    for batch in loader.epoch(0):
        assert batch["clips"].is_pinned()
        copied = batch["clips"].to("cuda", non_blocking=True)
        torch.cuda.synchronize()
        assert torch.equal(copied.cpu(), torch.stack([clips_of(index) for index in batch["indices"].tolist()]))
