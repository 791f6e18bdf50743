"""Pretraining of wrapped encoders: LoRA, frozen parts and layer-wise decay change what they should, and resume."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.pretraining.runs import assert_same, final_state, interrupt, make_recipe
from tests.tiny_encoders import FRAMES, SIZE, save_encoder
from vididi_hf import ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.pretraining.loop import pretrain
from vididi_hf.pretraining.modeling import initial_model
from vididi_hf.pretraining.optimization import build_optimizer, set_learning_rate
from vididi_hf.pretraining.recipe import PretrainingRecipe


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"), "videomae")


@pytest.fixture
def recipe(encoder: Path, videos: Path, tmp_path: Path):
    def make(name: str = "run", objective: str = "byol", **options) -> PretrainingRecipe:
        sizes = {"hidden_sizes": None, "depths": None, "num_frames": 0, "image_size": 0}
        options = {"optimizer": "adamw", "learning_rate": 0.1, "encoder": str(encoder), **sizes, **options}
        return make_recipe(videos, tmp_path / name, objective, **options)

    return make


def test_adapters_resume_exactly_and_are_merged_into_what_users_load(recipe, encoder: Path, tmp_path: Path) -> None:
    options = {"lora_rank": 2, "freeze": 2, "activation_checkpointing": True, "layer_decay": 0.5}
    pretrain(recipe("whole", **options))
    stopped = recipe("stopped", save_steps=2, **options)
    interrupt(stopped, 5)
    pretrain(replace(stopped, resume=True))
    assert_same(final_state(tmp_path / "stopped"), final_state(tmp_path / "whole"))
    assert ViDiDiVideoProcessor.from_pretrained(tmp_path / "whole").num_frames == FRAMES
    # Only the linear layers of the second layer were trained: the embeddings and the first one were frozen.
    before = ViDiDiModel.from_encoder(str(encoder)).state_dict()
    after = ViDiDiModel.from_pretrained(tmp_path / "whole").state_dict()
    assert before.keys() == after.keys()  # nobody needs PEFT to load it
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert len(changed) == 6
    assert all(".layer.1." in name and name.endswith("weight") for name in changed)


@torch.no_grad()
def test_merged_weights_compute_what_the_adapters_compute(recipe, tmp_path: Path) -> None:
    from vididi_hf.pretraining.checkpoints import save_encoder as save

    model = initial_model(made := recipe(lora_rank=4).completed())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    tmp_path.joinpath("merged").mkdir()
    save(tmp_path / "merged", model, ViDiDiVideoProcessor(), made)
    clip = torch.randn(2, FRAMES, 3, SIZE, SIZE)
    merged = ViDiDiModel.from_pretrained(tmp_path / "merged").eval()
    expected = model.eval().vididi(clip).pooler_output
    torch.testing.assert_close(merged(clip).pooler_output, expected, rtol=1e-4, atol=1e-5)


def test_learning_rates_fall_toward_the_input(recipe) -> None:
    made = recipe(layer_decay=0.5)
    model = initial_model(made)
    optimizer = build_optimizer(model, made)
    set_learning_rate(optimizer, 0.8)
    rates = {id(one): group["lr"] for group in optimizer.param_groups for one in group["params"]}
    layers = model.vididi.backbone.encoder.encoder.layer
    parts = {0.1: model.vididi.backbone.encoder.embeddings, 0.2: layers[0], 0.4: layers[1], 0.8: model.objective}
    for rate, module in parts.items():
        assert all(rates[id(one)] == pytest.approx(rate) for one in module.parameters())
    assert all(one.ndim > 1 for group in optimizer.param_groups if group["weight_decay"] for one in group["params"])


def test_frozen_stages_of_a_convolutional_network_keep_their_statistics(videos: Path, tmp_path: Path) -> None:
    made = make_recipe(videos, tmp_path, "byol", freeze=2)
    model = initial_model(made).train()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    model(torch.randn(2, 2, 4, 3, 32, 32)).loss.backward()
    build_optimizer(model, made).step()
    changed = {name for name, one in model.state_dict().items() if not torch.equal(one, before[name])}
    trained = {name.split(".")[2] for name in changed if name.startswith("vididi.")}
    assert trained == {"layer2", "layer3", "layer4"}
    # BYOL's target receives no gradient either, and normalizes by the batch.
    assert any(name.startswith("target.encoder.backbone.stem") for name in changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": 3}, "freeze must be below 3"),
        ({"encoder": None, "lora_rank": 2}, "lora_rank needs encoder"),
        ({"backbone": "s3d"}, "choose either encoder"),
        ({"num_frames": 6}, "takes only clips of 4 frames"),
    ],
)
def test_what_does_not_fit_is_refused(recipe, options, message: str) -> None:
    def start() -> None:
        model = initial_model(recipe(**options).completed())
        model.vididi(torch.zeros(1, model.config.num_frames, 3, SIZE, SIZE))

    with pytest.raises(ValueError, match=message):
        start()
