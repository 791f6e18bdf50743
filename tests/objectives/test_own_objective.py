"""The page on own objectives: its class trains, and equals the published formula."""

import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.pretraining.runs import make_recipe, write_videos
from vididi_hf import ViDiDiConfig, ViDiDiModel
from vididi_hf.objectives import OBJECTIVES, build_objective, register_objective
from vididi_hf.pretraining.loop import pretrain
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"


@pytest.fixture
def moco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code.count("\n") < 40
    (tmp_path / "moco.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield "moco:MoCoV3"
    OBJECTIVES.pop("moco:MoCoV3", None)
    sys.modules.pop("moco", None)


def test_the_class_of_the_page_trains_and_its_checkpoint_imports_nothing(moco: str, tmp_path: Path) -> None:
    recipe = make_recipe(write_videos(tmp_path / "videos"), tmp_path / "run", optimizer="adamw", epochs=1)
    recipe.objective, recipe.learning_rate = moco, 0.01
    pretrain(recipe)
    OBJECTIVES.pop(moco)
    sys.modules.pop("moco")
    assert ViDiDiModel.from_pretrained(tmp_path / "run").config.objective == moco
    with pytest.raises(ValueError, match="is not loaded: call vididi_hf"):
        ViDiDiForPreTraining(ViDiDiConfig.from_pretrained(tmp_path / "run"))
    assert "moco" not in sys.modules


def test_parameters_that_caching_would_not_train_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class WithScale(OBJECTIVES["vicreg"]):
        def __init__(self, hidden_size, projector_sizes=(8,)):
            super().__init__(hidden_size, projector_sizes)
            self.scale = torch.nn.Parameter(torch.ones(()))

    monkeypatch.setitem(OBJECTIVES, "vicreg", WithScale)
    recipe = make_recipe(write_videos(tmp_path / "videos"), tmp_path / "run", chunk_size=2)
    with pytest.raises(ValueError, match="chunk_size would not train scale of the objective vicreg: leave it out"):
        pretrain(recipe)


def test_the_class_of_the_page_computes_moco(moco: str) -> None:
    register_objective(moco)
    objective = build_objective(moco, 8, {"projector_sizes": (16, 4)})
    views = torch.randn(4, 6, 4).unbind()
    q1, q2, k1, k2 = (F.normalize(view, dim=1) for view in views)
    expected = 0.0
    for queries, keys in ((q1, k2), (q2, k1)):
        for i in range(6):
            similarities = [float(queries[i] @ key) / 0.2 for key in keys]
            expected += 0.4 * (torch.tensor(similarities).logsumexp(0) - similarities[i]).item() / 6
    assert objective(*views).loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nowhere.at_all:Class", ImportError, "No module named 'nowhere'"),
        ("json:JSONDecoder", ValueError, "must be a subclass of vididi_hf"),
        ("json:Nothing", ValueError, "got None"),
    ],
)
def test_what_is_not_an_objective_is_named(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        register_objective(name)
