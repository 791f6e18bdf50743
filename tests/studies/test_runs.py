"""A run knows what it is, whatever the machine, and whether what lies in its folder is the same."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from studies.runs import Run, differences


@pytest.fixture
def run(tiny_study, tmp_path: Path) -> Run:
    return tiny_study.plan(tmp_path / "out")[2]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 7),
        ("output_dir", "/elsewhere"),
        ("dataset", "/there/clips.csv"),
        ("num_workers", 9),
        ("tracker", "wandb"),
    ],
)
def test_circumstances_are_no_part_of_the_configuration(run, name, value):
    other = replace(run, recipe=replace(run.recipe, **{name: value}))
    assert other.configuration() == run.configuration()


@pytest.mark.parametrize(("name", "value"), [("epochs", 9), ("learning_rate", 0.5), ("order_schedule", "baseline")])
def test_all_else_is(run, name, value):
    other = replace(run, recipe=replace(run.recipe, **{name: value}))
    found = differences(run.configuration(), other.configuration())
    assert found == [f"{name} was {getattr(run.recipe, name)!r} and is {value!r}"]


def test_a_field_that_a_recipe_did_not_have_yet_counts_as_its_default(run):
    older = run.configuration()
    del older["recipe"]["derivative_scale"]
    assert differences(older, run.configuration()) == []
    other = replace(run, recipe=replace(run.recipe, derivative_scale="unit"))
    assert differences(older, other.configuration()) == ["derivative_scale was 'none' and is 'unit'"]


def test_a_result_counts_only_where_protocol_and_configuration_are_the_same(run):
    assert run.result() is None
    run.folder.mkdir(parents=True)

    def write(**changes):
        content = {"protocol": asdict(run.protocol), "configuration": run.configuration(), **changes}
        (run.folder / "result.json").write_text(json.dumps(content))
        return content

    assert write() == run.result()
    write(protocol=asdict(replace(run.protocol, num_clips=99)))
    assert run.result() is None
    write(configuration={**run.configuration(), "train_share": 0.5})
    assert run.result() is None
