"""Labels of two data sets get common numbers."""

import doctest

import datasets
import pytest

from vididi_hf.evaluation import labels as module
from vididi_hf.evaluation.features import label_names, with_class_labels


def rows(labels, names=None):
    kind = (
        datasets.ClassLabel(names=names)
        if names
        else datasets.Value("string" if isinstance(labels[0], str) else "int64")
    )
    features = datasets.Features({"label": kind, "other": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"label": labels, "other": list(range(len(labels)))}, features=features)


def test_what_agrees_is_left_alone():
    train, test = rows([0, 1], ["a", "b"]), rows([1, 1], ["a", "b"])
    assert with_class_labels(train, test) == (train, test)
    numbers, more = rows([5, 7]), rows([7])
    assert with_class_labels(numbers, more)[0] is numbers
    assert with_class_labels(numbers, more)[1] is more


def test_text_becomes_classes_and_one_data_set_stays_one():
    text = rows(["run", "sit", "run"])
    first, second = with_class_labels(text, text)
    assert first is second
    assert first["label"][:] == [0, 1, 0]
    assert first.features["label"].names == ["run", "sit"]
    assert first["other"][:] == [0, 1, 2]


def test_lists_of_classes_in_another_order_are_matched_by_name():
    train, test = with_class_labels(rows([0, 1], ["sit", "run"]), rows([0, 1, 2], ["hop", "run", "sit"]))
    assert train["label"][:] == [0, 1]
    assert label_names(test) == ["hop", "run", "sit"]
    assert test["label"][:] == [2, 1, 0]
    train, test = with_class_labels(rows([0, 1], ["sit", "run"]), rows(["run"]))
    assert test["label"][:] == [1]


@pytest.mark.parametrize("bad", [rows([0, -1], ["a", "b"]), rows(["run", None])])
def test_videos_without_a_label_are_counted(bad):
    with pytest.raises(ValueError, match="1 of 2 videos have no label"):
        with_class_labels(bad, bad)


def test_examples():
    assert doctest.testmod(module).failed == 0
