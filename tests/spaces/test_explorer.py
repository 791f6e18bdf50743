"""The Space: its front matter, where its encoders come from, and what a mistake looks like."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("gradio", reason="gradio is not installed: pip install vididi-hf[explorer]")

from explorer import interface
from explorer.exploration import Explorer

FOLDER = Path(__file__).parents[2] / "spaces" / "explorer"


@pytest.fixture
def app(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    return importlib.import_module("app")


def test_front_matter():
    [front] = re.findall(r"\A---\n(.*?)\n---\n", (FOLDER / "README.md").read_text(), flags=re.DOTALL)
    settings = yaml.safe_load(front)
    assert settings["sdk"] == "gradio"
    assert re.fullmatch(r"6\.\d+\.\d+", settings["sdk_version"])
    assert settings["python_version"] == "3.11"  # a number would lose its zeros
    assert (FOLDER / settings["app_file"]).is_file()
    assert len(settings["short_description"]) <= 60  # the Hub's limit
    assert (FOLDER / "packages.txt").read_text().split() == ["ffmpeg"]
    assert (FOLDER / "requirements.txt").read_text().split() == ["vididi-hf[explorer]"]


def test_encoders_of_the_environment_and_of_the_command_line(app, monkeypatch):
    asked, served = [], []
    monkeypatch.setenv("BASELINE_MODEL", "someone/plain")
    monkeypatch.delenv("VIDIDI_MODEL", raising=False)
    monkeypatch.setattr(Explorer, "from_pretrained", lambda locations: asked.append(locations) or "explorer")
    monkeypatch.setattr(interface, "build_page", lambda explorer: f"page of the {explorer}")
    monkeypatch.setattr(interface, "launch_page", lambda page, **options: served.append((page, options)))
    app.main([])
    app.main(["--vididi", "someone/vididi", "--port", "8000"])
    checkout = str(FOLDER.parents[1] / "model_cards" / "vididi-vicreg-tiny-motion")
    assert asked == [
        {"baseline": "someone/plain", "ViDiDi": checkout},
        {"baseline": "someone/plain", "ViDiDi": "someone/vididi"},
    ]
    assert served == [("page of the explorer", {"server_port": port}) for port in (None, 8000)]
