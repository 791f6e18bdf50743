"""The Hub's rules: a good card passes, and each broken rule is named with its field."""

import copy

import pytest
import yaml

from vididi_hf.hub.validation import check_card

GOOD = {
    "license": "apache-2.0",
    "pipeline_tag": "video-classification",
    "library_name": "transformers",
    "tags": ["video"],
    "datasets": ["owner/videos"],
    "base_model": "owner/encoder",
    "co2_eq_emissions": {"emissions": 12.5, "source": "codecarbon"},
    "model-index": [
        {
            "name": "mine",
            "results": [
                {
                    "task": {"type": "video-classification", "name": "Video classification"},
                    "dataset": {"type": "ucf101", "name": "UCF101", "split": "test", "args": {"split": 1}},
                    "metrics": [{"type": "accuracy", "value": 0.5, "name": "top-1", "args": {"clips": 10}}],
                }
            ],
        }
    ],
}
RESULT = ("model-index", 0, "results", 0)


def card(data, text="# Title\n"):
    return f"---\n{yaml.safe_dump(data)}---\n\n{text}"


def changed(place, value):
    data = copy.deepcopy(GOOD)
    *path, last = place
    inner = data
    for key in path:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return data


def test_a_good_card():
    check_card(card(GOOD))
    check_card(card({"license": "mit"}))
    check_card(card({"license": "other", "license_name": "mine", "license_link": "LICENSE"}))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("license",), "apache2", "license must be an identifier that the Hub knows, got 'apache2'"),
        (("license",), None, "license must be an identifier"),
        (("license",), "other", "license other needs license_name; license other needs license_link"),
        (("pipeline_tag",), "video-retrieval", "pipeline_tag must be .* got 'video-retrieval'"),
        (("library_name",), 3, "library_name must be text, got 3"),
        (("tags",), "video", "tags must be a list of texts, got 'video'"),
        (("tags",), ["video", 3], "tags must be a list of texts"),
        (("datasets",), ["my videos"], "datasets holds 'my videos', no id on the Hub"),
        (("base_model",), "a/b/c", "base_model must be an id on the Hub, got 'a/b/c'"),
        (("co2_eq_emissions",), {"emissions": "much"}, "co2_eq_emissions must have a number of grams, got 'much'"),
        (("model-index",), {}, "model-index must be a list"),
        (("model-index", 0, "name"), None, r"model-index\[0\]\.name must be text, got None"),
        (("model-index", 0, "results"), [], r"model-index\[0\]\.results must be a list that is not empty"),
        ((*RESULT, "task"), "retrieval", r"results\[0\]\.task must be a mapping, got 'retrieval'"),
        ((*RESULT, "task", "type"), None, r"results\[0\]\.task\.type must be text"),
        ((*RESULT, "dataset", "type"), None, r"results\[0\]\.dataset\.type must be text"),
        ((*RESULT, "dataset", "name"), "", r"results\[0\]\.dataset\.name must be text"),
        ((*RESULT, "dataset", "config"), {"split": 1}, r"results\[0\]\.dataset\.config must be text"),
        ((*RESULT, "dataset", "args"), "split 1", r"results\[0\]\.dataset\.args must be a mapping"),
        ((*RESULT, "metrics"), {"top-1": 0.5}, r"results\[0\]\.metrics must be a list"),
        ((*RESULT, "metrics", 0, "type"), None, r"metrics\[0\]\.type must be text"),
        ((*RESULT, "metrics", 0, "value"), None, r"metrics\[0\]\.value must be a number, got None"),
        ((*RESULT, "metrics", 0, "value"), float("nan"), r"metrics\[0\]\.value must be a number, got nan"),
        ((*RESULT, "metrics", 0, "value"), True, r"metrics\[0\]\.value must be a number, got True"),
        ((*RESULT, "metrics", 0, "verified"), "yes", r"metrics\[0\]\.verified must be true or false"),
    ],
)
def test_broken_rules(place, value, message):
    with pytest.raises(ValueError, match=message):
        check_card(card(changed(place, value)))


def test_all_problems_are_listed():
    with pytest.raises(ValueError, match=r"license must be .*; tags must be .*; .*links to a\.png"):
        check_card(card({"license": "x", "tags": 1}, "![picture](a.png)"))


def test_links_lead_somewhere():
    text = "![a](figures/a.png) [here](#top) [there](https://example.org/x.png)\n```python\nx[0](missing)\n```\n"
    check_card(card(GOOD, text), files={"figures/a.png"})
    with pytest.raises(ValueError, match=r"links to figures/a\.png, which is no file of the repository"):
        check_card(card(GOOD, text), files={"a.png"})


@pytest.mark.parametrize(
    ("text", "message"), [("# No head\n", "no YAML head"), ("---\n- a\n---\n", "must be a mapping, got a list")]
)
def test_no_head(text, message):
    with pytest.raises(ValueError, match=message):
        check_card(text)
