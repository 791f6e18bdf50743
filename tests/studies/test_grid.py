"""From a JSON file to runs: what each trains on, what it is evaluated with, and what is refused."""

from dataclasses import asdict
from pathlib import Path

import pytest

from studies.grid import read_grid

STUDIES = Path(__file__).parents[2] / "studies"
GRIDS = sorted(
    path for path in [*STUDIES.glob("*.json"), *STUDIES.glob("first_recipe/*.json")] if path.name != "datasets.json"
)
VARIANTS = {"per_frame_color", "batch_norm", "view_forward", "derivative_scale"}


def test_runs_are_arms_times_seeds_and_differ_in_the_arms_fields_only(tiny_study, tmp_path: Path) -> None:
    runs = tiny_study.plan(tmp_path / "out", seeds=[3, 5])
    assert [(run.seed, run.arm) for run in runs] == [
        (seed, arm) for seed in (3, 5) for arm in ("untrained", "VICReg", "VICReg + ViDiDi")
    ]
    assert [run.name for run in runs[:3]] == [
        "clips/untrained-seed3",
        "clips/vicreg-seed3",
        "clips/vicreg-vididi-seed3",
    ]
    assert [run.trained for run in runs[:3]] == [False, True, True]
    for run in runs:
        assert run.folder == tmp_path / "out" / run.name
        assert run.recipe.dataset == str(tiny_study.data / "clips.csv")
        assert run.protocol.probes == ["background"]
        changed = {name for name, value in asdict(run.recipe).items() if value != getattr(runs[0].recipe, name)}
        assert changed <= {"order_schedule", "seed", "output_dir"}
    assert [run.recipe.order_schedule for run in runs[:3]] == ["baseline", "baseline", "paper"]


def test_a_validation_grid_has_folders_and_queries_of_its_own(tiny_study, tmp_path: Path) -> None:
    for run in tiny_study.plan(tmp_path, validation=True):
        [selection] = run.selections
        assert selection.path == tmp_path / "clips-validation" / "videos" / "validation.csv"
        assert run.recipe.dataset == run.source.dataset == str(selection.path)
        assert (selection.source.dataset, selection.share) == (str(tiny_study.data / "clips.csv"), 0.5)
        assert run.configuration()["validation"] == {"share": 0.5, "group": None, "seed": 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, "needs datasets, arms and seeds"),
        ({"datasets": ["nowhere"]}, "unknown data set nowhere; datasets.json has clips"),
        ({"arms": {"A b": {}, "a-b": {}}, "comparisons": []}, "'A b' becomes 'a-b'"),
        ({"arms": {"a": {"recipe": {"epoch": 3}}}, "comparisons": []}, "arm 'a' cannot set epoch"),
        ({"recipe": {"seed": 3}}, "recipe cannot set seed"),
        ({"comparisons": [["VICReg", "BYOL"]]}, r"comparisons must be pairs of .*got \['VICReg', 'BYOL'\]"),
        ({"arms": {"a": {"train_share": 0}}, "comparisons": []}, "train_share must be above 0 and at most 1, got 0"),
    ],
)
def test_what_does_not_exist_is_named(tiny_study, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        tiny_study.grid(**changes)
    assert str(tiny_study.path) in str(caught.value)


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_declared_grids_are_possible_and_compare_what_differs_in_one_thing(path: Path, tmp_path: Path) -> None:
    grid = read_grid(path)
    runs = grid.plan(tmp_path, data="data")
    assert len(runs) == len(grid.datasets) * len(grid.arms) * len(grid.seeds)
    first = {(run.arm, run.dataset): run for run in runs if run.seed == grid.seeds[0]}
    for arm, against in grid.comparisons:
        if not grid.arms[against].train:
            continue
        for dataset in grid.datasets:
            one, other = (first[name, dataset].configuration()["recipe"] for name in (arm, against))
            changed = {name for name in one if one[name] != other[name]}
            # Either the schedule, or variants of one schedule; and never how long or how fast it learns.
            assert changed == {"order_schedule"} or (changed and changed <= VARIANTS), (arm, against, changed)


@pytest.mark.parametrize("folder", [STUDIES, STUDIES / "first_recipe"], ids=lambda folder: folder.name)
def test_grids_of_a_folder_agree_on_the_runs_that_they_share(folder: Path) -> None:
    known: dict[str, dict] = {}
    for path in GRIDS:
        if path.parent == folder:
            for run in read_grid(path).plan("runs", data="data"):
                assert known.setdefault(run.name, run.configuration()) == run.configuration(), (path.stem, run.name)


def test_the_main_table_is_every_objective_with_and_without() -> None:
    grid = read_grid(STUDIES / "main.json")
    trained = {(arm.recipe["objective"], arm.recipe["order_schedule"]) for arm in grid.arms.values() if arm.train}
    assert trained == {(o, s) for o in ("vicreg", "byol", "simclr") for s in ("baseline", "paper-per-step")}
    assert any(not arm.train for arm in grid.arms.values())
    assert len(grid.seeds) == 3
    assert grid.datasets["ut_interaction_from_motion"].recipe["group_column"] == "source"
