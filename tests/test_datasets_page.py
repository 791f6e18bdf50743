"""docs/datasets.md names every built-in set."""

import re
from pathlib import Path

from vididi_hf.data.registry import DATASETS

PAGE = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text()


def test_every_set_is_in_the_table():
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert set(DATASETS) <= named
    assert named - set(DATASETS) == {"boxes", "box_labels", "persons", "frames"}
