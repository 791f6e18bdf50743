"""Every Python block of `docs/sharing.md` runs, and its options exist."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "sharing.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize(("block", "promise"), zip(BLOCKS, ["org/mine (private):", "license must be"], strict=True))
def test_block_runs(block, promise, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(DOCS), "exec"), {})
    assert promise in capsys.readouterr().out


def test_options_exist(script):
    named = set(re.findall(r"`?--(\w+)", DOCS.read_text()))
    assert len(named) > 5
    assert named <= {prefix + field.name for field in fields(script.PublishArguments) for prefix in ("", "no_")}
