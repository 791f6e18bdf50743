"""Reports: what they hold, that the Hub's own code reads them, that damaged ones are named."""

import json

import pytest
from huggingface_hub import ModelCard, ModelCardData

from vididi_hf.evaluation.results import (
    EvaluationResult,
    collect_eval_results,
    dataset_name,
    read_report,
    report_of,
    write_report,
)


@pytest.fixture
def result():
    metrics = {"frames": {"top-1": 0.5, "mean-class": 0.25}, "ensemble": {"top-1": 0.75, "mean-class": 0.5}}
    return EvaluationResult("linear", metrics, {"failed_videos": []}, primary="top-1", dataset="jhmdb", split="test")


def test_a_result_is_a_mapping_that_json_can_write(result):
    assert json.loads(json.dumps(dict(result))) == {
        "task": "linear",
        "dataset": "jhmdb",
        "split": "test",
        "protocol": {"failed_videos": []},
        "metrics": result.metrics,
        "primary_metric": {"name": "top-1", "input": "frames", "value": 0.5, "greater_is_better": True},
    }
    assert "model" not in result


def test_a_model_card_takes_the_reports_and_gives_them_back(result, tmp_path):
    other = EvaluationResult("knn", {"frames": {"top-1": 0.125}}, {}, primary="top-1", dataset="jhmdb")
    model = tmp_path / "my-model"
    model.mkdir()
    reports = [
        read_report(write_report(tmp_path / f"{entry.task}/metrics.json", report_of(entry, str(model), seed=3)))
        for entry in (result, other)
    ]
    assert reports[0]["seed"] == 3
    assert [entry["name"] for entry in reports[0]["model_index"]] == ["my-model"]  # and not the whole path
    data = ModelCardData(model_name="my-model", eval_results=collect_eval_results(reports))
    card = ModelCard(f"---\n{data.to_yaml()}\n---\nA model.")
    assert [(entry.metric_name, entry.metric_value) for entry in card.data.eval_results] == [
        ("top-1, linear probe (frames)", 0.5),
        ("mean-class, linear probe (frames)", 0.25),
        ("top-1, linear probe (ensemble)", 0.75),
        ("mean-class, linear probe (ensemble)", 0.5),
        ("top-1, k-NN (frames)", 0.125),
    ]
    assert card.data.eval_results[0].metric_type == "accuracy"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("no json", "is not JSON"), ("[1]", "must hold a JSON object, got a list"), ('{"schema": 1}', "lacks task")],
)
def test_strangers_are_no_reports(text, complaint, tmp_path):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        read_report(tmp_path)


def test_names_of_data_sets_tell_no_places(tmp_path):
    folder = tmp_path / "my-videos"
    folder.mkdir()
    assert dataset_name(folder) == dataset_name(folder / "list.csv") == "my-videos"
    assert dataset_name("owner/name") == "owner/name"
