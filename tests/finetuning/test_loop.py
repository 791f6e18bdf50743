"""The loop of fine-tuning: a step is what it should be, and a run that was stopped goes on as if it had not been."""

import pytest
import torch
import torch.nn.functional as F

from vididi_hf import ViDiDiModel
from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.data.loading import EpochBatches
from vididi_hf.finetuning import loop
from vididi_hf.finetuning.recognition import finetune
from vididi_hf.pretraining.logging import read_metrics


def weights(folder):
    return ViDiDiForVideoClassification.from_pretrained(folder).state_dict()


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
    order = torch.cat([torch.tensor(keys)[:, 1] for keys in EpochBatches(12, 12)])
    labels = order % 3
    logits = model.train()(frames, derivative_orders=(1,)).logits
    smooth = 0.8 * F.one_hot(labels, 3) + 0.2 / 3
    (-(smooth * logits.log_softmax(1)).sum(1).mean()).backward()
    rate = 0.5 * 12 / 128
    for name, parameter in model.named_parameters():
        decay = 0.3 * parameter if parameter.ndim > 1 else 0.0
        expected = parameter - rate * (parameter.grad + decay)
        torch.testing.assert_close(after[name], expected.detach(), rtol=1e-3, atol=1e-5)


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


@pytest.mark.skipif(torch.accelerator.is_available(), reason="is about machines without a GPU")
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_for_gpus(precision, recipe, capsys):
    finetune(recipe("full", epochs=1, train="head"))
    finetune(recipe("half", epochs=1, train="head", mixed_precision=precision))
    assert f"{precision} needs a GPU: training in full precision" in capsys.readouterr().out
    expected, found = (weights(recipe(name).output_dir) for name in ("full", "half"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_loss_that_is_not_finite_ends_the_run(recipe):
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        finetune(recipe(learning_rate=1e30, epochs=1, batch_size=2))
