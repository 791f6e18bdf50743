"""The trainer: a step is what it should be, and a run that was stopped continues as if it had not been."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import Trainer

from vididi_hf import ViDiDiConfig, ViDiDiForVideoClassification, ViDiDiModel
from vididi_hf.data.loading import EpochBatches
from vididi_hf.evaluation.results import read_report
from vididi_hf.finetuning.models import load_classifier
from vididi_hf.finetuning.recognition import finetune
from vididi_hf.finetuning.trainer import FinetuningTrainer, SaveEpochs, find_checkpoint
from vididi_hf.pretraining.logging import read_metrics


def weights(folder):
    return ViDiDiForVideoClassification.from_pretrained(folder).state_dict()


def assert_same_weights(first, second):
    expected, found = weights(first.output_dir), weights(second.output_dir)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_step_is_sgd_on_smoothed_cross_entropy(recipe, checkpoint, monkeypatch):
    """One batch of all videos, the step written out: weight decay as PyTorch documents it."""
    seen = []
    forward = ViDiDiForVideoClassification.forward

    def spy(self, frames, **kwargs):
        if self.training:
            seen.append((frames.clone(), kwargs, {name: value.clone() for name, value in self.state_dict().items()}))
        return forward(self, frames, **kwargs)

    monkeypatch.setattr(ViDiDiForVideoClassification, "forward", spy)
    settings = {"epochs": 1, "batch_size": 12, "dropout": 0.0, "label_smoothing": 0.2, "weight_decay": 0.3}
    finetune(recipe(**settings, learning_rate=0.5, inputs=["derivative"]))
    ((frames, kwargs, before),) = seen
    assert kwargs == {"derivative_orders": (1,)}
    assert frames.shape == (12, 5, 3, 32, 32)
    encoder = ViDiDiModel.from_pretrained(checkpoint).state_dict()
    assert all(torch.equal(before[f"vididi.{name}"], tensor) for name, tensor in encoder.items())
    after = weights(recipe().output_dir)
    model = ViDiDiForVideoClassification.from_pretrained(recipe().output_dir)
    model.load_state_dict(before)
    (keys,) = EpochBatches(12, 12)
    smooth = 0.8 * F.one_hot(torch.tensor(keys)[:, 1] % 3, 3) + 0.2 / 3
    logits = model.train()(frames, derivative_orders=(1,)).logits
    (-(smooth * logits.log_softmax(1)).sum(1).mean()).backward()
    for name, parameter in model.named_parameters():
        decay = 0.3 * parameter if parameter.ndim > 1 else 0.0
        expected = parameter - 0.5 * 12 / 128 * (parameter.grad + decay)
        torch.testing.assert_close(after[name], expected.detach(), rtol=1e-3, atol=1e-5)


def test_every_step_has_its_learning_rate_and_its_input(recipe, monkeypatch):
    rates, orders = [], []
    compute_loss, forward = FinetuningTrainer.compute_loss, ViDiDiForVideoClassification.forward

    def spy(self, *arguments, **named):
        rates.append([group["lr"] for group in self.optimizer.param_groups])
        return compute_loss(self, *arguments, **named)

    def look(self, frames, derivative_orders):
        if self.training:
            orders.append((*derivative_orders, frames.shape[1]))
        return forward(self, frames, derivative_orders=derivative_orders)

    monkeypatch.setattr(FinetuningTrainer, "compute_loss", spy)
    monkeypatch.setattr(ViDiDiForVideoClassification, "forward", look)
    settings = {"epochs": 4, "batch_size": 4, "warmup_epochs": 1, "lr_milestones": [0.5, 0.75], "learning_rate": 3.2}
    finetune(recipe(**settings, train="head", inputs=["frames", "derivative"]))
    steps = [0, 1 / 3, 2 / 3, 1, 1, 1, *[0.1] * 3, *[0.01] * 3]
    assert rates == [pytest.approx([3.2 * 4 / 128 * share] * 2) for share in steps]
    assert orders == [(0, 4), (1, 5)] * 6  # also from epoch to epoch, which have three steps


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_run_that_is_stopped_resumes_exactly(stop_after, recipe, monkeypatch):
    """Bit for bit on a CPU, with dropout and momentum, inputs that take turns and an odd number of steps per epoch."""
    settings = {"epochs": 3, "batch_size": 4, "inputs": ["frames", "derivative"]}
    straight, stopped = recipe("straight", **settings), recipe("stopped", **settings)
    finetune(straight)

    def interrupt(self, args, state, control, **kwargs):
        if round(state.epoch) == stop_after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SaveEpochs, "on_save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            finetune(stopped)
    with pytest.raises(ValueError, match="already holds a run: add --resume"):
        finetune(stopped)
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        finetune(recipe("stopped", **settings, seed=1, resume=True))
    finetune(recipe("stopped", **settings, resume=True))
    assert_same_weights(straight, stopped)
    rows = read_metrics(stopped.output_dir)
    assert rows == read_metrics(straight.output_dir)
    assert [(row["epoch"], row["total_steps"]) for row in rows] == [(1, 3), (2, 6), (3, 9)]
    assert set(rows[0]) == {"epoch", "total_steps", "loss", "learning_rate", "train_accuracy"}


def test_checkpoints_are_few_complete_and_hold_nothing_to_unpickle(recipe, tmp_path):
    run = recipe(epochs=3, train="head", save_epochs=2)
    finetune(run)
    (newest,) = (tmp_path / "run" / "checkpoints").glob("checkpoint-*")
    assert newest == find_checkpoint(tmp_path / "run")
    assert newest.name == "checkpoint-6"  # the last epoch is always saved
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.load(newest / name, weights_only=True)
    # A kill while a checkpoint is written leaves no `trainer_state.json`: the one before it counts.
    unfinished = shutil.copytree(newest, newest.with_name("checkpoint-8"))
    (unfinished / "trainer_state.json").unlink()
    assert find_checkpoint(tmp_path / "run") == newest
    before = read_report(tmp_path / "run")
    finetune(recipe(epochs=3, train="head", resume=True))  # nothing left to train: only the test
    assert read_report(tmp_path / "run")["metrics"] == before["metrics"]
    assert "use_cache" not in json.loads((tmp_path / "run" / "config.json").read_text())


@pytest.mark.slow
def test_two_processes_train_as_one_does(recipe):
    """Halves of every batch, averaged gradients, the rate of the global batch. BatchNorm is frozen: it sees halves."""
    one, two = (recipe(f"run{size}", batch_size=size, train="head", dropout=0.0, learning_rate=2.0) for size in (6, 3))
    finetune(one)
    config = Path(f"{two.output_dir}.json")
    config.write_text(two.to_json(), encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = Path(__file__).parents[2] / "scripts" / "finetune.py"
    done = subprocess.run([*launcher, script, "--config", config], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("6 test videos, 3 classes") == 1
    expected, found = weights(one.output_dir), weights(two.output_dir)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)
    for first, second in zip(read_metrics(one.output_dir), read_metrics(two.output_dir)):
        assert first == pytest.approx(second, rel=1e-4)


def test_what_cannot_be_trained_is_named(recipe, checkpoint):
    with pytest.raises(FloatingPointError, match=r"the mean loss of epoch 1 is .*: lower learning_rate"):
        finetune(recipe(learning_rate=1e30, epochs=1, batch_size=2))
    assert find_checkpoint(Path(recipe().output_dir)) is None
    with pytest.raises(ImportError, match="the tracker wandb is not installed"):
        finetune(recipe(tracker="wandb"))
    with pytest.raises(ValueError, match="already holds a model: choose another output_dir"):
        finetune(recipe(output_dir=str(checkpoint)))


def test_a_signal_within_an_epoch_saves_and_resumes_exactly(recipe, monkeypatch):
    settings = {"epochs": 2, "batch_size": 4, "inputs": ["frames", "derivative"]}
    finetune(recipe("straight", **settings))
    compute_loss = FinetuningTrainer.compute_loss

    def signal_and_compute(self, *arguments, **named):
        if self.state.global_step == 3:  # the fourth step, the first of the second epoch
            os.kill(os.getpid(), signal.SIGINT)
        return compute_loss(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(FinetuningTrainer, "compute_loss", signal_and_compute)
        with pytest.raises(SystemExit) as stopped:
            finetune(recipe("stopped", **settings))
    assert stopped.value.code == 130
    assert find_checkpoint(Path(recipe("stopped").output_dir)).name == "checkpoint-4"
    finetune(recipe("stopped", **settings, resume=True))
    assert_same_weights(recipe("straight"), recipe("stopped"))
    rows, expected = (read_metrics(recipe(name).output_dir) for name in ("stopped", "straight"))
    assert rows[0] == expected[0]
    assert [(row["epoch"], row["total_steps"]) for row in rows] == [(1, 3), (2, 6)]


def test_a_signal_in_the_last_step_of_an_epoch_keeps_its_row(recipe, monkeypatch):
    compute_loss = FinetuningTrainer.compute_loss

    def signal_and_compute(self, *arguments, **named):
        if self.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return compute_loss(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(FinetuningTrainer, "compute_loss", signal_and_compute)
        with pytest.raises(SystemExit):
            finetune(recipe(train="head"))
    finetune(recipe(train="head", resume=True))
    rows = read_metrics(recipe().output_dir)
    assert [(row["epoch"], row["total_steps"]) for row in rows] == [(1, 2), (2, 4)]


def test_another_number_of_processes_or_steps_is_not_resumed(recipe):
    finetune(recipe(train="head"))
    size = Path(recipe().output_dir) / "checkpoints" / "size.json"
    assert json.loads(size.read_text()) == {"processes": 1, "steps per epoch": 2}
    size.write_text('{"processes": 2, "steps per epoch": 2}')
    with pytest.raises(ValueError, match="checkpoint-4 has 2 processes, and this run has 1: keep the videos and the"):
        finetune(recipe(train="head", resume=True))


def test_weights_that_are_not_finite_replace_no_checkpoint(recipe, monkeypatch):
    compute_loss = FinetuningTrainer.compute_loss

    def stop(self, *arguments, **named):
        if self.state.global_step > 0:
            self.classifier.classifier.weight.data.fill_(torch.nan)
        os.kill(os.getpid(), signal.SIGTERM)
        return compute_loss(self, *arguments, **named)

    monkeypatch.setattr(FinetuningTrainer, "compute_loss", stop)
    with pytest.raises(SystemExit):
        finetune(recipe(train="head", batch_size=4))
    with pytest.raises(FloatingPointError, match="the weights are not finite: lower learning_rate"):
        finetune(recipe(train="head", batch_size=4, resume=True))
    assert find_checkpoint(Path(recipe().output_dir)).name == "checkpoint-1"


def test_changed_videos_are_noticed_and_accepted_on_demand(recipe, videos, tmp_path):
    mine = shutil.copytree(videos.parent, tmp_path / "videos")
    settings = {"dataset": str(mine / "clips.csv"), "train": "head", "epochs": 1}
    finetune(recipe(**settings))
    with (mine / "3.mp4").open("ab") as file:
        file.write(b"longer")
    settings |= {"resume": True}
    for _ in range(2):  # the refusal does not renew the list
        with pytest.raises(ValueError, match=r"checkpoint-2: 1 is of another size \(3.mp4\); .*--accept_changed_data"):
            finetune(recipe(**settings))
    finetune(recipe(**settings, accept_changed_data=True))
    finetune(recipe(**settings))


def test_a_second_process_ends_at_once(recipe, held):
    with pytest.raises(BlockingIOError, match=f"in use by process {held.pid} on"):
        finetune(recipe("held"))


@pytest.mark.parametrize("names", [["a", "b", "c"], ["c", "a", "b"], ["a", "b", "d"], ["a", "b"]])
def test_a_loaded_classifier_keeps_its_classes_by_name(names, recipe, tmp_path, capsys):
    sizes = {"hidden_sizes": (4, 4, 8, 8), "depths": (1, 1, 1, 1)}
    old = ViDiDiForVideoClassification(ViDiDiConfig(**sizes, id2label=dict(enumerate("abc"))))
    old.save_pretrained(tmp_path / "old")
    recipe = recipe(model=str(tmp_path / "old"))
    new = load_classifier(ViDiDiForVideoClassification, recipe, names)
    same = [
        torch.equal(new.classifier.weight[i], old.classifier.weight["abc".index(n)])
        for i, n in enumerate(names)
        if n in "abc"
    ]
    assert same == ([True] * 3 if sorted(names) == ["a", "b", "c"] else [False] * 2)
    assert ("note: the checkpoint has" in capsys.readouterr().out) == (names != ["a", "b", "c"])


def test_a_full_disk_leaves_no_half_written_checkpoint(tmp_path, monkeypatch):
    def fails(self, model, trial):
        folder = tmp_path / "checkpoint-7"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise RuntimeError("unexpected pos 8384 vs 8278")  # torch's error of a full disk

    monkeypatch.setattr(Trainer, "_save_checkpoint", fails)
    trainer = object.__new__(FinetuningTrainer)
    trainer.args = SimpleNamespace(output_dir=str(tmp_path))
    trainer.state, trainer.classifier = SimpleNamespace(global_step=7), torch.nn.Linear(2, 2)
    with pytest.raises(OSError, match=r"cannot write checkpoint \S+checkpoint-7 .*continue with --resume"):
        trainer._save_checkpoint(None, None)
    assert list(tmp_path.iterdir()) == []
