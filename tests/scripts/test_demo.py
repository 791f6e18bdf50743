"""The demo from end to end, in two processes, on the smallest sets: with labels a table, without them pictures only."""

import json
import shutil
from pathlib import Path

import pytest

from scripts import demo
from studies.runs import NEIGHBORS_JSON
from vididi_hf.evaluation.results import METRICS_JSON, read_report
from vididi_hf.modeling_vididi import ViDiDiModel

RECIPE = {
    "dataset": "motion",
    "hidden_sizes": [4, 4, 8, 8],
    "depths": [1, 1, 1, 1],
    "num_frames": 4,
    "frame_stride": 1,
    "image_size": 32,
    "projector_sizes": [8, 8],
    "epochs": 9,
    "batch_size": 8,
    "evaluate_epochs": 1,
    "num_workers": 0,
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(RECIPE))
    return path


def test_labeled_videos_become_a_table_pictures_and_encoders(recipe, motion_root, tmp_path, capsys) -> None:
    folder = tmp_path / "demo"
    dataset = str(motion_root / "clips.csv")
    command = ["--dataset", dataset, "--recipe", str(recipe), "--epochs", "1", "--output_dir", str(folder)]
    demo.main([*command, "--num_clips", "2"])
    printed = capsys.readouterr().out
    table = (folder / "results.md").read_text()
    assert table in printed
    assert "3 runs, 3 at a time" in printed
    assert printed.count("-seed0: done") == 3
    assert table.startswith("| encoder | input | R@1 | R@5 | 20-NN |\n| --- | --- | --- | --- | --- |\n")
    results = json.loads((folder / "results.json").read_text())
    assert [run["arm"] for run in results["runs"]] == ["untrained", "baseline", "ViDiDi"]
    for run in results["runs"]:
        report = read_report(folder / f"{run['arm'].lower()}-seed0")
        assert run["metrics"]["label"] == report["metrics"]
        assert (report["dataset"], report["split"], report["seed"]) == (motion_root.name, "test", 0)
        assert report["random_init"] == (run["arm"] == "untrained")
        assert report["protocol"]["query_videos"] == 8
        for shown, metrics in run["metrics"]["label"].items():
            assert f"| {run['arm']} | {shown} | {100 * metrics['R@1']:.1f} |" in table
        assert sum(run["seconds"].values()) < results["seconds"]["all"]
    for name in ("curves", "derivatives", "retrieval"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    encoders = sorted(folder.glob("*-seed0/model.safetensors"))
    assert len(encoders) == 3
    assert ViDiDiModel.from_pretrained(folder / "vididi-seed0").config.hidden_sizes == (4, 4, 8, 8)
    # What is done is not done again, and what is no longer wanted is not passed off as it.
    before = [path.stat().st_mtime_ns for path in encoders]
    demo.main([*command, "--num_clips", "2", "--processes", "1"])
    demo.main([*command, "--num_clips", "2", "--arms", "untrained"])
    assert [path.stat().st_mtime_ns for path in encoders] == before
    with pytest.raises(SystemExit, match="2"):
        demo.main([*command, "--epochs", "2", "--processes", "1"])
    assert "epochs was 1 and is 2" in capsys.readouterr().err


@pytest.mark.slow  # three processes
def test_unlabeled_videos_have_neighbors_instead_of_a_table(motion_root, recipe, tmp_path, capsys) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, video in enumerate(sorted((motion_root / "train").rglob("*.mp4"))):
        shutil.copy(video, folder / f"{number}.mp4")
    command = ["--dataset", str(folder), "--recipe", str(recipe), "--output_dir", str(tmp_path / "demo")]
    demo.main([*command, "--epochs", "1", "--processes", "1"])
    assert "no labels" in capsys.readouterr().out
    encoder = tmp_path / "demo" / "vididi-seed0"
    assert not (encoder / METRICS_JSON).exists()
    neighbors = json.loads((encoder / NEIGHBORS_JSON).read_text())
    assert len(neighbors) == 16
    assert all(int(query) not in rows for query, rows in neighbors.items())
    assert (tmp_path / "demo" / "retrieval.png").exists()
