"""The encoder of a command line: what is loaded."""

import json
import shutil

import pytest
import torch

from vididi_hf import ViDiDiConfig, ViDiDiForPreTraining, ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.evaluation.arguments import EncoderArguments, check_location


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(1)
    ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1))).save_pretrained(folder)
    ViDiDiVideoProcessor(num_frames=4, frame_stride=2).save_pretrained(folder)
    return folder


def weights(model):
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


class TestLoad:
    def test_checkpoint(self, checkpoint):
        model, processor = EncoderArguments(model=str(checkpoint), device="cpu").load()
        assert torch.equal(weights(model), weights(ViDiDiModel.from_pretrained(checkpoint)))
        assert not model.training
        assert (processor.num_frames, processor.frame_stride) == (4, 2)

    def test_clips_other_than_the_checkpoints(self, checkpoint):
        arguments = EncoderArguments(model=str(checkpoint), num_frames=16, frame_stride=1)
        _, processor = arguments.load()
        assert (processor.num_frames, processor.frame_stride) == (16, 1)
        assert processor.sample_clips(torch.zeros(20, 3, 40, 40, dtype=torch.uint8)).shape[1] == 16

    def test_random_weights_have_the_architecture_and_follow_the_seed(self, checkpoint):
        def load(seed):
            return EncoderArguments(model=str(checkpoint), random_init=True, seed=seed).load()[0]

        trained = ViDiDiModel.from_pretrained(checkpoint)
        first, again, other = load(0), load(0), load(2)
        assert first.config.hidden_sizes == trained.config.hidden_sizes
        assert torch.equal(weights(first), weights(again))
        assert not torch.equal(weights(first), weights(other))
        assert not torch.equal(weights(first), weights(trained))

    def test_encoder_within_a_pretraining_model(self, checkpoint, tmp_path):
        options = {"projector_sizes": (8, 8)}
        config = ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1), objective_options=options)
        pretrained = ViDiDiForPreTraining(config)
        pretrained.save_pretrained(tmp_path)
        ViDiDiVideoProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path)
        model, _ = EncoderArguments(model=str(tmp_path)).load()
        assert torch.equal(weights(model), weights(pretrained.vididi))

    def test_other_models(self, checkpoint, tmp_path):
        shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
        with pytest.raises(ValueError, match=r"is no ViDiDi model: its config\.json says model_type 'bert'"):
            EncoderArguments(model=str(tmp_path)).load()

    def test_folders_without_a_model(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"is no checkpoint: it holds no config\.json"):
            EncoderArguments(model=str(tmp_path)).load()

    def test_missing_weights_are_not_replaced_by_random_ones(self, checkpoint, tmp_path):
        shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "depths": [2, 1, 1, 1]}))
        with pytest.raises(ValueError, match=r"lacks \d+ weights of the encoder, such as backbone\.layer1\.1\."):
            EncoderArguments(model=str(tmp_path)).load()

    def test_missing_processor(self, checkpoint, tmp_path):
        shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
        for file in tmp_path.glob("*processor*"):
            file.unlink()
        with pytest.raises(OSError, match="video processor"):
            EncoderArguments(model=str(tmp_path)).load()

    @pytest.mark.parametrize("device", ["cuda:99", "gpu"])
    def test_no_such_device(self, checkpoint, device):
        with pytest.raises(ValueError, match=f"device '{device}' cannot be used"):
            EncoderArguments(model=str(checkpoint), device=device).load()


@pytest.mark.parametrize("name", ["num_clips", "num_frames", "frame_stride", "batch_size", "num_workers", "seed"])
def test_impossible_numbers(name):
    with pytest.raises(ValueError, match=f"{name} must be at least \\d, got -1"):
        EncoderArguments(model="m", **{name: -1})


class TestLocation:
    @pytest.mark.parametrize("model", ["runs/mine", "nothing", "./a/b", "~/model", "/no/where", "a/b/c", "../a"])
    def test_mistyped_paths_are_no_ids(self, model, tmp_path, monkeypatch):
        (tmp_path / "runs").mkdir()
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileNotFoundError, match=f"there is no folder '{model}'"):
            check_location(model)

    @pytest.mark.parametrize("model", ["owner/name", "runs", "runs/there", "."])
    def test_ids_and_folders_pass(self, model, tmp_path, monkeypatch):
        (tmp_path / "runs" / "there").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        check_location(model)
        assert not (tmp_path / "owner").exists()
