"""docs/datasets.md names every built-in set, and its Python blocks print what their comments say."""

import re
from pathlib import Path

import pytest

from vididi_hf.data.registry import DATASETS

PAGE = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_every_set_is_in_the_table():
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert set(DATASETS) <= named
    assert named - set(DATASETS) == {"boxes", "box_labels", "persons", "frames"}


@pytest.mark.filterwarnings("ignore:kinetics400")
@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_print_what_their_comments_say(block, capsys):
    exec(compile(block, "docs/datasets.md", "exec"), {})
    expected = re.findall(r"^print\(.*\)  # (.*)$", block, flags=re.MULTILINE)
    assert expected
    assert capsys.readouterr().out.splitlines() == expected
