"""Encoders under a new classifier: what is frozen stays, and statistics are separated without a change."""

import shutil

import pytest
import torch

from vididi_hf import ViDiDiConfig, ViDiDiModel
from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.finetuning.models import separate_statistics
from vididi_hf.finetuning.recognition import finetune


def weights(folder):
    return ViDiDiForVideoClassification.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("part", ["head", "last_stage"])
def test_frozen_parts_do_not_move(part, recipe, checkpoint):
    run = recipe(train=part, learning_rate=1.0)
    finetune(run)
    after = weights(run.output_dir)
    encoder = ViDiDiModel.from_pretrained(checkpoint).state_dict()
    moved = {name for name, tensor in encoder.items() if not torch.equal(after[f"vididi.{name}"], tensor)}
    if part == "head":
        assert moved == set()
    else:
        assert {name.split(".")[1] for name in moved} == {"layer4"}
        assert any("running_var" in name for name in moved)


def test_statistics_are_separated_without_changing_what_the_model_computes(checkpoint):
    model = ViDiDiForVideoClassification.from_pretrained(checkpoint)
    model.train()(torch.randn(2, 6, 3, 32, 32))  # statistics that are not those of a new network
    model.eval()
    clips = torch.randn(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = [model(clips, derivative_orders=(order,)).logits for order in (0, 1)]
    separate_statistics(model, (0, 1))
    for order in (0, 1):
        torch.testing.assert_close(model(clips, derivative_orders=(order,)).logits, expected[order])
    model.train()(clips, derivative_orders=(1,))
    model.eval()
    torch.testing.assert_close(model(clips).logits, expected[0])  # only the derivative's statistics have moved
    assert not torch.allclose(model(clips, derivative_orders=(1,)).logits, expected[1])


@pytest.mark.parametrize(
    ("pretrained", "inputs"),
    [
        ({"batch_norm": "shared"}, ["frames", "derivative"]),
        ({"batch_norm": "shared"}, ["both"]),
        # The baseline of the comparison: statistics per order, and frames are all that it has seen.
        ({"batch_norm": "per_order", "derivative_orders": (0,)}, ["frames", "derivative"]),
    ],
)
def test_frames_and_derivatives_have_statistics_of_their_own(pretrained, inputs, recipe, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "encoder")
    config = ViDiDiConfig.from_pretrained(checkpoint)
    encoder = ViDiDiModel(ViDiDiConfig(**{**config.to_dict(), **pretrained}))
    encoder.train()(torch.randn(2, 4, 3, 32, 32))  # statistics that are not those of a new network
    encoder.save_pretrained(folder)
    before = encoder.backbone.stem[1].running_var.flatten()
    run = recipe(model=str(folder), inputs=inputs, epochs=1)
    finetune(run)
    model = ViDiDiForVideoClassification.from_pretrained(run.output_dir)
    assert (model.config.batch_norm, {0, 1} <= set(model.config.derivative_orders)) == ("per_order", True)
    frames, derivative = model.vididi.backbone.stem[1].running_var[:2]
    pairs = ((frames, before), (derivative, before), (frames, derivative))
    assert not any(torch.allclose(one, other, rtol=1e-3) for one, other in pairs)
