"""The package's front: light to import, every public name where it says."""

import importlib
import subprocess
import sys
from importlib.metadata import version

import pytest

import vididi_hf

PUBLIC = [
    "AlternatingSchedule",
    "EmbeddingOptions",
    "PreparationOptions",
    "PretrainingRecipe",
    "RetrievalEvaluator",
    "SearchOptions",
    "ViDiDiConfig",
    "ViDiDiForPreTraining",
    "ViDiDiModel",
    "ViDiDiVideoProcessor",
    "embed_videos",
    "load_video_dataset",
    "prepare_dataset",
    "pretrain",
    "search_exact",
    "search_videos",
    "taylor_expand",
    "temporal_derivative",
]


def test_importing_the_package_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'datasets', 'torchcodec', 'torchvision', 'numpy', 'matplotlib'}"
    code = f"import sys, vididi_hf; dir(vididi_hf); print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_resolve(name):
    value = getattr(vididi_hf, name)
    assert value.__name__ == name
    assert value.__module__.startswith("vididi_hf.")
    assert value.__doc__


def test_names_are_listed_and_imported_by_a_star():
    assert set(PUBLIC) <= set(vididi_hf.__all__)
    assert list(vididi_hf.__all__) == sorted(vididi_hf.__all__)
    assert {*vididi_hf.__all__, "__version__"} <= set(dir(vididi_hf))
    namespace: dict = {}
    exec("from vididi_hf import *", namespace)
    assert set(PUBLIC) <= set(namespace)


def test_a_name_is_imported_once_and_is_that_of_its_module():
    assert vididi_hf.temporal_derivative is vididi_hf.temporal_derivative
    module = importlib.import_module("vididi_hf.derivatives_vididi")
    assert vididi_hf.temporal_derivative is module.temporal_derivative


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'vididi_hf' has no attribute 'VidiDiModel'"):
        _ = vididi_hf.VidiDiModel
    with pytest.raises(ImportError, match="cannot import name 'VidiDiModel'"):
        exec("from vididi_hf import VidiDiModel")
    assert not hasattr(vididi_hf, "nonsense")


def test_the_version_is_that_of_the_distribution():
    assert vididi_hf.__version__ == version("vididi-hf")
