"""From a JSON file to runs: what each trains on, what it is evaluated with, and what is refused."""

from dataclasses import asdict
from pathlib import Path

import pytest

from studies.grid import read_grid

STUDIES = Path(__file__).parents[2] / "studies"
GRIDS = sorted(path for path in STUDIES.glob("*.json") if path.name != "datasets.json")
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


def test_a_share_is_trained_on_and_everything_is_searched(tiny_study, tmp_path: Path) -> None:
    arms = {"half": {"train_share": 0.5}, "all": {}}
    half, whole = tiny_study.plan(tmp_path, arms=arms, comparisons=[])
    assert half.recipe.dataset == str(half.selections[0].path)
    assert half.selections[0].only_train
    assert half.source == whole.source
    assert not whole.selections
    assert half.configuration()["train_share"] == 0.5


def test_encoders_of_one_data_set_are_evaluated_on_another(tiny_study, tmp_path: Path) -> None:
    tiny_study.add_dataset("others", pretrained_on="clips", recipe={"frame_stride": 2, "group_column": "background"})
    runs = tiny_study.plan(tmp_path, datasets=["others", "clips"], validation=True)
    for transferred, trained in zip(runs[:3], runs[3:]):
        assert (transferred.name, trained.name) == (f"others/{trained.folder.name}", f"clips/{trained.folder.name}")
        assert transferred.pretrained == trained
        assert (transferred.recipe.frame_stride, trained.recipe.frame_stride) == (2, 1)
        assert transferred.recipe.epochs == trained.recipe.epochs
        own = tmp_path / "others-validation" / "videos" / "validation.csv"
        assert transferred.source.dataset == str(own)
        assert [selection.path for selection in transferred.selections] == [trained.selections[0].path, own]
        assert transferred.configuration()["pretrained_on"] == "clips"
    assert not any("pretrained_on" in run.configuration() for run in runs[3:])
    # Where encoders come from need not be evaluated on.
    assert tiny_study.plan(tmp_path, datasets=["others"], validation=True) == runs[:3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, "needs datasets, arms and seeds"),
        ({"seeds": [1, 1]}, r"seeds must differ, got \[1, 1\]"),
        ({"datasets": ["nowhere"]}, "unknown data set nowhere; datasets.json has clips"),
        ({"arms": {"A b": {}, "a-b": {}}, "comparisons": []}, "'A b' becomes 'a-b'"),
        ({"arms": {"a": {"epochs": 3}}}, "arm 'a': .* unexpected keyword argument 'epochs'"),
        ({"arms": {"a": {"recipe": {"epoch": 3}}}, "comparisons": []}, "arm 'a' cannot set epoch"),
        ({"recipe": {"seed": 3}}, "recipe cannot set seed"),
        ({"comparisons": [["VICReg", "BYOL"]]}, r"comparisons must be pairs of .*got \['VICReg', 'BYOL'\]"),
        ({"evaluation": {"inputs": ["sound"]}}, "unknown input 'sound'"),
        ({"evaluation": {"clips": 3}}, "evaluation: .* unexpected keyword argument 'clips'"),
        ({"amount": "hours"}, "amount must be one of epochs, train_share, got 'hours'"),
        ({"arms": {"a": {"train_share": 0}}, "comparisons": []}, "train_share must be above 0 and at most 1, got 0"),
        ({"color": "red"}, "the grid: .* unexpected keyword argument 'color'"),
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
    recipes = {(run.arm, run.dataset): run.recipe for run in runs if run.seed == grid.seeds[0]}
    for arm, against in grid.comparisons:
        if not grid.arms[against].train:
            continue
        for dataset in grid.datasets:
            one, other = (asdict(recipes[name, dataset]) for name in (arm, against))
            changed = {name for name in one if one[name] != other[name]} - {"output_dir"}
            # Either the schedule, or variants of one schedule; and never how long or how fast it learns.
            assert changed == {"order_schedule"} or (changed and changed <= VARIANTS), (arm, against, changed)


def test_the_main_table_is_every_objective_with_and_without() -> None:
    grid = read_grid(STUDIES / "main.json")
    trained = {(arm.recipe["objective"], arm.recipe["order_schedule"]) for arm in grid.arms.values() if arm.train}
    assert trained == {(o, s) for o in ("vicreg", "byol", "simclr") for s in ("baseline", "paper")}
    assert any(not arm.train for arm in grid.arms.values())
    assert len(grid.seeds) == 3
    assert grid.datasets["ut_interaction"].recipe["group_column"] == "source"
