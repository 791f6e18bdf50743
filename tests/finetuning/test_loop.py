"""Fine-tuning: it learns, follows its recipe, freezes, resumes exactly, and tests once."""

import json

import pytest
import torch
import torch.nn.functional as F
from torchcodec.encoders import VideoEncoder
from transformers import pipeline

from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.data.folders import with_video_column
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.evaluation.classification import ClassificationEvaluator
from vididi_hf.evaluation.results import read_report
from vididi_hf.finetuning import loop
from vididi_hf.finetuning.loop import finetune
from vididi_hf.finetuning.recipe import FinetuningRecipe
from vididi_hf.pretraining.monitors import read_metrics


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A list of 12 + 6 videos of three classes, which brightness tells, and flicker too."""
    folder = tmp_path_factory.mktemp("videos")
    rows = ["video,label,split"]
    for index in range(18):
        generator = torch.Generator().manual_seed(index)
        kind = index % 3
        frames = torch.randint(90, 130, (8, 3, 36, 36), generator=generator)
        frames = frames + (90, -80, 0)[kind]
        frames[::2] += (0, 40, 90)[kind]
        VideoEncoder(frames.clamp(0, 255).to(torch.uint8), frame_rate=10).to_file(folder / f"{index}.mp4")
        rows.append(f"{index}.mp4,{['bright', 'dark', 'flicker'][kind]},{'train' if index < 12 else 'test'}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What pretraining leaves: an encoder with its processor."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(7)
    ViDiDiModel(ViDiDiConfig(hidden_sizes=(8, 8, 16, 32), depths=(1, 1, 1, 1), num_frames=4)).save_pretrained(folder)
    ViDiDiVideoProcessor(num_frames=4, frame_stride=1, size=32, crop_size=32).save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(videos, checkpoint, tmp_path):
    def make(name="run", **changes):
        settings = {
            "epochs": 2,
            "batch_size": 6,
            "warmup_epochs": 0,
            "colour_probability": 0.0,
            "test_clips": 2,
            "num_workers": 0,
            "progress": False,
        }
        settings |= {"model": str(checkpoint), "dataset": str(videos), "output_dir": str(tmp_path / name)}
        return FinetuningRecipe(**(settings | changes))

    return make


def weights(folder):
    return ViDiDiForVideoClassification.from_pretrained(folder).state_dict()


def test_it_learns_and_leaves_a_classifier_with_its_results(recipe, videos, tmp_path):
    # Encoded files differ from machine to machine, so the numbers do; five seeds reached a tenth of the first loss.
    settings = {"epochs": 40, "batch_size": 12, "learning_rate": 0.3, "drops": [0.4, 0.7]}
    settings |= {"dropout": 0.0, "label_smoothing": 0.0}
    result = finetune(recipe(**settings, inputs=["frames", "derivative"]))
    log = read_metrics(tmp_path / "run")
    assert [row["epoch"] for row in log] == list(range(1, 41))
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert result["metrics"]["frames"]["top-1"] > 0.6
    assert list(result["metrics"]) == ["frames", "derivative", "ensemble"]
    report = read_report(tmp_path / "run")
    assert report["metrics"] == result["metrics"]
    assert report["protocol"]["trained_inputs"] == ["frames", "derivative"]
    assert (report["protocol"]["videos"], report["protocol"]["training_videos"]) == (6, 12)
    assert (report["task"], report["dataset"], report["split"]) == ("classification", videos.parent.name, "test")
    # The saved model gives the saved numbers, and the pipeline reads it.
    model = ViDiDiForVideoClassification.from_pretrained(tmp_path / "run")
    assert model.config.batch_norm == "per_order"  # frames and derivative took turns
    assert model.config.id2label == {0: "bright", 1: "dark", 2: "flicker"}
    processor = ViDiDiVideoProcessor.from_pretrained(tmp_path / "run")
    test = load_video_dataset(videos, split="test")
    inputs = ("frames", "derivative", "ensemble")
    assert ClassificationEvaluator(test, processor, inputs, num_clips=2)(model)["metrics"] == result["metrics"]
    answer = pipeline("video-classification", model=str(tmp_path / "run"))(str(videos.parent / "12.mp4"))
    assert {entry["label"] for entry in answer} == {"bright", "dark", "flicker"}


def test_a_step_is_sgd_on_smoothed_cross_entropy(recipe, checkpoint, monkeypatch):
    """One batch of all videos, the step written out: momentum and weight decay as PyTorch documents them."""
    seen = []
    forward = ViDiDiForVideoClassification.forward
    before = {}

    def spy(self, frames, **kwargs):
        if self.training:
            before.setdefault("state", {name: tensor.clone() for name, tensor in self.state_dict().items()})
            seen.append((frames.clone(), kwargs))
        return forward(self, frames, **kwargs)

    monkeypatch.setattr(ViDiDiForVideoClassification, "forward", spy)
    # 12 videos, a batch of 12: the second epoch's step has the same videos in another order.
    settings = {"epochs": 1, "batch_size": 12, "dropout": 0.0, "label_smoothing": 0.2, "weight_decay": 0.3}
    finetune(recipe(**settings, learning_rate=0.5, inputs=["derivative"]))
    ((frames, kwargs),) = seen
    assert kwargs == {"derivative_orders": (1,)}
    assert frames.shape == (12, 5, 3, 32, 32)
    encoder = ViDiDiModel.from_pretrained(checkpoint).state_dict()
    assert all(torch.equal(before["state"][f"vididi.{name}"], tensor) for name, tensor in encoder.items())
    after = weights(recipe().output_dir)
    model = ViDiDiForVideoClassification.from_pretrained(recipe().output_dir)
    model.load_state_dict(before["state"])
    order = torch.cat([torch.tensor(keys)[:, 1] for keys in _batches(12)])
    labels = order % 3
    logits = model.train()(frames, derivative_orders=(1,)).logits
    smooth = 0.8 * F.one_hot(labels, 3) + 0.2 / 3
    (-(smooth * logits.log_softmax(1)).sum(1).mean()).backward()
    rate = 0.5 * 12 / 128
    for name, parameter in model.named_parameters():
        decay = 0.3 * parameter if parameter.ndim > 1 else 0.0
        expected = parameter - rate * (parameter.grad + decay)
        torch.testing.assert_close(after[name], expected.detach(), rtol=1e-3, atol=1e-5)


def _batches(size):
    from vididi_hf.data.loading import EpochBatches

    return list(EpochBatches(size, size))


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
    loop.separate_statistics(model)
    for order in (0, 1):
        torch.testing.assert_close(model(clips, derivative_orders=(order,)).logits, expected[order])
    model.train()(clips, derivative_orders=(1,))
    model.eval()
    torch.testing.assert_close(model(clips).logits, expected[0])  # only the derivative's statistics have moved
    assert not torch.allclose(model(clips, derivative_orders=(1,)).logits, expected[1])


def test_a_run_that_is_stopped_resumes_exactly(recipe, monkeypatch):
    straight = recipe("straight", epochs=3)
    finetune(straight)
    stopped = recipe("stopped", epochs=3)
    save = loop.save_state

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_state", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(stopped)
    with pytest.raises(ValueError, match="holds a run already; add --resume"):
        finetune(stopped)
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        finetune(recipe("stopped", epochs=3, seed=1, resume=True))
    finetune(recipe("stopped", epochs=3, resume=True))
    expected, found = weights(straight.output_dir), weights(stopped.output_dir)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    rows = read_metrics(stopped.output_dir)
    assert rows == read_metrics(straight.output_dir)
    assert [row["epoch"] for row in rows] == [1, 2, 3]


def test_a_damaged_state_is_named(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "training_state.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"training_state.pt cannot be read; remove it"):
        finetune(recipe(resume=True))


def test_random_weights_and_a_finetuned_model_as_the_beginning(recipe, checkpoint, tmp_path):
    finetune(recipe(random_init=True, train="head", epochs=1))
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["random_init"] is True
    encoder = ViDiDiModel.from_pretrained(checkpoint).state_dict()
    after = weights(tmp_path / "run")
    assert not torch.equal(
        after["vididi.backbone.layer1.0.conv1.0.weight"], encoder["backbone.layer1.0.conv1.0.weight"]
    )
    # A classifier of other classes gives its encoder, and gets a new head.
    finetune(recipe("next", model=str(tmp_path / "run"), inputs=["both"], train="head", epochs=1))
    assert weights(tmp_path / "next")["classifier.weight"].shape == (3, 64)


def test_a_substitute_has_its_own_label(recipe, videos, broken_videos, tmp_path, monkeypatch):
    rows = load_video_dataset(videos, split="train")
    paths = [str(videos.parent / f"{index}.mp4") for index in range(12)]
    paths[4] = str(broken_videos["empty"])
    names = rows.features["label"].int2str(rows["label"])
    test = load_video_dataset(videos, split="test")
    monkeypatch.setattr(loop, "load_splits", lambda _: (with_video_column(paths, names), test))
    targets = []
    cross_entropy = F.cross_entropy
    monkeypatch.setattr(loop.F, "cross_entropy", lambda x, y, **k: targets.append(y) or cross_entropy(x, y, **k))
    batches = []
    collate = loop.ClipLoader.epoch
    monkeypatch.setattr(
        loop.ClipLoader, "epoch", lambda self, epoch: [batches.append(batch) or batch for batch in collate(self, epoch)]
    )
    result = finetune(recipe(epochs=1))
    assert result["protocol"]["failed_training_videos"] == [str(broken_videos["empty"])]
    for batch, target in zip(batches, targets):
        assert 4 not in batch["rows"].tolist()
        assert target.tolist() == [row % 3 for row in batch["rows"].tolist()]


def test_what_does_not_fit_is_named(recipe, videos, tmp_path):
    unlabelled = tmp_path / "list.csv"
    unlabelled.write_text(f"video,split\n{videos.parent}/0.mp4,train\n{videos.parent}/1.mp4,test\n")
    with pytest.raises(ValueError, match=r"the split 'train' .* has none"):
        finetune(recipe(dataset=str(unlabelled)))
    with pytest.raises(FileNotFoundError, match="no folder"):
        finetune(recipe(model=str(tmp_path / "nowhere")))
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        finetune(recipe(learning_rate=1e30, epochs=1, batch_size=2))
