"""The package's front: every public name where it says, documented in full."""

import importlib
import inspect
from importlib.metadata import version
from pathlib import Path

import pytest

import vididi_hf

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", vididi_hf.__all__)
def test_a_public_name_resolves_and_is_documented(name: str):
    value = getattr(vididi_hf, name)
    assert value.__name__ == name
    assert value is getattr(importlib.import_module(value.__module__), name)
    text = inspect.getdoc(value) or ""
    assert "Example" in text
    if inspect.isfunction(value):
        assert ("Args:" in text) == bool(inspect.signature(value).parameters)
        assert "Returns:" in text


def test_names_are_listed_and_imported_by_a_star():
    assert list(vididi_hf.__all__) == sorted(vididi_hf.__all__)
    assert {*vididi_hf.__all__, "__version__"} <= set(dir(vididi_hf))
    namespace: dict = {}
    exec("from vididi_hf import *", namespace)
    assert set(vididi_hf.__all__) <= set(namespace)


def test_type_checkers_see_the_same_names():
    source = (ROOT / "src" / "vididi_hf" / "__init__.py").read_text(encoding="utf-8")
    block = source.split("if TYPE_CHECKING:\n")[1].split("\n\n\n")[0]
    imported = [name.strip() for line in block.splitlines() for name in line.split(" import ")[1].split(",")]
    assert sorted(imported) == vididi_hf.__all__


def test_old_names_still_work():
    with pytest.warns(FutureWarning, match=r"vididi_hf\.search_exact will be removed"):
        assert callable(vididi_hf.search_exact)


def test_the_version_is_that_of_the_distribution():
    assert vididi_hf.__version__ == version("vididi-hf")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{vididi_hf.__version__}"' in project
