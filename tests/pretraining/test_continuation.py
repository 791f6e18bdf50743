"""A run that starts from a ViDiDi checkpoint has its network, weights, statistics and processor, and new heads."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.pretraining.runs import assert_same, make_recipe
from tests.tiny_encoders import save_encoder
from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.pretraining.loop import pretrain
from vididi_hf.pretraining.modeling import initial_model
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.views import build_processor

NETWORK = {"hidden_sizes": (4, 8, 8, 16), "depths": (0, 1, 1, 1), "stem_kernel_size": 3, "num_frames": 6}


def save_checkpoint(folder: Path, **options) -> ViDiDiModel:
    """A network whose statistics differ from order to order and from those of a new one."""
    model = ViDiDiModel(ViDiDiConfig(**NETWORK, image_size=40, **options))
    for name, tensor in model.state_dict().items():
        if "running" in name:
            tensor.copy_(1 + torch.rand_like(tensor))
    model.save_pretrained(folder)
    ViDiDiVideoProcessor(
        num_frames=6, image_mean=[0.1, 0.2, 0.3], crop_size={"height": 40, "width": 40}
    ).save_pretrained(folder)
    return model.eval()


def continued(folder: Path, **options) -> PretrainingRecipe:
    return PretrainingRecipe(encoder=str(folder), frame_stride=2, projector_sizes=[8], **options).completed()


@pytest.mark.parametrize(
    ("saved", "schedule", "batch_norm", "rows"),
    [
        ({"derivative_orders": (0,)}, "paper", "per_order", [0, 0, 0]),
        ({"derivative_orders": (0, 1, 2)}, "paper", "per_order", [0, 1, 2]),
        ({"derivative_orders": (0, 1, 2)}, "first-order", "per_order", [0, 1]),
        ({"derivative_orders": (0, 1, 2)}, "paper", "shared", [0]),
        ({"derivative_orders": (0, 1), "batch_norm": "shared"}, "first-order", "per_order", [0, 0]),
    ],
)
def test_a_run_starts_with_the_weights_and_the_statistics_of_each_order(
    saved: dict, schedule: str, batch_norm: str, rows: list[int], tmp_path: Path
) -> None:
    before = save_checkpoint(tmp_path, **saved)
    recipe = continued(tmp_path, order_schedule=schedule, batch_norm=batch_norm)
    after = initial_model(recipe).vididi.eval()
    clips = torch.rand(2, 6, 3, 40, 40)
    for order, row in enumerate(rows):
        expected = before(clips, derivative_order=row).pooler_output
        assert_same(after(clips, derivative_order=order).pooler_output, expected)


def test_the_processor_is_kept_but_for_what_the_run_sets(tmp_path: Path) -> None:
    save_checkpoint(tmp_path)
    processor = build_processor(continued(tmp_path))
    assert (processor.num_frames, processor.frame_stride, processor.frame_interval) == (6, 2, None)
    assert (processor.crop_size["height"], tuple(processor.image_mean)) == (40, (0.1, 0.2, 0.3))
    assert build_processor(continued(tmp_path, image_size=48)).crop_size["height"] == 48


def test_random_weights_keep_the_network_only(tmp_path: Path) -> None:
    before = save_checkpoint(tmp_path)
    config = initial_model(continued(tmp_path, random_init=True)).config
    assert (config.hidden_sizes, config.depths, config.stem_kernel_size) == ((4, 8, 8, 16), (0, 1, 1, 1), 3)
    after = initial_model(continued(tmp_path, random_init=True)).vididi.state_dict()
    assert not torch.equal(after["backbone.stem.0.weight"], before.state_dict()["backbone.stem.0.weight"])


@pytest.mark.parametrize("family", ["videomae", "timm_cnn"])  # with LayerNorm, and with its own BatchNorm
def test_a_wrapped_encoder_continues_too(family: str, tmp_path: Path) -> None:
    wrapped = ViDiDiModel.from_encoder(str(save_encoder(tmp_path / family, family)), derivative_orders=(0,))
    wrapped.save_pretrained(tmp_path / "wrapped")
    ViDiDiVideoProcessor.from_encoder(str(tmp_path / family)).save_pretrained(tmp_path / "wrapped")
    assert_same(initial_model(continued(tmp_path / "wrapped")).vididi.state_dict(), wrapped.state_dict())


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "first")
    with pytest.raises(ValueError, match=r"either encoder .* or depths, which is \(0, 1, 1, 1\) in the encoder"):
        continued(tmp_path / "first", depths=[1, 1, 1, 1])
    with pytest.raises(ValueError, match=r"output_dir .*first is the folder of encoder"):
        pretrain(continued(tmp_path / "first", output_dir=str(tmp_path / "first")))
    with pytest.raises(FileNotFoundError, match=r"no folder .*, and it is not the id of a model"):
        continued(tmp_path / "second")
    weights = load_file(tmp_path / "first" / "model.safetensors")
    name = next(name for name in weights if name.startswith("backbone.layer2"))
    save_file({one: tensor for one, tensor in weights.items() if one != name}, tmp_path / "first" / "model.safetensors")
    with pytest.raises(ValueError, match=f"first lacks 1 weights of the encoder, such as {name}"):
        initial_model(continued(tmp_path / "first"))
    (tmp_path / "first" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="first cannot be read"):
        initial_model(continued(tmp_path / "first"))


def test_a_run_continues_from_the_folder_of_another(videos: Path, tmp_path: Path) -> None:
    pretrain(make_recipe(videos, tmp_path / "first", order_schedule="baseline"))
    first = ViDiDiModel.from_pretrained(tmp_path / "first").state_dict()
    # The first run's recipe names the same network.
    recipe = make_recipe(videos, tmp_path / "second", encoder=str(tmp_path / "first"), learning_rate=0, epochs=1)
    second = ViDiDiModel.from_pretrained(pretrain(recipe)).state_dict()
    weights = [name for name in first if name.endswith("weight")]
    assert_same({name: second[name] for name in weights}, {name: first[name] for name in weights})
