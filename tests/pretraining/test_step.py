"""A step against the same things done one by one."""

import copy
import math
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.pretraining.optimization import LARS
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.step import TrainingStep

ORDERS = (0, 1)
STEPS_PER_EPOCH = 5


def recipe_of(**options: Any) -> PretrainingRecipe:
    sizes = {"hidden_sizes": [4, 4, 8, 8], "depths": [1, 1, 1, 1], "projector_sizes": [8, 8], "num_frames": 2}
    fixed = {"image_size": 32, "batch_size": 4, "epochs": 20, "warmup_epochs": 1, "learning_rate": 64.0}
    return PretrainingRecipe(**(sizes | fixed | {"objective": "byol"} | options))


def step_of(recipe: PretrainingRecipe, model: ViDiDiForPreTraining) -> TrainingStep:
    accelerator = Accelerator(cpu=True)
    optimizer = LARS(model.parameters(), lr=0.0, weight_decay=0.0)
    prepared = accelerator.prepare(model, optimizer)
    return TrainingStep(recipe, accelerator, *prepared, lambda clips, _: clips.float(), STEPS_PER_EPOCH)


def clips() -> Tensor:
    return torch.randn(4, 2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_the_rate_rises_falls_and_is_scaled_by_the_batch() -> None:
    recipe = recipe_of()
    step = step_of(recipe, ViDiDiForPreTraining(recipe.model_config()))
    assert step.total_steps == 100
    assert [step.learning_rate(number) for number in (0, 1, 5)] == [0.0, 0.2, 1.0]  # 64 * 4 / 256 after one epoch
    assert step.learning_rate(100) == pytest.approx(recipe.final_learning_rate)


def test_one_step_is_gradient_update_and_moving_average() -> None:
    torch.manual_seed(0)
    recipe = recipe_of()
    model = ViDiDiForPreTraining(recipe.model_config()).train()
    by_hand = copy.deepcopy(model)
    output = step_of(recipe, model)(clips(), ORDERS, 40)

    expected = by_hand(clips(), ORDERS)
    expected.loss.backward()
    optimizer = LARS(by_hand.parameters(), lr=model_rate(40), weight_decay=0.0)
    optimizer.step()
    decay = 1 - (1 - 0.99) * (math.cos(math.pi * 40 / 100) + 1) / 2
    online = [*by_hand.vididi.parameters(), *by_hand.objective.projector.parameters()]
    with torch.no_grad():
        for slow, fast in zip(by_hand.target.parameters(), online):
            slow.copy_(decay * slow + (1 - decay) * fast)

    torch.testing.assert_close(output.loss, expected.loss.detach())
    torch.testing.assert_close(model.state_dict(), by_hand.state_dict())
    assert all(one.grad is None for one in model.parameters())


def model_rate(number: int) -> float:
    """Half a cosine from the end of the first epoch, 5 steps, to a thousandth at step 100."""
    share = (1 + math.cos(math.pi * (number - 5) / 95)) / 2
    return share + (1 - share) * 1e-3


def test_a_batch_in_chunks_is_one_step() -> None:
    torch.manual_seed(0)
    recipe = recipe_of(objective="simclr", batch_norm="shared")
    whole = ViDiDiForPreTraining(recipe.model_config()).eval()  # without batch statistics the parts make no difference
    parts = copy.deepcopy(whole)
    losses = [
        step_of(recipe_of(objective="simclr", batch_norm="shared", chunk_size=size), model)(clips(), ORDERS, 40).loss
        for size, model in ((0, whole), (2, parts))
    ]
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(parts.state_dict(), whole.state_dict())


def test_gradients_are_clipped() -> None:
    recipe = recipe_of(max_grad_norm=1e-3)
    model = ViDiDiForPreTraining(recipe.model_config()).train()
    step = step_of(recipe, model)
    seen: list[Tensor] = []
    update = step.optimizer.optimizer.step

    def look(*args: Any) -> Any:
        seen.append(torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None]).norm())
        return update(*args)

    step.optimizer.optimizer.step = look
    step(clips(), ORDERS, 40)
    torch.testing.assert_close(seen, [torch.tensor(1e-3)], rtol=1e-2, atol=0)
