"""Whole runs on a dozen tiny videos. This file is also the program that two processes run in the last tests."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch import Tensor
from torchcodec.encoders import VideoEncoder
from transformers import AutoVideoProcessor

from vididi_hf import ViDiDiModel
from vididi_hf.data.preparation.options import PreparationOptions
from vididi_hf.data.preparation.prepare import prepare_dataset
from vididi_hf.pretraining import loop
from vididi_hf.pretraining.compilation import compile_encoders
from vididi_hf.pretraining.logging import Reporter
from vididi_hf.pretraining.loop import pretrain
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.pretraining.monitors import read_metrics
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.run_state import list_checkpoints

VIDEOS, BATCH, EPOCHS = 12, 4, 2
STEPS = VIDEOS // BATCH
TOTAL = EPOCHS * STEPS
OPTIMIZERS = {"vicreg": ("lars", 4.0), "byol": ("adamw", 0.1), "simclr": ("sgd", 1.0)}


class Interrupted(Exception):
    """Stands for whatever ends a run before its time."""


def write_videos(folder: Path) -> Path:
    """Twelve videos to train on and four to ask with, of two classes, 12 frames of 48 × 48 pixels."""
    for index in range(VIDEOS + 4):
        path = folder / ("train" if index < VIDEOS else "test") / "ab"[index % 2] / f"{index:02}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(index)
        blocks = torch.randint(256, (12, 3, 6, 6), dtype=torch.uint8, generator=generator)
        frames = blocks.repeat_interleave(8, -1).repeat_interleave(8, -2)
        VideoEncoder(frames, frame_rate=12).to_file(path, extra_options={"threads": "1"})
    return folder


def make_recipe(videos: Path, output_dir: Path, objective: str = "vicreg", **options: Any) -> PretrainingRecipe:
    optimizer, learning_rate = OPTIMIZERS[objective]
    defaults = {
        "hidden_sizes": [4, 4, 8, 8],
        "depths": [1, 1, 1, 1],
        "projector_sizes": [8, 8],
        "num_frames": 4,
        "frame_stride": 1,
        "image_size": 32,
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "num_workers": 0,
        "warmup_epochs": 0,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "progress": False,
    }
    return PretrainingRecipe(
        **{**defaults, "dataset": str(videos), "output_dir": str(output_dir), "objective": objective, **options}
    )


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(autouse=True)
def _own_accelerate_state() -> Iterator[None]:
    # accelerate keeps one state per process, and refuses another precision in it.
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def whole_runs(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an uninterrupted run with an objective, made when first asked for. Do not write to it."""
    folders: dict[str, Path] = {}

    def run(objective: str) -> Path:
        if objective not in folders:
            AcceleratorState._reset_state(reset_partial_state=True)
            folders[objective] = pretrain(make_recipe(videos, tmp_path_factory.mktemp(objective), objective))
        return folders[objective]

    return run


def final_state(folder: Path) -> dict[str, Any]:
    """Everything that a finished run has learnt: encoder, heads, target, optimizer."""
    newest = list_checkpoints(folder)[-1]
    state = newest / "training_state"
    progress = json.loads((state / "progress.json").read_text())
    return {
        "published": load_file(folder / "model.safetensors"),
        "encoder": load_file(newest / "model.safetensors"),
        "objective": load_file(state / "objective.safetensors"),
        "optimizer": torch.load(state / "optimizer.pt", weights_only=True),
        "progress": [progress["epoch"], progress["step"], progress["total_steps"]],
    }


def assert_same(left: Any, right: Any) -> None:
    """Bit by bit."""
    torch.testing.assert_close(left, right, rtol=0, atol=0)


def stop_after(step: int, patch: pytest.MonkeyPatch, what: str = "step") -> None:
    """Interrupts a run when it has reported so many steps, or the epoch that ends with them."""
    report = getattr(Reporter, what)

    def report_and_stop(self: Reporter, *args: Any) -> None:
        report(self, *args)
        if self.progress.total_steps == step:
            raise Interrupted

    patch.setattr(Reporter, what, report_and_stop)


