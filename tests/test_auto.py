"""Registration with the Auto classes, whoever is imported first."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoVideoProcessor

from vididi_hf import ViDiDiConfig, ViDiDiForPreTraining, ViDiDiModel, ViDiDiVideoProcessor, auto

# Imports what costs seconds and is not watched, then forks for each order: a fresh interpreter each, but for that.
RUN_ORDERS = """
import importlib, os, sys, traceback
import torch, torchvision, numpy, huggingface_hub

def run(modules):
    for module in modules:
        importlib.import_module(module)
    import vididi_hf
    from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoVideoProcessor
    config = AutoConfig.from_pretrained(folder)
    assert type(config) is vididi_hf.ViDiDiConfig
    assert type(AutoModel.from_config(config)) is vididi_hf.ViDiDiModel
    assert type(AutoModelForPreTraining.from_config(config)) is vididi_hf.ViDiDiForPreTraining
    assert type(AutoVideoProcessor.from_pretrained(folder)) is vididi_hf.ViDiDiVideoProcessor

folder, *orders = sys.argv[1:]
for order in orders:
    child = os.fork()
    if child == 0:
        try:
            run(order.split(","))
        except BaseException:
            print("order", order, file=sys.stderr)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit(1)
"""


@pytest.fixture
def saved(tmp_path):
    """A folder with the files that `from_pretrained` of the Auto classes reads."""
    ViDiDiConfig(hidden_sizes=(2, 2, 2, 2), depths=(1, 1, 1, 1)).save_pretrained(tmp_path)
    ViDiDiVideoProcessor().save_pretrained(tmp_path)
    return tmp_path


def run_orders(folder, *orders):
    command = [sys.executable, "-c", RUN_ORDERS, folder, *map(",".join, orders)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_auto_classes_know_ours(saved):
    config = AutoConfig.from_pretrained(saved)
    assert type(config) is ViDiDiConfig
    assert type(AutoConfig.for_model("vididi")) is ViDiDiConfig
    assert type(AutoModel.from_config(config)) is ViDiDiModel
    assert type(AutoModelForPreTraining.from_config(config)) is ViDiDiForPreTraining
    assert type(AutoVideoProcessor.from_pretrained(saved)) is ViDiDiVideoProcessor


def test_either_side_may_be_imported_first(saved):
    run_orders(saved, ["vididi_hf"], ["transformers.models.auto.modeling_auto", "vididi_hf"])


@pytest.mark.slow
def test_any_module_may_be_imported_first(saved):
    watched = sorted(auto._WATCHED)
    others = ["transformers", "vididi_hf.pretraining.loop", "vididi_hf.evaluation.retrieval", "vididi_hf.data.registry"]
    alone = [[module] for module in (*watched, *others)]
    after = [["vididi_hf", module] for module in (*watched, "transformers")]
    pairs = [pair for pair in itertools.permutations(watched, 2) if pair[0].split(".")[0] != pair[1].split(".")[0]]
    run_orders(saved, *alone, *after, *pairs)


# The hook itself, on modules that cost nothing


@pytest.fixture
def hook(tmp_path, monkeypatch):
    """A hook that waits for `fake_auto`, then needs `fake_config` and `fake_model`, and notes what was finished."""
    names = ("fake_auto", "fake_config", "fake_model")
    registered = []

    def register(module):
        assert module is sys.modules["fake_auto"]
        registered.append([hasattr(sys.modules[name], "finished") for name in names])

    monkeypatch.setattr(auto, "_REGISTRATIONS", {"fake_auto": (("fake_config", "fake_model"), register)})
    monkeypatch.setattr(auto, "_WATCHED", set(names))
    monkeypatch.syspath_prepend(tmp_path)
    others = [finder for finder in sys.meta_path if not isinstance(finder, auto._AfterImport)]
    monkeypatch.setattr(sys, "meta_path", others)

    def write(**imports):
        for name in names:
            lines = [f"import {other}" for other in imports.get(name, ())]
            Path(tmp_path, f"{name}.py").write_text("\n".join([*lines, "finished = True", ""]))

    write()
    finder = auto._AfterImport()
    sys.meta_path.insert(0, finder)
    yield finder, registered, write
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("order", list(itertools.permutations(["fake_auto", "fake_config", "fake_model"])))
@pytest.mark.parametrize(
    "imports",
    [
        {},
        {"fake_model": ["fake_config"]},
        {"fake_model": ["fake_auto"]},
        {"fake_config": ["fake_auto"], "fake_model": ["fake_config"]},
        {"fake_auto": ["fake_model"]},
        {"fake_auto": ["fake_config"], "fake_model": ["fake_auto", "fake_config"]},
    ],
)
def test_registration_happens_once_all_are_loaded(hook, imports, order):
    _, registered, write = hook
    write(**imports)
    for name in order:
        __import__(name)
    assert registered
    assert all(all(finished) for finished in registered)


def test_nothing_is_loaded_for_an_auto_class_that_nobody_imports(hook):
    _, registered, _ = hook
    __import__("fake_model")
    assert registered == []
    assert "fake_auto" not in sys.modules
    assert "fake_config" not in sys.modules
    __import__("fake_auto")
    assert "fake_config" in sys.modules
    assert registered


def test_modules_that_were_loaded_before_the_hook_count(hook):
    finder, registered, _ = hook
    sys.meta_path.remove(finder)
    __import__("fake_auto")
    late = auto._AfterImport()
    sys.meta_path.insert(0, late)
    assert registered == []
    late.register()
    assert registered
    assert all(all(finished) for finished in registered)


def test_a_module_that_fails_to_load_can_be_tried_again(hook, tmp_path):
    _, registered, write = hook
    (tmp_path / "fake_config.py").write_text("raise RuntimeError('not today')\n")
    with pytest.raises(RuntimeError, match="not today"):
        __import__("fake_auto")
    assert registered == []
    write(fake_model=["fake_config"])
    sys.modules.pop("fake_auto", None)
    __import__("fake_auto")
    assert registered


def test_other_modules_are_none_of_the_hooks_business(hook):
    finder, _, _ = hook
    assert finder.find_spec("json", None) is None
    (Path(sys.path[0]) / "fake_model.py").unlink()
    assert finder.find_spec("fake_model", None) is None


def test_the_hook_is_installed_once():
    before = list(sys.meta_path)
    auto.register_on_import()
    assert sys.meta_path == before
    assert sum(isinstance(finder, auto._AfterImport) for finder in before) == 1
