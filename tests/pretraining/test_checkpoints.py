"""Checkpoints: whole or absent, few, loadable by everybody, and clear about what is wrong with them."""

import errno
import hashlib
import json
import os
import resource
import shutil
import signal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoVideoProcessor

from vididi_hf import ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.pretraining.checkpoints import (
    DamagedCheckpointError,
    Progress,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.pretraining.recipe import PretrainingRecipe

SIZES = {"hidden_sizes": [4, 4, 8, 8], "depths": [1, 1, 1, 1], "projector_sizes": [8, 4], "num_frames": 4}
RECIPE = PretrainingRecipe(objective="byol", image_size=32, keep_checkpoints=2, **SIZES)
PROCESSOR = ViDiDiVideoProcessor(num_frames=4, frame_stride=2, crop_size=32, size=36)
PROGRESS = Progress(epoch=3, step=2, total_steps=17, steps_per_epoch=5, broken={"a.mp4": "empty", "b.mp4": "no video"})


def build(seed: int) -> ViDiDiForPreTraining:
    """A model of which nothing is as initialized, running statistics and target included."""
    torch.manual_seed(seed)
    model = ViDiDiForPreTraining(RECIPE.model_config()).to(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(torch.randn_like(tensor) if tensor.is_floating_point() else 3)
    return model


def training_state(seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    buffers = {index: {"momentum_buffer": torch.randn(3, 2, generator=generator), "step": seed} for index in range(2)}
    return {"optimizer": {"state": buffers, "param_groups": [{"lr": 0.5, "params": [0, 1]}]}}


def save(folder: Path, seed: int = 0, total_steps: int = 17) -> Path:
    progress = Progress(**(vars(PROGRESS) | {"total_steps": total_steps}))
    return save_checkpoint(folder, build(seed), PROCESSOR, RECIPE, progress, training_state(seed))


def assert_holds(checkpoint: Path, seed: int, total_steps: int) -> None:
    """Whether a checkpoint is whole: read in full, it is what `save` was given."""
    model = build(seed=1000)
    progress, training = load_checkpoint(checkpoint, model, RECIPE)
    assert progress == Progress(**(vars(PROGRESS) | {"total_steps": total_steps}))
    torch.testing.assert_close(dict(model.state_dict()), dict(build(seed).state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(training, training_state(seed), rtol=0, atol=0)


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with one checkpoint. Copy it, do not write to it."""
    folder = tmp_path_factory.mktemp("run")
    save(folder)
    return folder


def test_everything_comes_back(whole: Path) -> None:
    (checkpoint,) = list_checkpoints(whole)
    assert checkpoint == whole / "checkpoints" / "step-00000017"
    assert_holds(checkpoint, seed=0, total_steps=17)
    assert [path.name for path in (whole / "checkpoints").iterdir()] == ["step-00000017"]


def test_encoder_processor_and_recipe_are_what_from_pretrained_and_config_load(whole: Path) -> None:
    checkpoint = whole / "checkpoints" / "step-00000017"
    expected = build(0).vididi
    for loaded in (ViDiDiModel.from_pretrained(checkpoint), AutoModel.from_pretrained(checkpoint)):
        assert type(loaded) is ViDiDiModel
        torch.testing.assert_close(dict(loaded.state_dict()), dict(expected.state_dict()), rtol=0, atol=0)
    processor = AutoVideoProcessor.from_pretrained(checkpoint)
    assert type(processor) is ViDiDiVideoProcessor
    assert processor.to_dict() == PROCESSOR.to_dict()
    assert PretrainingRecipe(**PretrainingRecipe.read_values(checkpoint / "recipe.json")) == RECIPE


def test_the_best_is_kept_beside_the_newest(tmp_path: Path) -> None:
    progress = Progress(**vars(PROGRESS))
    for step, score in ((5, 0.25), (10, 0.75), (15, 0.5), (20, 0.75), (25, 0.25)):
        progress.total_steps = step
        assert progress.note_score(score) == (step in (5, 10))  # the first of equal ones
        save_checkpoint(tmp_path, build(0), PROCESSOR, RECIPE, progress, training_state(0))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000010", "step-00000020", "step-00000025"]
    loaded, _ = load_checkpoint(list_checkpoints(tmp_path)[-1], build(1), RECIPE)
    assert (loaded.best_score, loaded.best_step) == (0.75, 10)
    progress.total_steps = 30
    assert progress.note_score(1.0)
    save_checkpoint(tmp_path, build(0), PROCESSOR, RECIPE, progress, training_state(0))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000025", "step-00000030"]


STAGES = [
    "pretraining.checkpoints.save_encoder",
    "pretraining.checkpoints.save_file",
    "pretraining.checkpoints.torch.save",
    "files._flush",
    "files.os.replace",
]


@pytest.mark.parametrize("stage", STAGES)
def test_a_failure_at_any_stage_leaves_the_earlier_checkpoint_and_nothing_else(
    stage, whole, tmp_path, monkeypatch
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    before = content(run)

    def full_disk(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"vididi_hf.{stage}", full_disk)
        with pytest.raises(OSError, match="No space left on device"):
            save(run, seed=1, total_steps=18)
    assert content(run) == before
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000017"]
    save(run, seed=1, total_steps=18)  # and it can be made good
    assert_holds(list_checkpoints(run)[-1], seed=1, total_steps=18)


@pytest.mark.parametrize("limit", [1000, 3000, 20_000])
def test_a_disk_that_takes_no_more_bytes_leaves_the_last_good_checkpoint_and_says_so(limit, whole, tmp_path) -> None:
    """The kernel refuses to let files grow beyond the limit, whichever library writes them."""
    run = shutil.copytree(whole, tmp_path / "run")
    before = content(run)
    assert max(map(len, before.values())) > 20_000
    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, previous[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write checkpoint .*step-00000018 .* free some space and continue"):
            save(run, seed=1, total_steps=18)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, previous)
        signal.signal(signal.SIGXFSZ, handler)
    assert content(run) == before
    assert_holds(list_checkpoints(run)[-1], seed=0, total_steps=17)


def die(*args: Any, **kwargs: Any) -> None:
    os._exit(9)


def lose_a_file_and_die(folder: Path, **kwargs: Any) -> None:
    (folder / "model.safetensors").unlink()
    os._exit(9)


@pytest.mark.parametrize(
    ("stage", "killer", "left"),
    [
        ("files._flush", die, ["step-00000017", "step-00000018"]),
        ("files.os.replace", die, ["step-00000017", "step-00000018"]),
        ("files.shutil.rmtree", lose_a_file_and_die, ["step-00000018", "step-00000019"]),  # of the checkpoint too many
    ],
)
def test_a_kill_leaves_whole_checkpoints_and_its_rest_is_cleaned_up(
    stage, killer, left, whole, tmp_path, monkeypatch
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    save(run, seed=1, total_steps=18)
    with monkeypatch.context() as patch:
        patch.setattr(f"vididi_hf.{stage}", killer)
        process = get_context("fork").Process(target=save, args=(run,), kwargs={"seed": 2, "total_steps": 19})
        process.start()
        process.join(timeout=60)
    assert process.exitcode == 9
    assert [path.name for path in list_checkpoints(run)] == left
    for checkpoint, step in zip(list_checkpoints(run), [int(name[-2:]) for name in left]):
        assert_holds(checkpoint, seed=step - 17, total_steps=step)
    assert len(list((run / "checkpoints").iterdir())) == 3  # the rest of the killed process
    save(run, seed=3, total_steps=20)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [left[-1], "step-00000020"]


FILES = [
    "model.safetensors",
    "recipe.json",
    "training_state/objective.safetensors",
    "training_state/optimizer.pt",
    "training_state/progress.json",
    "video_preprocessor_config.json",
    "config.json",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "garbage", "one bit"])
def test_damage_is_named_and_leaves_the_model_alone(name: str, damage: str, whole: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(list_checkpoints(whole)[0], tmp_path / "step-00000017")
    file = checkpoint / name
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        flipped = data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]
        half = data[: len(data) // 2]
        damaged = {"truncated": half, "empty": b"", "garbage": bytes(range(256)) * 8, "one bit": flipped}
        file.write_bytes(damaged[damage])
    model, untouched = build(7), build(7)
    problem = "is missing" if damage == "missing" else "has changed"
    with pytest.raises(DamagedCheckpointError, match=f"step-00000017 is damaged: {name} {problem}"):
        load_checkpoint(checkpoint, model, RECIPE)
    torch.testing.assert_close(dict(model.state_dict()), dict(untouched.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("content", [None, "", "[]", "{}"])
def test_a_checkpoint_that_cannot_be_verified_is_damaged(content: str | None, whole: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(list_checkpoints(whole)[0], tmp_path / "step-00000017")
    fingerprints = checkpoint / "training_state" / "files.json"
    fingerprints.unlink()
    if content is not None:
        fingerprints.write_text(content)
    with pytest.raises(DamagedCheckpointError, match=r"files\.json (is missing|cannot be read)"):
        load_checkpoint(checkpoint, build(7), RECIPE)


def test_hashes_are_sha256_of_every_file(whole: Path) -> None:
    (checkpoint,) = list_checkpoints(whole)
    noted = json.loads((checkpoint / "training_state" / "files.json").read_text())
    files = {name: data for name, data in content(checkpoint).items() if name != "training_state/files.json"}
    assert noted == {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in files.items()}


def test_nothing_is_unpickled_that_could_run_code(whole: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(list_checkpoints(whole)[0], tmp_path / "step-00000017")

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "was here"),)

    pickled = checkpoint / "training_state" / "optimizer.pt"
    torch.save({"optimizer": Malicious()}, pickled)
    noted = checkpoint / "training_state" / "files.json"  # which whoever plants the file adapts
    digest = [pickled.stat().st_size, hashlib.sha256(pickled.read_bytes()).hexdigest()]
    noted.write_text(json.dumps(json.loads(noted.read_text()) | {"training_state/optimizer.pt": digest}))
    with pytest.raises(DamagedCheckpointError, match=r"optimizer\.pt cannot be read"):
        load_checkpoint(checkpoint, build(0), RECIPE)
    assert not (tmp_path / "was here").exists()


def test_another_network_or_run_is_refused(whole: Path) -> None:
    (checkpoint,) = list_checkpoints(whole)
    other = PretrainingRecipe(**(vars(RECIPE) | {"order_schedule": "baseline"}))
    with pytest.raises(ValueError, match="order_schedule was 'paper' and is 'baseline'") as error:
        load_checkpoint(checkpoint, build(0), other)
    assert not isinstance(error.value, DamagedCheckpointError)
    config = RECIPE.model_config()
    config.hidden_sizes = (4, 4, 8, 16)
    with pytest.raises(ValueError, match="has the weights of another network") as error:
        load_checkpoint(checkpoint, ViDiDiForPreTraining(config), RECIPE)
    assert not isinstance(error.value, DamagedCheckpointError)
