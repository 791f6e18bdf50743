"""docs/detection.md: its tables and options name what there is."""

import re
from pathlib import Path

from vididi_hf.detection.options import BOX_SOURCES
from vididi_hf.finetuning.detection_recipe import DetectionRecipe

PAGE = (Path(__file__).parents[2] / "docs" / "detection.md").read_text()


def test_options_exist():
    fields = {f"--{name}" for name in DetectionRecipe.__dataclass_fields__}
    named = set(re.findall(r"--[a-z_]+", PAGE)) - {"--model", "--output"}
    assert named <= fields
    assert {f"`{source}`" for source in BOX_SOURCES} <= set(re.findall(r"^\| (`\w+`) \|", PAGE, flags=re.MULTILINE))
