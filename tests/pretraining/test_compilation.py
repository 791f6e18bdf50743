"""Compiled encoders compute what they compute otherwise, and are saved, resumed and loaded like others.

Most tests trace and differentiate the graphs that would be compiled, and leave out compiling, which takes a minute.
"""

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.pretraining.gradient_caching import cache_gradients
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining, compile_encoders
from vididi_hf.pretraining.order_schedule import OrderPair

ORDERS = ((0, 0), (0, 1), (1, 2), (2, 0))


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    limit = torch._dynamo.config.recompile_limit
    yield
    torch._dynamo.config.recompile_limit = limit
    torch._dynamo.reset()


def pair_of_models(objective: str, backend: str = "aot_eager") -> list[ViDiDiForPreTraining]:
    """The same model twice, the second one compiled."""
    torch.manual_seed(0)
    options = {"projector_sizes": (12, 10)} | ({"predictor_sizes": (9, 10)} if objective == "byol" else {})
    config = ViDiDiConfig(
        hidden_sizes=(4, 4, 8, 8),
        depths=(1, 1, 1, 1),
        num_frames=4,
        image_size=32,
        batch_norm="per_order",
        objective=objective,
        objective_options=options,
    )
    plain = ViDiDiForPreTraining(config).train()
    compiled = copy.deepcopy(plain)
    compile_encoders(compiled, backend)
    return [plain, compiled]


def views() -> Tensor:
    return torch.randn(4, 2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def assert_same_training(plain: ViDiDiForPreTraining, compiled: ViDiDiForPreTraining) -> None:
    """Names, gradients, and statistics of all orders."""
    gradients = [
        {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        for model in (plain, compiled)
    ]
    assert any(name.startswith("vididi.backbone") for name in gradients[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(compiled.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-4)


def train(models: list[ViDiDiForPreTraining], pairs: Iterable[OrderPair]) -> int:
    """Adds up gradients, compares what comes out, and returns how many graphs were compiled."""
    for orders in pairs:
        expected, found = (model(views(), orders) for model in models)
        torch.testing.assert_close(found.loss, expected.loss, rtol=1e-3, atol=1e-4)
        expected.loss.backward()
        found.loss.backward()
    assert_same_training(*models)
    assert not torch._dynamo.utils.counters["graph_break"]
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_each_order_is_a_graph_and_what_is_saved_loads_without_compiling(tmp_path: Path) -> None:
    models = pair_of_models("vicreg")
    assert train(models, [(0, 1), (1, 0)]) == 2
    compiled = models[1].eval()
    compiled.vididi.save_pretrained(tmp_path)
    loaded = ViDiDiModel.from_pretrained(tmp_path).eval()
    for name, tensor in compiled.vididi.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


@pytest.mark.slow  # as the test above, with more graphs
def test_the_target_is_compiled_as_well() -> None:
    assert train(pair_of_models("byol"), ORDERS) == 2 * 3


@pytest.mark.slow
def test_gradients_are_cached_without_falling_back() -> None:
    """Two passes of the encoder and one of the target, for three orders: more graphs than torch allows by itself."""
    models = pair_of_models("byol")
    accelerator = Accelerator(cpu=True)
    for model in models:
        for orders in ORDERS:
            cache_gradients(accelerator, model, views(), orders, lambda clips, _: clips, 2)
    assert_same_training(*models)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3 * 3


@pytest.mark.slow  # compiles C++
def test_compiled_code_computes_the_same() -> None:
    assert train(pair_of_models("vicreg", backend="inductor"), [(0, 1), (1, 0)]) == 2
