"""The Hub's rules for model cards, as far as they can be checked without the Hub.

The Hub checks the YAML head of a card when it is pushed and refuses the commit if it breaks a rule. These are the rules
of its specification (https://github.com/huggingface/hub-docs/blob/main/modelcard.md) for the fields that our cards use,
and one of our own: whatever the text links to lies in the repository.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

# https://huggingface.co/docs/hub/repositories-licenses
LICENSES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense
    zlib pddl lgpl-lr unknown other
    """.split()  # noqa: SIM905  (a list of words is easier to compare with the Hub's)
)

# Tasks of models that take or give images or videos, https://huggingface.co/tasks
PIPELINE_TAGS = frozenset(
    """
    feature-extraction image-feature-extraction video-classification image-classification object-detection
    image-segmentation mask-generation keypoint-detection depth-estimation zero-shot-image-classification
    zero-shot-object-detection image-to-text image-to-image image-to-video image-text-to-text video-text-to-text
    video-to-video text-to-image text-to-video unconditional-image-generation visual-question-answering
    visual-document-retrieval robotics other
    """.split()  # noqa: SIM905  (a list of words is easier to compare with the Hub's)
)

# What the model-index holds; a key with a question mark may be missing.
_MODEL_INDEX = [
    {
        "name": str,
        "results": [
            {
                "task": {"type": str, "name?": str},
                "dataset": {"type": str, "name": str, "config?": str, "split?": str, "revision?": str, "args?": {}},
                "metrics": [
                    {"type": str, "value": float, "name?": str, "config?": str, "args?": {}, "verified?": bool}
                ],
            }
        ],
    }
]
_KINDS = {str: "text", float: "a number", bool: "true or false"}


def check_card(card: str, files: Collection[str] = ()) -> None:
    """Checks a model card as the Hub would.

    Args:
        card: The text of `README.md`.
        files: The paths of the other files of the repository, which the text may link to.

    Raises:
        ValueError: If rules are broken; the message lists what is wrong with which field.
    """
    match = re.match(r"---\r?\n(.*?)\r?\n---\r?\n(.*)", card, flags=re.DOTALL)
    if match is None:
        raise ValueError("the card has no YAML head between two lines '---'")
    data = yaml.safe_load(match[1])
    if not isinstance(data, dict):
        raise ValueError(f"the card's YAML head must be a mapping, got a {type(data).__name__}")
    index = data.get("model-index")
    index_problems = [] if index is None else _check_shape(index, _MODEL_INDEX, "model-index")
    problems = [*_check_fields(data), *index_problems, *_check_links(match[2], files)]
    if problems:
        raise ValueError(f"the card breaks rules of the Hub: {'; '.join(problems)}")
    ModelCard(card)  # the client's own reading, which every user's goes through


def _check_fields(data: dict[str, Any]) -> list[str]:
    """Checks the fields at the top."""
    problems = []
    if data.get("license") not in LICENSES:
        problems.append(f"license must be an identifier that the Hub knows, got {data.get('license')!r}")
    if data.get("license") == "other":
        problems += [f"license other needs {key}" for key in ("license_name", "license_link") if not data.get(key)]
    if "pipeline_tag" in data and data["pipeline_tag"] not in PIPELINE_TAGS:
        problems.append(f"pipeline_tag must be a task of images or videos, got {data['pipeline_tag']!r}")
    if not isinstance(data.get("library_name", ""), str):
        problems.append(f"library_name must be text, got {data['library_name']!r}")
    for key in ("tags", "metrics", "datasets"):
        values = data.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
            problems.append(f"{key} must be a list of texts, got {values!r}")
        elif key == "datasets":
            problems += [f"datasets holds {value!r}, no id on the Hub" for value in values if not _is_repo_id(value)]
    base = data.get("base_model", [])
    for value in base if isinstance(base, list) else [base]:
        if not _is_repo_id(value):
            problems.append(f"base_model must be an id on the Hub, got {value!r}")
    emissions = data.get("co2_eq_emissions", 0)
    if isinstance(emissions, dict):
        emissions = emissions.get("emissions")
    if not _is_number(emissions):
        problems.append(f"co2_eq_emissions must have a number of grams, got {emissions!r}")
    return problems


def _check_shape(value: Any, shape: Any, place: str) -> Iterator[str]:
    """Compares a value with a nested pattern of lists, mappings and types."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{place} must be a mapping, got {value!r}"
            return
        for key, expected in shape.items():
            name = key.removesuffix("?")
            if name in value or name == key:
                yield from _check_shape(value.get(name), expected, f"{place}.{name}")
    elif isinstance(shape, list):
        if not isinstance(value, list) or not value:
            yield f"{place} must be a list that is not empty, got {value!r}"
            return
        for number, item in enumerate(value):
            yield from _check_shape(item, shape[0], f"{place}[{number}]")
    elif not (_is_number(value) if shape is float else isinstance(value, shape) and value != ""):
        yield f"{place} must be {_KINDS[shape]}, got {value!r}"


def _check_links(text: str, files: Collection[str]) -> list[str]:
    """Checks that pictures and files which the text links to are there."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    inside = [link for link in links if not re.match(r"[a-z]+:|#", link)]
    return [f"the text links to {link}, which is no file of the repository" for link in inside if link not in files]


def _is_repo_id(value: Any) -> bool:
    try:
        validate_repo_id(value)
    except HFValidationError:
        return False
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
