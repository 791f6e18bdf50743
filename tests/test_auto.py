"""`import vididi_hf` registers the Auto classes, before or after transformers; the command line does without torch."""

import os
import subprocess
import sys

import pytest

LOAD = """
import transformers, vididi_hf
config = transformers.AutoConfig.from_pretrained(folder)
config.objective_options = {"projector_sizes": [8, 8]}
assert type(config) is vididi_hf.ViDiDiConfig
assert type(transformers.AutoModel.from_config(config)) is vididi_hf.ViDiDiModel
assert type(transformers.AutoVideoProcessor.from_pretrained(folder)) is vididi_hf.ViDiDiVideoProcessor
for task in ("PreTraining", "VideoClassification", "ActionDetection"):
    auto = getattr(transformers, f"AutoModelFor{task.replace('ActionD', 'ObjectD')}")
    assert type(auto.from_config(config)) is getattr(vididi_hf, f"ViDiDiFor{task}")
"""


def run_python(*arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stderr


@pytest.mark.parametrize("first", ["vididi_hf", "transformers.models.auto.modeling_auto"])
def test_either_side_may_be_imported_first(first, checkpoint):
    run_python("-c", f"import sys; folder = sys.argv[1]; import {first}\n{LOAD}", str(checkpoint))
