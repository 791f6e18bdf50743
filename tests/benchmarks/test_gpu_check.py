"""The GPU check: a small run on a CPU, parts that fail, its page, and the modules that it needs."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import page, runner
from benchmarks.gpu.evidence import score
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.runner import Context, Part, run_parts
from benchmarks.gpu.videos import evaluation_batch, load, prepare, training_batch
from vididi_hf.data.augment import ClipAugmentation
from vididi_hf.data.seeding import seeded_random
from vididi_hf.evaluation.knn import knn_probabilities, nearest_neighbors

ROOT = Path(__file__).parents[2]
# Python imports this file when it starts.
WITHOUT_LIBRARIES = """
    import sys

    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("datasets", "evaluate", "torchcodec"):
                raise ModuleNotFoundError(name)

    sys.meta_path.insert(0, Missing())
"""


@pytest.mark.slow  # two minutes of processor time, and its parts have time limits
def test_a_small_run_needs_no_data_set_library_and_fills_the_page(motion_root: Path, tmp_path: Path) -> None:
    prepared = tmp_path / "videos.npz"
    details = prepare(motion_root, prepared)
    assert (details["videos"], details["size"], len(details["classes"])) == (24, [64, 64], 8)
    result = tmp_path / "gpu-2000-01-01.json"
    command = [sys.executable, ROOT / "benchmarks" / "gpu_check.py", "--device", "cpu", "--minutes", "5"]
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(WITHOUT_LIBRARIES), encoding="utf-8")
    (tmp_path / "pandas.py").write_text("raise ModuleNotFoundError('pandas')", encoding="utf-8")  # torch looks for it
    done = subprocess.run(
        [*command, "--prepared", prepared, "--output", result],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(result.read_text(encoding="utf-8"))
    status = {name: part["status"] for name, part in report["parts"].items()}
    assert list(status) == [part.name for part in PARTS]
    assert {name for name, found in status.items() if found != "ok"} == {"half"}
    assert all(part["rows"] or part["reason"] for part in report["parts"].values())
    assert report["parts"]["tests"]["rows"]["tests"].keys() == {"skipped", "ok"}
    assert report["parts"]["evidence"]["rows"]["videos"]["data"] == motion_root.name
    text = page.render(page.newest_result(tmp_path))
    assert "Not run yet" not in text
    assert all(part.title in text for part in PARTS)


def test_the_page_shows_the_newest_result() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.render(page.newest_result())


def test_parts_that_fail_hang_or_crash_do_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
        import os, time

        def fails(context):
            yield "first", {"value": 1}
            raise ValueError("as expected")

        def exceeds(context):
            yield "row", {"value": 2, "bound": 1, "ok": False}

        def hangs(context):
            yield "first", {"value": 1}
            time.sleep(600)

        def crashes(context):
            yield os._exit(3)

        def works(context):
            yield "seen", {"value": sorted(context.results)}
    """
    (tmp_path / "strange_parts.py").write_text(textwrap.dedent(program), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(runner, "SHORTEST_LIMIT", 1)
    monkeypatch.setattr(runner, "GRACE", 1)
    names = ["fails", "exceeds", "hangs", "works", "crashes"]
    parts = [Part(name, name, f"strange_parts:{name}", 1) for name in names]
    report: dict = {"machine": {}, "parts": {}}
    saved: list[str] = []
    run_parts(parts, Context("cpu", ""), 3, report, lambda: saved.append(json.dumps(report)))
    found = report["parts"]
    assert [found[name]["status"] for name in names] == ["failed", "failed", "stopped", "ok", "died"]
    assert found["fails"]["reason"].startswith("ValueError: as expected (")
    assert found["exceeds"]["reason"] == "beyond the bound: row"
    assert found["hangs"]["rows"] == {"first": {"value": 1}}
    assert found["works"]["rows"]["seen"]["value"] == sorted(names[:4])
    assert len(saved) == 4 + len(parts)  # after each row, and after each part
    assert report["machine"]["torch"] == torch.__version__


def test_without_time_left_parts_are_skipped() -> None:
    report: dict = {"machine": {}, "parts": {}}
    run_parts(PARTS, Context("cpu", ""), 0, report, lambda: None)
    assert {part["reason"] for part in report["parts"].values()} == {"no time left"}


def test_videos_are_packed_and_read_as_they_are(motion_root: Path, tmp_path: Path) -> None:
    from torchcodec.decoders import VideoDecoder

    prepare(motion_root, tmp_path / "videos.npz")
    videos = load(tmp_path / "videos.npz", "cpu")
    rows = (motion_root / "clips.csv").read_text(encoding="utf-8").splitlines()[1:]
    for index in (0, 20):
        name, _, split, _ = rows[index].split(",")
        expected = VideoDecoder(motion_root / name)[::3].float()
        difference, swapped = (
            (one.float() - expected).abs().mean() for one in (videos.frames[index], videos.frames[index].flip(1))
        )
        assert difference < 8  # two lossy encodings, of which JPEG keeps half of the colors
        assert swapped > 2 * difference  # red is not blue
        assert bool(videos.is_train[index]) == (split == "train")
    # A crop of the whole frame without other changes is a plain resize.
    still = ClipAugmentation(
        64, area=(1, 1), ratio=(1, 1), flip_probability=0, jitter_probability=0, gray_probability=0
    )
    clips = training_batch(videos, [0, 3], still, 4, 1, seeded_random("test"))
    assert clips.shape == (2, 2, 5, 3, 64, 64)
    assert all((videos.frames[0] == frame).all(dim=(1, 2, 3)).any() for frame in clips[0].flatten(0, 1))
    assert evaluation_batch(videos, [0, 3], 56, 4, 3).shape == (2, 3, 4, 3, 56, 56)


def test_scores_are_those_of_the_evaluators() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(80, 8, generator=generator), torch.randint(4, (80,), generator=generator)
    is_train = torch.arange(80) < 60
    queries, gallery = features[~is_train], features[is_train]
    nearest = nearest_neighbors(queries, gallery, 20)
    votes = knn_probabilities(queries, gallery, nearest, labels[is_train], 4).argmax(dim=1)
    first = labels[is_train][nearest[:, 0]]
    expected = [(found == labels[~is_train]).float().mean().item() for found in (first, votes)]
    assert list(score(features, labels, is_train).values()) == pytest.approx(expected)
