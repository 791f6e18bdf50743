"""Whole runs on a dozen tiny videos: what a step does, and what a run writes."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoVideoProcessor

from tests.pretraining.runs import BATCH, STEPS, TOTAL, VIDEOS, assert_same, final_state, interrupt, make_recipe
from vididi_hf import ViDiDiModel
from vididi_hf.evaluation.retrieval import RetrievalEvaluator, load_retrieval_splits
from vididi_hf.finetuning.recipe import FinetuningRecipe
from vididi_hf.finetuning.trainer import training_arguments
from vididi_hf.pretraining import loop
from vididi_hf.pretraining.checkpoints import list_checkpoints
from vididi_hf.pretraining.logging import read_metrics
from vididi_hf.pretraining.loop import pretrain
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.setup import save_untrained


def test_a_run_ends_with_an_encoder_that_from_pretrained_loads(videos, tmp_path, monkeypatch) -> None:
    trained: list[ViDiDiForPreTraining] = []
    build = loop.build_model
    monkeypatch.setattr(loop, "build_model", lambda *args: trained.append(build(*args)) or trained[0])
    recipe = make_recipe(videos, tmp_path / "run")
    initial = {
        name: value.clone() for name, value in build(recipe, loop.build_accelerator(recipe)).state_dict().items()
    }
    folder = pretrain(recipe)
    assert folder == tmp_path / "run"
    loaded = ViDiDiModel.from_pretrained(folder)
    assert_same(dict(loaded.state_dict()), dict(trained[0].vididi.state_dict()))
    assert all(
        not torch.equal(value, initial[name])
        for name, value in trained[0].named_parameters()
        if name.startswith(("vididi", "objective"))
    )
    assert loaded.config.derivative_orders == (0, 1, 2)
    processor = AutoVideoProcessor.from_pretrained(folder)
    assert (processor.num_frames, processor.frame_stride) == (4, 1)
    assert processor.crop_size == {"height": 32, "width": 32}
    assert PretrainingRecipe(**PretrainingRecipe.read_values(folder / "recipe.json")) == recipe
    assert [path.name for path in list_checkpoints(folder)] == ["step-00000006"]


def test_each_epoch_writes_one_row(whole_runs: Callable[[str], Path]) -> None:
    terms = {"vicreg": {"invariance", "variance", "covariance"}, "byol": {"similarity"}}
    terms["simclr"] = {"alignment", "uniformity", "accuracy"}
    for objective, names in terms.items():
        rows = read_metrics(whole_runs(objective))
        assert [(row["epoch"], row["total_steps"]) for row in rows] == [(1, STEPS), (2, TOTAL)]
        for row in rows:
            measured = {f"{name}/" for name in ("rank_me", "std", "alignment", "uniformity")}
            assert {name[:-2] for name in row if "/" in name} == measured
            assert {name for name in row if "/" not in name} == names | {
                *("epoch", "total_steps", "loss", "learning_rate", "videos_per_second")
            }
            assert math.isfinite(row["loss"])
            assert row["videos_per_second"] > 0


def test_same_seed_same_weights_and_another_seed_others(videos, whole_runs, tmp_path) -> None:
    expected = final_state(whole_runs("vicreg"))
    torch.rand(5)  # the state of the global generator must not matter
    assert_same(final_state(pretrain(make_recipe(videos, tmp_path / "again"))), expected)
    other = final_state(pretrain(make_recipe(videos, tmp_path / "other", seed=1)))
    assert not torch.equal(other["encoder"]["backbone.stem.0.weight"], expected["encoder"]["backbone.stem.0.weight"])


def test_broken_videos_do_not_stop_training_and_are_named_at_the_end(videos, tmp_path, capsys) -> None:
    folder = tmp_path / "some broken"
    for path in (videos / "train").rglob("*.mp4"):
        folder.mkdir(exist_ok=True)
        (folder / path.name).symlink_to(path)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video")
    recipe = make_recipe(folder, tmp_path / "run", batch_size=7, save_epochs=1, num_workers=1)
    interrupt(recipe, 3)
    progress = json.loads((list_checkpoints(tmp_path / "run")[0] / "training_state" / "progress.json").read_text())
    assert {Path(source).name for source in progress["broken"]} == {"empty.mp4", "text.mp4"}
    capsys.readouterr()
    pretrain(replace(recipe, resume=True))
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("2 videos could not be decoded and were replaced by others:")
    assert [line.split(":")[0] for line in lines[start + 1 :]] == [
        f"  {folder / 'empty.mp4'}",
        f"  {folder / 'text.mp4'}",
    ]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Of each training step the clips as loaded and the views as the model gets them."""
    pairs: list[tuple[Tensor, Tensor]] = []
    derivative_views, forward = loop.derivative_views, ViDiDiForPreTraining.forward
    loaded: list[Tensor] = []

    def remember(clips: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        loaded.append(clips)
        return derivative_views(clips, *args, **kwargs)

    def spy(self: ViDiDiForPreTraining, pixel_values: Tensor, *args: Any) -> Any:
        pairs.append((loaded[-1], pixel_values))
        return forward(self, pixel_values, *args)

    monkeypatch.setattr(loop, "derivative_views", remember)
    monkeypatch.setattr(ViDiDiForPreTraining, "forward", spy)
    return pairs


def normalized_derivative(clips: Tensor, order: int, frames: int) -> Tensor:
    """The paper's differences, written out, of (batch, frames, 3, height, width) bytes."""
    mean = torch.tensor([0.43216, 0.394666, 0.37645])[:, None, None]
    std = torch.tensor([0.22803, 0.22145, 0.216989])[:, None, None]
    v = (clips.double() / 255 - mean) / std
    differences = {
        0: lambda n: v[:, n],
        1: lambda n: v[:, n + 1] - v[:, n],
        2: lambda n: v[:, n + 2] - 2 * v[:, n + 1] + v[:, n],
    }
    return torch.stack([differences[order](n) for n in range(frames)], dim=1)


@pytest.mark.parametrize("name", ["paper", "baseline", "fixed-pair", "paper-per-step"])
def test_the_model_sees_the_scheduled_derivative_of_each_clip(name, videos, tmp_path, seen) -> None:
    recipe = make_recipe(videos, tmp_path, schedule=name, epochs=4, seed=2)
    pretrain(recipe)
    schedule = recipe.build_order_schedule()
    assert len(seen) == 4 * STEPS
    pairs = set()
    for place, (clips, views) in enumerate(seen):
        assert clips.dtype == torch.uint8
        assert clips.shape == (BATCH, 2, 4 + schedule.max_order, 3, 32, 32)
        orders = schedule(*divmod(place, STEPS))
        expected = torch.stack([normalized_derivative(clips[:, i], order, 4) for i, order in enumerate(orders)], dim=1)
        torch.testing.assert_close(views.double(), expected, rtol=0, atol=1e-5)
        # As 3-D convolutions take it without a copy: (batch, channels, frames, height, width), channels last in memory.
        inputs = [view.transpose(1, 2) for view in views.unbind(dim=1)]
        assert all(clip.is_contiguous(memory_format=torch.channels_last_3d) for clip in inputs)
        pairs.add(orders)
    assert pairs == {"baseline": {(0, 0)}, "fixed-pair": {(0, 1)}}.get(name, pairs)
    assert {order for pair in pairs for order in pair} == set(range(schedule.max_order + 1))


def test_the_two_clips_of_a_video_differ_and_no_batch_comes_twice(videos, tmp_path, seen) -> None:
    pretrain(make_recipe(videos, tmp_path, order_schedule="baseline"))
    clips = [clips for clips, _ in seen]
    assert all(not torch.equal(batch[:, 0], batch[:, 1]) for batch in clips)
    assert all(not torch.equal(clips[i], clips[j]) for i in range(TOTAL) for j in range(i))


def test_learning_rate_rises_for_a_tenth_of_the_run_and_falls_along_a_cosine(videos, tmp_path, monkeypatch) -> None:
    rates = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD,
        "step",
        lambda self, *args: rates.append([group["lr"] for group in self.param_groups]) or step(self, *args),
    )
    recipe = make_recipe(
        videos, tmp_path, optimizer="sgd", learning_rate=0.64, epochs=10, warmup_epochs=5, final_learning_rate=0.01
    )
    pretrain(recipe)
    total, warmup, peak = 10 * STEPS, STEPS, 0.64 * BATCH / 256
    expected = [peak * k / warmup for k in range(warmup)]
    for k in range(warmup, total):
        cosine = (1 + math.cos(math.pi * (k - warmup) / (total - warmup))) / 2
        expected.append(peak * (0.01 + 0.99 * cosine))
    assert rates == [pytest.approx([rate, rate]) for rate in expected]
    # A row holds the rate of the epoch's last step.
    rows = read_metrics(tmp_path)
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected[STEPS - 1 :: STEPS])


