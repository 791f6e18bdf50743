"""The Python blocks of docs/preparing-data.md run, one after the other, and print what their comments say."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "preparing-data.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def test_the_blocks_run_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(BLOCKS) == 2
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
        printed = capsys.readouterr().out
        expected = re.findall(r"# (torch\.Size\(\[[\d, ]+\]\))", block)
        assert expected
        assert all(shape in printed for shape in expected)
        if "summarize" in block:
            assert "train: 16 of 16 videos in 1 shards" in printed
