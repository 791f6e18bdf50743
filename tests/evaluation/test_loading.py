"""Loading the model of an evaluation."""

import json
import shutil

import pytest
import torch

from vididi_hf import ViDiDiConfig, ViDiDiForPreTraining, ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.evaluation.loading import load_encoder
from vididi_hf.evaluation.options import DetectionOptions, EncoderOptions, FrozenOptions
from vididi_hf.reading import check_location


def load(model, **changes):
    return load_encoder(EncoderOptions(model=str(model), **changes))


def weights(model):
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


def test_checkpoint(checkpoint):
    model, processor = load(checkpoint, device="cpu")
    assert torch.equal(weights(model), weights(ViDiDiModel.from_pretrained(checkpoint)))
    assert not model.training
    assert (processor.num_frames, processor.frame_stride) == (4, 1)
    _, processor = load(checkpoint, num_frames=16, frame_stride=2)
    assert (processor.num_frames, processor.frame_stride) == (16, 2)


def test_the_checkpoint_or_the_options_say_whether_frames_are_sampled_by_time(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    ViDiDiVideoProcessor.from_pretrained(checkpoint, frame_interval=0.12).save_pretrained(tmp_path)
    for changes, expected in (({}, 0.12), ({"frame_interval": 0.2}, 0.2), ({"frame_stride": 2}, None)):
        assert load(tmp_path, **changes)[1].frame_interval == expected


def test_the_reference_encoder_is_part_of_the_package(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, processor = load("reference")
    assert (model.config.hidden_size, processor.num_frames) == (64, 8)


def test_random_weights_have_the_architecture_and_follow_the_seed(checkpoint):
    trained = ViDiDiModel.from_pretrained(checkpoint)
    first, again, other = (load(checkpoint, random_init=True, seed=seed)[0] for seed in (0, 0, 2))
    assert first.config.hidden_sizes == trained.config.hidden_sizes
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    assert not torch.equal(weights(first), weights(trained))


def test_checkpoints_of_pretraining_and_folders_that_are_not_complete(checkpoint, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    config = ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1,) * 4, objective_options={"projector_sizes": (8, 8)})
    pretrained = ViDiDiForPreTraining(config)
    pretrained.save_pretrained(copy)
    assert torch.equal(weights(load(copy)[0]), weights(pretrained.vididi))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "depths": [2, 1, 1, 1]}))
    with pytest.raises(ValueError, match=r"lacks \d+ weights of the encoder, such as backbone\.layer1\.1\."):
        load(copy)
    (copy / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="no encoder of the type 'bert' can be a backbone"):
        load(copy)
    (copy / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"is not a checkpoint: it has no config\.json"):
        load(copy)


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_no_such_device(checkpoint, device):
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used"):
        load(checkpoint, device=device)


@pytest.mark.parametrize("model", ["runs/mine", "nothing", "./a/b", "~/model", "/no/where", "a/b/c", "../a"])
def test_mistyped_paths_are_not_ids(model, tmp_path, monkeypatch):
    (tmp_path / "runs" / "there").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no folder '{model}'"):
        check_location(model)
    for location in ("owner/name", "runs", "runs/there", "."):
        assert check_location(location) == location


def test_old_names_and_fixed_values():
    with pytest.warns(FutureWarning, match="leave_out is now called group_column"):
        assert FrozenOptions(model="m", dataset="d", leave_out="source").group_column == "source"
    assert DetectionOptions(model="m", dataset="d").num_clips == 1