def test_target_follows_with_a_decay_that_rises_to_one(videos, tmp_path, monkeypatch) -> None:
    decays = []
    update = ViDiDiForPreTraining.update_target

    def spy(self: ViDiDiForPreTraining, decay: float) -> None:
        before = [parameter.clone() for parameter in self.target.parameters()]
        update(self, decay)
        online = [*self.vididi.parameters(), *self.objective.projector.parameters()]
        for target, old, now in zip(self.target.parameters(), before, online):
            torch.testing.assert_close(target, decay * old + (1 - decay) * now)
        decays.append(decay)

    monkeypatch.setattr(ViDiDiForPreTraining, "update_target", spy)
    pretrain(make_recipe(videos, tmp_path, "byol", ema_momentum=0.9))
    assert decays == pytest.approx([1 - 0.1 * (math.cos(math.pi * k / TOTAL) + 1) / 2 for k in range(TOTAL)])


def gradient_norms(recipe: PretrainingRecipe, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    norms = []
    step = torch.optim.SGD.step

    def spy(self: torch.optim.SGD, *args: Any) -> Any:
        gradients = [parameter.grad for group in self.param_groups for parameter in group["params"]]
        norms.append(math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients)))
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", spy)
        pretrain(recipe)
    return norms


def test_gradients_are_clipped_to_the_norm_asked_for(videos, tmp_path, monkeypatch) -> None:
    plain = make_recipe(videos, tmp_path / "plain", optimizer="sgd", learning_rate=0.1, epochs=1)
    free = gradient_norms(plain, monkeypatch)
    limit = sorted(free)[1]  # some are above it, one is below
    clipped = gradient_norms(replace(plain, output_dir=str(tmp_path / "clipped"), max_grad_norm=limit), monkeypatch)
    assert max(free) > 1.01 * limit
    assert all(norm <= limit * (1 + 1e-5) for norm in clipped)
    assert clipped[0] == pytest.approx(min(free[0], limit), rel=1e-4)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_precision_that_a_cpu_lacks_is_said_to_be_full(
    precision, videos, whole_runs, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    folder = pretrain(make_recipe(videos, tmp_path, mixed_precision=precision))
    assert f"{precision} needs a GPU: training in full precision" in capsys.readouterr().out
    assert_same(final_state(folder), final_state(whole_runs("vicreg")))


def test_activation_checkpointing_changes_no_weight(videos, whole_runs, tmp_path) -> None:
    folder = pretrain(make_recipe(videos, tmp_path, activation_checkpointing=True))
    assert_same(final_state(folder)["published"], final_state(whole_runs("vicreg"))["published"])


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_memory_layout_is_the_recipes(channels_last: bool, videos: Path, tmp_path: Path) -> None:
    recipe = make_recipe(videos, tmp_path, channels_last=channels_last)
    weight = loop.build_model(recipe, loop.build_accelerator(recipe)).vididi.backbone.layer2[0].conv1[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d) == channels_last
    assert weight.is_contiguous() != channels_last


def test_evaluation_adds_recalls_to_the_rows_and_does_not_touch_training(videos, whole_runs, tmp_path) -> None:
    folder = pretrain(make_recipe(videos, tmp_path, evaluate_epochs=2))
    assert_same(final_state(folder), final_state(whole_runs("vicreg")))
    first, second = read_metrics(folder)
    assert "R@1" not in first
    assert 0 <= second["R@1"] <= second["R@5"] <= second["R@10"] == 1
    # The published encoder has the same score, also next to other inputs.
    splits, processor = load_retrieval_splits(videos), AutoVideoProcessor.from_pretrained(folder)
    evaluator = RetrievalEvaluator(*splits[:2], processor, num_clips=1, group_column=splits.group_column)
    found = evaluator(ViDiDiModel.from_pretrained(folder)).metrics["frames"]
    assert {name: second[name] for name in found} == found
    longer = pretrain(make_recipe(videos, tmp_path / "longer", evaluate_epochs=2, epochs=3))
    assert ["R@1" in row for row in read_metrics(longer)] == [False, True, True]  # the last epoch always


@pytest.mark.parametrize("options", [{"gradient_accumulation": 2}, {"chunk_size": 2}])
def test_a_batch_in_parts_is_another_run_for_vicreg_and_the_same_step_count(
    options, videos, whole_runs, tmp_path
) -> None:
    folder = pretrain(make_recipe(videos, tmp_path, **options))
    state, whole = final_state(folder), final_state(whole_runs("vicreg"))
    assert state["progress"] == whole["progress"]
    weight = "backbone.stem.0.weight"  # BatchNorm sees other batches
    assert not torch.equal(state["encoder"][weight], whole["encoder"][weight])
    with pytest.raises(ValueError, match=f"{next(iter(options))} was {next(iter(options.values()))} and is"):
        pretrain(make_recipe(videos, tmp_path, epochs=3, resume=True))


def test_nothing_is_measured_or_warned_of_unless_asked_and_ill(videos, whole_runs, tmp_path, capsys) -> None:
    folder = pretrain(make_recipe(videos, tmp_path, monitor_steps=0))
    assert not any("/" in name for row in read_metrics(folder) for name in row)
    assert_same(final_state(folder), final_state(whole_runs("vicreg")))
    pretrain(make_recipe(videos, tmp_path / "measured", monitor_steps=1))
    assert "warning" not in capsys.readouterr().err


def test_evaluation_does_without_a_test_split_but_not_without_labels(videos, tmp_path, capsys) -> None:
    for folder, evaluated in (("train", True), ("train/a", False)):  # folders within it are labels; there are none in a
        recipe = make_recipe(videos / folder, tmp_path / folder, epochs=1, evaluate_epochs=1)
        assert ["R@1" in row for row in read_metrics(pretrain(recipe))] == [evaluated]
        assert ("has no labels: skipping evaluation" in capsys.readouterr().out) != evaluated


def test_the_untrained_encoder_is_the_one_that_training_starts_from(videos: Path, tmp_path: Path) -> None:
    folder = save_untrained(make_recipe(videos, tmp_path / "untrained", seed=3))
    untrained = ViDiDiModel.from_pretrained(folder)
    resting = pretrain(make_recipe(videos, tmp_path / "run", seed=3, optimizer="sgd", learning_rate=0, epochs=1))
    rested = ViDiDiModel.from_pretrained(resting)
    assert_same(dict(rested.named_parameters()), dict(untrained.named_parameters()))
    assert not torch.equal(rested.backbone.stem[1].running_mean, untrained.backbone.stem[1].running_mean)
    assert AutoVideoProcessor.from_pretrained(folder).to_dict() == AutoVideoProcessor.from_pretrained(resting).to_dict()
    assert PretrainingRecipe(**PretrainingRecipe.read_values(folder / "recipe.json")).seed == 3


def test_tracker_is_written_or_missed(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    pretrain(make_recipe(videos, tmp_path / "run", tracker="tensorboard", epochs=1))
    assert [path.stat().st_size > 0 for path in (tmp_path / "run").rglob("events.out.tfevents.*")].count(True) >= 1
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(ImportError, match="tracker 'trackio' is not installed: pip install trackio"):
        pretrain(make_recipe(videos, tmp_path / "other", tracker="trackio"))


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ACCELERATE_USE_FSDP", "true", "configured for FSDP .*, but checkpoints need whole parameters"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "configured for DEEPSPEED"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "configured for PARALLELISM_CONFIG"),
        ("ACCELERATE_DYNAMO_BACKEND", "inductor", "ACCELERATE_DYNAMO_BACKEND=inductor would compile the model"),
    ],
)
def test_the_environment_does_not_change_training(variable, value, message, videos, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        pretrain(make_recipe(videos, tmp_path / "run"))
    with pytest.raises(ValueError, match=message):
        training_arguments(FinetuningRecipe(model="x", output_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
    monkeypatch.delenv(variable)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    arguments = training_arguments(FinetuningRecipe(model="x", output_dir=str(tmp_path / "run")))
    assert arguments.mixed_precision == "no"


def test_a_data_set_smaller_than_a_batch_is_an_error(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="12 videos, fewer than one global batch: batch_size 13 × 1 processes"):
        pretrain(make_recipe(videos, tmp_path, batch_size=13))


def test_one_step_is_forward_backward_update_and_moving_average(videos, tmp_path, seen, monkeypatch) -> None:
    """A run of a single step against the same things done one by one."""
    recipe = make_recipe(
        videos, tmp_path, "byol", epochs=1, batch_size=VIDEOS, optimizer="sgd", learning_rate=6.4, weight_decay=0.0
    )
    models: list[ViDiDiForPreTraining] = []
    build = loop.build_model

    def build_twice(*args: Any) -> ViDiDiForPreTraining:
        model = build(*args)
        models.extend([model, copy.deepcopy(model)])
        return model

    monkeypatch.setattr(loop, "build_model", build_twice)
    pretrain(recipe)
    trained, by_hand = models
    loss = by_hand.train()(seen[0][1], recipe.build_order_schedule()(0, 0)).loss
    assert read_metrics(tmp_path)[0]["loss"] == pytest.approx(loss.item())
    loss.backward()
    online = [*by_hand.vididi.parameters(), *by_hand.objective.projector.parameters()]
    with torch.no_grad():
        for parameter in by_hand.parameters():
            if parameter.grad is not None:
                parameter.sub_(6.4 * VIDEOS / 256 * parameter.grad)
        for slow, fast in zip(by_hand.target.parameters(), online):
            slow.copy_(0.99 * slow + 0.01 * fast)
    torch.testing.assert_close(dict(trained.state_dict()), dict(by_hand.state_dict()))
