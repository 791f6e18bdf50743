import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vididi_hf.comparison import ARMS, NEIGHBOURS_JSON, format_table, plan, run_arm, run_arms, summarise
from vididi_hf.comparison_plots import plot_comparison
from vididi_hf.evaluation.results import METRICS_JSON, read_report
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.pretraining.loop import build_model, save_untrained
from vididi_hf.pretraining.recipe import PretrainingRecipe

REPOSITORY = Path(__file__).parents[1]


def tiny_recipe(dataset: Path, **options: object) -> PretrainingRecipe:
    settings = {
        "dataset": str(dataset),
        "hidden_sizes": [4, 4, 8, 8],
        "depths": [1, 1, 1, 1],
        "num_frames": 4,
        "frame_stride": 1,
        "image_size": 32,
        "projector_sizes": [8, 8],
        "epochs": 1,
        "batch_size": 8,
        "evaluate_epochs": 1,
        "num_workers": 0,
    }
    return PretrainingRecipe(**{**settings, **options})


def test_arms_differ_in_schedule_seed_and_folder_only(motion_root: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(motion_root / "clips.csv")
    arms = plan(recipe, seeds=[3, 5], output_dir=tmp_path)
    assert [(arm.name, arm.recipe.seed) for arm in arms] == [(name, seed) for seed in (3, 5) for name in ARMS]
    assert len({arm.folder for arm in arms}) == len(arms)
    for arm in arms:
        assert arm.recipe.schedule == ARMS[arm.name]
        changed = {key for key, value in vars(arm.recipe).items() if value != getattr(recipe, key)}
        assert changed <= {"schedule", "seed", "output_dir", "resume", "progress"}


def test_untrained_arm_is_what_training_starts_from(motion_root: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(motion_root / "clips.csv", seed=4, output_dir=str(tmp_path / "encoder"))
    untrained = ViDiDiModel.from_pretrained(save_untrained(recipe)).state_dict()

    class OnCPU:
        num_processes, device = 1, torch.device("cpu")

    torch.manual_seed(4)
    started = build_model(recipe, OnCPU()).vididi.state_dict()
    assert all(torch.equal(untrained[name], started[name]) for name in started)


def test_comparison_from_files_to_table_and_pictures(motion_root: Path, tmp_path: Path) -> None:
    arms = plan(tiny_recipe(motion_root / "clips.csv"), seeds=[0], output_dir=tmp_path)
    results = run_arms(arms, num_clips=2, processes=2)
    assert [result["arm"] for result in results] == list(ARMS)
    for arm, result in zip(arms, results):
        assert ViDiDiModel.from_pretrained(arm.folder).config.hidden_sizes == (4, 4, 8, 8)
        report = read_report(arm.folder)
        assert (report["dataset"], report["split"], report["seed"]) == (motion_root.name, "test", 0)
        assert report["random_init"] == (arm.name == "untrained")
        assert report["protocol"]["query_videos"] == 8
        assert report["metrics"] == result["metrics"]
        assert set(result["metrics"]) == {"frames", "derivative", "both"}
        assert sorted(map(int, result["neighbours"])) == list(range(8))
        assert all(0 <= row < 16 for rows in result["neighbours"].values() for row in rows)
    table = format_table(summarise(results))
    assert all(table.count(f"| {name} |") == 3 for name in ARMS)
    for picture in plot_comparison(arms, results, tmp_path):
        assert picture.read_bytes().startswith(b"\x89PNG")
    # What is done is not done again.
    before = (arms[1].folder / "model.safetensors").stat().st_mtime_ns
    assert run_arm(arms[1], num_clips=2, threads=1) == results[1]
    assert (arms[1].folder / "model.safetensors").stat().st_mtime_ns == before


def test_demo_on_unlabelled_videos_shows_neighbours_instead_of_a_table(motion_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, video in enumerate(sorted((motion_root / "train").rglob("*.mp4"))):
        shutil.copy(video, folder / f"{number}.mp4")
    config = tmp_path / "recipe.json"
    config.write_text(json.dumps({k: v for k, v in vars(tiny_recipe(folder)).items() if k != "dataset"}))
    command = ["--dataset", str(folder), "--config", str(config), "--output_dir", str(tmp_path / "demo")]
    run = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "demo.py"), *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "no labels" in run.stdout
    arm = tmp_path / "demo" / "vididi-seed0"
    assert not (arm / METRICS_JSON).exists()
    neighbours = json.loads((arm / NEIGHBOURS_JSON).read_text())
    assert len(neighbours) == 16
    assert all(int(query) not in rows for query, rows in neighbours.items())
    assert (tmp_path / "demo" / "retrieval.png").exists()


def test_summary_is_mean_and_sample_deviation_over_seeds() -> None:
    results = [
        {"arm": "ViDiDi", "seed": seed, "metrics": {"frames": {"R@1": recall}}}
        for seed, recall in enumerate((0.2, 0.6))
    ]
    [row] = summarise(results)
    assert row["seeds"] == 2
    assert row["metrics"]["R@1"]["mean"] == pytest.approx(0.4)
    assert row["metrics"]["R@1"]["deviation"] == pytest.approx(0.08**0.5)
    assert "40.0 ± 28.3" in format_table([row], metrics=["R@1"])