def without_speed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "videos_per_second"} for row in rows]


def test_a_run_ends_with_an_encoder_that_from_pretrained_loads(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
            measured = {f"{name}/" for name in ("rank_me", "deviation", "alignment", "uniformity")}
            assert {name[:-2] for name in row if "/" in name} == measured
            assert {name for name in row if "/" not in name} == names | {
                *("epoch", "total_steps", "loss", "learning_rate", "videos_per_second")
            }
            assert math.isfinite(row["loss"])
            assert row["videos_per_second"] > 0


@pytest.mark.parametrize("objective", OPTIMIZERS)
@pytest.mark.parametrize(
    ("options", "stop", "found"),
    [
        ({"save_steps": 2}, (5, "step"), "step-00000004"),  # in the middle of an epoch
        ({"save_epochs": 1}, (4, "step"), "step-00000003"),  # at its edge
        ({"save_steps": 3, "save_epochs": 9}, (3, "epoch"), None),  # after an epoch's last step, before its checkpoint
    ],
)
def test_a_run_that_is_stopped_and_resumed_ends_as_if_it_had_not_been(
    objective: str,
    options: dict[str, int],
    stop: tuple[int, str],
    found: str | None,
    videos: Path,
    whole_runs: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = whole_runs(objective)
    recipe = make_recipe(videos, tmp_path, objective, **options)
    with monkeypatch.context() as patch:
        stop_after(stop[0], patch, stop[1])
        with pytest.raises(Interrupted):
            pretrain(recipe)
    assert [path.name for path in list_checkpoints(tmp_path)][-1:] == ([found] if found else [])
    pretrain(replace(recipe, resume=True))
    assert_same(final_state(tmp_path), final_state(expected))
    assert without_speed(read_metrics(tmp_path)) == without_speed(read_metrics(expected))


def test_workers_and_a_second_stop_change_nothing(
    videos: Path, whole_runs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(videos, tmp_path, "byol", num_workers=2, save_steps=1, resume=True)
    for stop in (2, 5):
        with monkeypatch.context() as patch:
            stop_after(stop, patch)
            with pytest.raises(Interrupted):
                pretrain(recipe)
        assert len(list_checkpoints(tmp_path)) == min(stop - 1, recipe.keep_checkpoints)
    pretrain(recipe)
    assert_same(final_state(tmp_path), final_state(whole_runs("byol")))
    assert [row["epoch"] for row in read_metrics(tmp_path)] == [1, 2]


def test_a_streamed_run_that_is_stopped_within_an_epoch_ends_as_if_it_had_not_been(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = tmp_path / "shards"
    prepare_dataset(
        PreparationOptions(
            dataset=str(videos), output_dir=str(shards), videos_per_group=2, num_workers=0, progress=False
        )
    )
    options: dict[str, Any] = {"streaming": True, "shuffle_window": 6}
    expected = pretrain(make_recipe(shards, tmp_path / "whole", **options))
    assert [row["total_steps"] for row in read_metrics(expected)] == [STEPS, TOTAL]
    recipe = make_recipe(shards, tmp_path / "stopped", save_steps=1, num_workers=1, **options)
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        with pytest.raises(Interrupted):
            pretrain(recipe)
    assert list_checkpoints(tmp_path / "stopped")[-1].name == "step-00000004"
    pretrain(replace(recipe, resume=True))
    assert_same(final_state(tmp_path / "stopped"), final_state(expected))


def test_same_seed_same_weights_and_another_seed_others(
    videos: Path, whole_runs: Callable[[str], Path], tmp_path: Path
) -> None:
    expected = final_state(whole_runs("vicreg"))
    torch.rand(5)  # the state of the global generator must not matter
    assert_same(final_state(pretrain(make_recipe(videos, tmp_path / "again"))), expected)
    other = final_state(pretrain(make_recipe(videos, tmp_path / "other", seed=1)))
    assert not torch.equal(other["encoder"]["backbone.stem.0.weight"], expected["encoder"]["backbone.stem.0.weight"])


def test_a_finished_run_resumed_changes_nothing_and_can_be_made_longer(
    videos: Path, whole_runs: Callable[[str], Path], tmp_path: Path
) -> None:
    recipe = make_recipe(videos, tmp_path, resume=True)
    pretrain(recipe)
    expected, rows = final_state(whole_runs("vicreg")), read_metrics(tmp_path)
    pretrain(recipe)
    assert_same(final_state(tmp_path), expected)
    assert read_metrics(tmp_path) == rows
    pretrain(replace(recipe, epochs=3))
    assert [row["epoch"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    assert list_checkpoints(tmp_path)[-1].name == "step-00000009"


def test_a_used_folder_is_refused_and_left_alone(videos: Path, tmp_path: Path) -> None:
    recipe = make_recipe(videos, tmp_path, epochs=1)
    pretrain(recipe)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        ValueError, match="holds a run already; add --resume to continue it, or choose another output_dir"
    ):
        pretrain(recipe)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_another_run_is_not_resumed(videos: Path, tmp_path: Path) -> None:
    recipe = make_recipe(videos, tmp_path, epochs=1, resume=True)
    pretrain(recipe)
    with pytest.raises(ValueError, match="schedule was 'paper' and is 'baseline'"):
        pretrain(replace(recipe, order_schedule="baseline"))
    videos_of_one_class = videos / "train" / "a"
    with pytest.raises(ValueError, match="comes from a run of 3 steps an epoch, and this one has 2"):
        pretrain(replace(recipe, epochs=2, dataset=str(videos_of_one_class)))


def test_damaged_checkpoints_are_skipped_for_older_ones(
    videos: Path,
    whole_runs: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = make_recipe(videos, tmp_path, save_steps=1, keep_checkpoints=3, resume=True)
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        with pytest.raises(Interrupted):
            pretrain(recipe)
    older, old, newest = list_checkpoints(tmp_path)
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (old / "training_state" / "optimizer.pt").unlink()
    capsys.readouterr()
    pretrain(recipe)
    said = capsys.readouterr().out
    assert f"skipped a checkpoint: {newest} is no whole checkpoint: model.safetensors is not what was written" in said
    assert f"skipped a checkpoint: {old} is no whole checkpoint: training_state/optimizer.pt is missing" in said
    assert f"resumed from {older}: 0 epochs and 2 steps are done" in said
    assert_same(final_state(tmp_path), final_state(whole_runs("vicreg")))
    for checkpoint in list_checkpoints(tmp_path):
        (checkpoint / "recipe.json").unlink()
    with pytest.raises(ValueError, match=r"none of the checkpoints in .*checkpoints can be read"):
        pretrain(recipe)


def test_a_loss_that_explodes_ends_the_run_before_anything_is_saved(videos: Path, tmp_path: Path) -> None:
    recipe = make_recipe(videos, tmp_path, optimizer="sgd", learning_rate=1e30, save_epochs=1, evaluate_epochs=1)
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step 2, with derivative orders") as error:
        pretrain(recipe)
    files = sorted(str(path) for path in (videos / "train").rglob("*.mp4"))
    named = str(error.value).split("the videos of this step were ")[1].split(", ")
    assert len(named) == BATCH
    assert set(named) < set(files)
    assert list_checkpoints(tmp_path) == []
    assert read_metrics(tmp_path) == []
    assert not (tmp_path / "model.safetensors").exists()


def test_a_loss_that_explodes_is_not_saved_within_an_epoch_either(videos: Path, tmp_path: Path) -> None:
    recipe = make_recipe(videos, tmp_path, optimizer="sgd", learning_rate=1e30, save_steps=1)
    with pytest.raises(FloatingPointError, match="at step 2, "):
        pretrain(recipe)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000001"]


def test_broken_videos_do_not_stop_training_and_are_named_at_the_end(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "some broken"
    for path in (videos / "train").rglob("*.mp4"):
        folder.mkdir(exist_ok=True)
        (folder / path.name).symlink_to(path)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video")
    recipe = make_recipe(folder, tmp_path / "run", batch_size=7, save_epochs=1, num_workers=1)
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Interrupted):
            pretrain(recipe)
    progress = json.loads((list_checkpoints(tmp_path / "run")[0] / "training_state" / "progress.json").read_text())
    assert {Path(source).name for source in progress["broken"]} == {"empty.mp4", "text.mp4"}
    capsys.readouterr()
    pretrain(replace(recipe, resume=True))
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("videos that could not be decoded, replaced by others: 2")
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
def test_the_model_sees_the_scheduled_derivative_of_each_clip(
    name: str, videos: Path, tmp_path: Path, seen: list[tuple[Tensor, Tensor]]
) -> None:
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


def test_the_two_clips_of_a_video_differ_and_no_batch_comes_twice(
    videos: Path, tmp_path: Path, seen: list[tuple[Tensor, Tensor]]
) -> None:
    pretrain(make_recipe(videos, tmp_path, order_schedule="baseline"))
    clips = [clips for clips, _ in seen]
    assert all(not torch.equal(batch[:, 0], batch[:, 1]) for batch in clips)
    assert all(not torch.equal(clips[i], clips[j]) for i in range(TOTAL) for j in range(i))


def test_learning_rate_rises_for_a_tenth_of_the_run_and_falls_along_a_cosine(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_target_follows_with_a_decay_that_rises_to_one(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_gradients_are_clipped_to_the_norm_asked_for(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_recipe(videos, tmp_path / "plain", optimizer="sgd", learning_rate=0.1, epochs=1)
    free = gradient_norms(plain, monkeypatch)
    limit = sorted(free)[1]  # some are above it, one is below
    clipped = gradient_norms(replace(plain, output_dir=str(tmp_path / "clipped"), max_grad_norm=limit), monkeypatch)
    assert max(free) > 1.01 * limit
    assert all(norm <= limit * (1 + 1e-5) for norm in clipped)
    assert clipped[0] == pytest.approx(min(free[0], limit), rel=1e-4)


def test_the_scale_of_the_loss_is_part_of_a_checkpoint(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with fp16 on a GPU, whose scaler accelerate leaves out on a CPU; the scale doubles every other step."""
    build = loop.build_accelerator

    def build_with_scaler(recipe: PretrainingRecipe) -> Any:
        accelerator = build(recipe)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        return accelerator

    monkeypatch.setattr(loop, "build_accelerator", build_with_scaler)
    recipe = make_recipe(videos, tmp_path / "run", save_steps=1, resume=True)
    whole = final_state(pretrain(replace(recipe, output_dir=str(tmp_path / "whole"))))
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(Interrupted):
            pretrain(recipe)
    pretrain(recipe)
    assert_same(final_state(tmp_path / "run"), whole)
    state = torch.load(list_checkpoints(tmp_path / "run")[-1] / "training_state" / "optimizer.pt", weights_only=True)
    assert state["scaler"]["scale"] == 8.0 * 2 ** (TOTAL // 2)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_precision_that_a_cpu_lacks_is_said_to_be_full(
    precision: str,
    videos: Path,
    whole_runs: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    folder = pretrain(make_recipe(videos, tmp_path, mixed_precision=precision))
    assert f"{precision} needs a GPU: training in full precision" in capsys.readouterr().out
    assert_same(final_state(folder), final_state(whole_runs("vicreg")))


def test_activation_checkpointing_changes_no_weight(
    videos: Path, whole_runs: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = pretrain(make_recipe(videos, tmp_path, activation_checkpointing=True))
    assert_same(final_state(folder)["published"], final_state(whole_runs("vicreg"))["published"])


@pytest.mark.slow  # test_compilation.py trains a step, and looks at the names of what is saved
def test_a_compiled_run_is_stopped_and_resumed_like_others(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and differentiated as if to be compiled."""
    compiled: list[ViDiDiForPreTraining] = []

    def trace(model: ViDiDiForPreTraining) -> None:
        compiled.append(model)
        compile_encoders(model, backend="aot_eager")

    monkeypatch.setattr(loop, "compile_encoders", trace)
    options: dict[str, Any] = {"order_schedule": "fixed-pair", "evaluate_epochs": 1}
    plain = pretrain(make_recipe(videos, tmp_path / "plain", **options))
    options["torch_compile"] = True
    expected = pretrain(make_recipe(videos, tmp_path / "whole", **options))
    recipe = make_recipe(videos, tmp_path / "stopped", save_steps=2, **options)
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        with pytest.raises(Interrupted):
            pretrain(recipe)
    pretrain(replace(recipe, resume=True))
    assert len(compiled) == 3
    assert_same(final_state(tmp_path / "stopped"), final_state(expected))
    found, wanted = (final_state(folder)["published"] for folder in (expected, plain))
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_memory_layout_is_the_recipes(channels_last: bool, videos: Path, tmp_path: Path) -> None:
    recipe = make_recipe(videos, tmp_path, channels_last=channels_last)
    weight = loop.build_model(recipe, loop.build_accelerator(recipe)).vididi.backbone.layer2[0].conv1[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d) == channels_last
    assert weight.is_contiguous() != channels_last


def test_evaluation_adds_recalls_to_the_rows_and_does_not_touch_training(
    videos: Path, whole_runs: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = pretrain(make_recipe(videos, tmp_path, evaluate_epochs=2))
    assert_same(final_state(folder), final_state(whole_runs("vicreg")))
    first, second = read_metrics(folder)
    assert "R@1" not in first
    assert 0 <= second["R@1"] <= second["R@5"] <= second["R@10"] == 1
    longer = pretrain(make_recipe(videos, tmp_path / "longer", evaluate_epochs=2, epochs=3))
    assert ["R@1" in row for row in read_metrics(longer)] == [False, True, True]  # the last epoch always


def test_the_checkpoint_of_the_best_evaluation_is_kept(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.75, 0.75, 0.25])
    monkeypatch.setattr(loop, "evaluate", lambda *args: {"R@1": next(scores)})
    recipe = make_recipe(videos, tmp_path, epochs=4, save_epochs=9, keep_checkpoints=1, resume=True)
    with monkeypatch.context() as patch:
        stop_after(11, patch)  # of 12: the best one is remembered by a run that goes on
        with pytest.raises(Interrupted):
            pretrain(recipe)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000006"]
    scores = iter([0.75, 0.25])
    pretrain(recipe)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000006", "step-00000012"]


@pytest.mark.parametrize("options", [{"gradient_accumulation": 2}, {"chunk_size": 2}])
def test_a_batch_in_parts_is_another_run_for_vicreg_and_the_same_step_count(
    options: dict[str, int], videos: Path, whole_runs: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = pretrain(make_recipe(videos, tmp_path, **options))
    state, whole = final_state(folder), final_state(whole_runs("vicreg"))
    assert state["progress"] == whole["progress"]
    weight = "backbone.stem.0.weight"  # BatchNorm sees other batches
    assert not torch.equal(state["encoder"][weight], whole["encoder"][weight])
    with pytest.raises(ValueError, match=f"{next(iter(options))} was {next(iter(options.values()))} and is"):
        pretrain(make_recipe(videos, tmp_path, epochs=3, resume=True))


def test_collapse_is_warned_of_once_with_step_and_files(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(videos, tmp_path, "byol", order_schedule="baseline", monitor_steps=1, optimizer="sgd")
    recipe = replace(recipe, learning_rate=0.0)
    build = loop.build_model

    def build_collapsed(*args: Any) -> ViDiDiForPreTraining:
        model = build(*args)
        with torch.no_grad():  # BatchNorm that gives all videos the same, before a linear layer
            model.objective.projector[1].weight.zero_()
            model.objective.projector[1].bias.fill_(1)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "build_model", build_collapsed)
        pretrain(recipe)
    warning, *others = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert others == []
    assert "all videos have nearly the same embedding (deviation 0" in warning
    assert "at step 1, with derivative orders (0, 0); the videos of this step were " in warning
    assert warning.count(".mp4") == BATCH
    assert read_metrics(tmp_path)[0]["deviation/00"] == pytest.approx(0, abs=1e-5)


def test_nothing_is_measured_or_warned_of_unless_asked_and_ill(
    videos: Path, whole_runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pretrain(make_recipe(videos, tmp_path, monitor_steps=0))
    assert not any("/" in name for row in read_metrics(folder) for name in row)
    assert_same(final_state(folder), final_state(whole_runs("vicreg")))
    pretrain(make_recipe(videos, tmp_path / "measured", monitor_steps=1))
    assert "warning" not in capsys.readouterr().err


def test_evaluation_does_without_a_test_split_but_not_without_labels(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, evaluated in (("train", True), ("train/a", False)):  # folders within it are labels; there are none in a
        recipe = make_recipe(videos / folder, tmp_path / folder, epochs=1, evaluate_epochs=1)
        assert ["R@1" in row for row in read_metrics(pretrain(recipe))] == [evaluated]
        assert ("has no labels: nothing is evaluated" in capsys.readouterr().out) != evaluated


def test_the_untrained_encoder_is_the_one_that_training_starts_from(videos: Path, tmp_path: Path) -> None:
    folder = loop.save_untrained(make_recipe(videos, tmp_path / "untrained", seed=3))
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
    with (
        pytest.warns(UserWarning, match="no supported trackers"),  # accelerate's own, which would go on
        pytest.raises(ImportError, match="tracker 'trackio' is not installed: pip install trackio"),
    ):
        pretrain(make_recipe(videos, tmp_path / "other", tracker="trackio"))


def test_parameters_are_not_spread_over_processes(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(ValueError, match="configured for FSDP, but checkpoints are written from whole parameters"):
        pretrain(make_recipe(videos, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_data_set_smaller_than_a_batch_is_an_error(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="12 videos, fewer than one global batch: batch_size 13 × 1 processes"):
        pretrain(make_recipe(videos, tmp_path, batch_size=13))


# Two processes


def run_one_process(folder: Path) -> None:
    """What each of two processes does: a whole run, and one that is stopped and resumed. It writes down what it saw."""
    seen: dict[str, Any] = {"orders": [], "indices": []}
    views, collate = loop.derivative_views, loop.ClipLoader.epoch

    def spy_views(clips: Tensor, orders: Any, **kwargs: Any) -> Tensor:
        seen["orders"].append(orders)
        return views(clips, orders, **kwargs)

    def spy_epoch(self: Any, epoch: int, first_step: int = 0) -> Iterator[Any]:
        for batch in collate(self, epoch, first_step):
            seen["indices"].append((epoch, batch["indices"].tolist()))
            yield batch

    loop.derivative_views, loop.ClipLoader.epoch = spy_views, spy_epoch
    recipe = make_recipe(folder / "videos", folder / "whole", "byol", batch_size=BATCH // 2, evaluate_epochs=2)
    trained: list[ViDiDiForPreTraining] = []
    build = loop.build_model
    loop.build_model = lambda *args: trained.append(build(*args)) or trained[-1]
    pretrain(recipe)
    torch.save(seen | {"model": trained[0].state_dict()}, folder / f"rank{os.environ['RANK']}.pt")

    stopped = replace(recipe, output_dir=str(folder / "stopped"), save_steps=2, resume=True)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(5, patch)
        try:
            pretrain(stopped)
        except Interrupted:
            print("interrupted")
    pretrain(stopped)

    asked = replace(recipe, output_dir=str(folder / "asked"), resume=True)
    report = Reporter.step

    def report_and_ask(self: Reporter, *args: Any) -> None:
        report(self, *args)
        if self.progress.total_steps == 2 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reporter, "step", report_and_ask)
        try:
            pretrain(asked)
        except SystemExit as error:
            print(f"left with {error.code} at {list_checkpoints(asked.output_dir)[-1].name}")
    pretrain(asked)


@pytest.fixture(scope="module")
def two_processes(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of `run_one_process` in two processes; one video of rank 1 is broken."""
    folder = tmp_path_factory.mktemp("two")
    for path in videos.rglob("*.mp4"):
        link = folder / "videos" / path.relative_to(videos)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    (folder / "videos" / "train" / "a" / "00.mp4").unlink()
    (folder / "videos" / "train" / "a" / "00.mp4").touch()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [*launcher, __file__, str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return folder, run.stdout


def test_two_processes_see_the_same_orders_and_share_the_videos(two_processes: tuple[Path, str]) -> None:
    folder, _ = two_processes
    first, second = (torch.load(folder / f"rank{rank}.pt") for rank in range(2))
    schedule = make_recipe(folder, folder).build_order_schedule()
    assert first["orders"] == second["orders"] == [schedule(*divmod(step, STEPS)) for step in range(TOTAL)]
    for epoch in range(EPOCHS):
        indices = [index for rank in (first, second) for at, batch in rank["indices"] if at == epoch for index in batch]
        assert sorted(indices) == list(range(VIDEOS))


def test_two_processes_end_with_the_same_weights_which_are_the_published_ones(two_processes: tuple[Path, str]) -> None:
    folder, _ = two_processes
    first, second = (torch.load(folder / f"rank{rank}.pt")["model"] for rank in range(2))
    parameters = [name for name, value in first.items() if "running" not in name and "num_batches" not in name]
    assert_same({name: first[name] for name in parameters}, {name: second[name] for name in parameters})
    published = load_file(folder / "whole" / "model.safetensors")
    assert_same(published, {name: first[f"vididi.{name}"].contiguous() for name in published})


def test_two_processes_resume_exactly_and_report_for_both(two_processes: tuple[Path, str]) -> None:
    folder, output = two_processes
    assert output.count("interrupted") == 2
    assert output.count("resumed from") == 2  # in each of two runs, only one of them talks
    assert_same(final_state(folder / "stopped"), final_state(folder / "whole"))
    for run in ("whole", "stopped"):
        rows = read_metrics(folder / run)
        assert [(row["epoch"], row["total_steps"]) for row in rows] == [(1, STEPS), (2, TOTAL)]
        assert "R@1" in rows[1]
    # Once at the end of each of the three runs that ended, unless the one that was asked to had met it, too.
    assert output.count("videos that could not be decoded, replaced by others: 1") in (3, 4)
    assert output.count("a/00.mp4: ") in (3, 4)


def test_when_one_process_is_asked_to_stop_both_save_the_same_step_and_leave(two_processes: tuple[Path, str]) -> None:
    folder, output = two_processes
    assert output.count("left with 143 at step-00000002") == 2
    assert output.count("asked to stop: saved after 2 steps") == 1
    assert_same(final_state(folder / "asked"), final_state(folder / "whole"))


def test_a_run_of_two_processes_is_not_resumed_by_one(two_processes: tuple[Path, str]) -> None:
    folder, _ = two_processes
    recipe = PretrainingRecipe(**PretrainingRecipe.read_values(folder / "whole" / "recipe.json"))
    with pytest.raises(ValueError, match=r"comes from a run of 3 steps an epoch, and this one has 6: .* must stay"):
        pretrain(replace(recipe, resume=True))


if __name__ == "__main__":
    run_one_process(Path(sys.argv[1]))
