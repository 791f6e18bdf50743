"""The fault scripts run, and the commands still hold against what the scripts do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[2] / "benchmarks" / "faults"
# Damage that changes nothing that the command uses.
HARMLESS = ("metrics.jsonl", "auto_map", "'epochs'")


def run_script(name: str, output: Path) -> dict | list:
    subprocess.run([sys.executable, FAULTS / name, "--output", output], check=True, cwd=output.parent)
    return json.loads(output.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_hostile_checkpoints_cost_one_line_and_two_seconds(tmp_path):
    results = run_script("hostile_checkpoints.py", tmp_path / "hostile.json")
    assert len(results) > 250
    for result in results:
        harmless = result["result"] == "accepted" and any(part in str(result["case"]) for part in HARMLESS)
        assert result["result"] == "one line" or harmless, result
        assert result["seconds"] <= 2, result


@pytest.mark.slow
def test_nothing_private_is_published_and_nothing_by_hand_replaced(tmp_path):
    report = run_script("publishing.py", tmp_path / "publishing.json")
    assert (report["leaks"]["failed"], report["injections"]["failed"]) == ([], [])
    assert all(report["hand edits kept"].values())
