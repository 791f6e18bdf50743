"""Publish with the command, load from a fresh process with a fresh cache, with this package and without it.

The client is the real one, in processes of its own; the Hub is a loopback server.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from tests.hub.hub_server import TOKEN, HubServer
from vididi_hf import ViDiDiForVideoClassification, ViDiDiModel, ViDiDiVideoProcessor

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is killed in the middle; needs fork")

ENCODER, CLASSIFIER, ONE_LINE = "org/vididi-vicreg", "org/vididi-classifier", "org/one-line"


def run(process, job, hub, folder):
    """Runs one of the processes; fails with what it printed."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_", "XDG_"))},
        **{"HF_ENDPOINT": hub.url, "HF_HOME": str(folder), "HF_TOKEN": TOKEN},
        **{"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"},
    }
    command = [sys.executable, str(Path(__file__).with_name(process)), json.dumps(job)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def published(run_folder, classifier_folder, tmp_path):
    """The Hub after all has been published, and what was noticed when the first process was killed."""
    pid_file, noticed = tmp_path / "pid", SimpleNamespace()
    job = {
        **{"run": str(run_folder), "classifier_run": str(classifier_folder), "pid_file": str(pid_file)},
        **{"checkpoint": str(run_folder / "checkpoints" / "step-00000010")},
        **{"encoder": ENCODER, "classifier": CLASSIFIER, "one_line": ONE_LINE},
    }

    uploads = itertools.count()

    def kill_in_the_middle(method, path):
        if method == "PUT" and next(uploads) == 1:
            deadline = time.monotonic() + 60
            while not server.storage and time.monotonic() < deadline:
                time.sleep(0.01)
            noticed.arrived = set(server.storage)
            noticed.commits = [dict(tree) for tree in server.repos[ENCODER].commits.values()]
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
            raise ConnectionAbortedError("this file does not arrive")

    with HubServer().running() as server:
        server.intercept = kill_in_the_middle
        noticed.printed = run("publishing_process.py", job, server, tmp_path)
        noticed.hub = server
        yield noticed


@pytest.fixture
def job(published, tmp_path, write_video):
    """What both loading processes are asked."""
    generator = torch.Generator().manual_seed(5)
    inputs = {
        "clip": torch.rand(2, 6, 3, 32, 32, generator=generator),
        "video": torch.randint(256, (30, 3, 40, 48), dtype=torch.uint8, generator=generator),
    }
    save_file(inputs, tmp_path / "inputs.safetensors")
    first, second = list(published.hub.repos[ENCODER].commits)[1:]
    return {
        **{"encoder": ENCODER, "classifier": CLASSIFIER, "one_line": ONE_LINE},
        **{"revisions": {"tag": "v1", "first": first, "second": second}},
        **{"inputs": str(tmp_path / "inputs.safetensors"), "video": str(write_video(tmp_path / "video.mp4"))},
    }


@pytest.fixture
def expected(run_folder, classifier_folder, job):
    """The outputs of the local checkpoints, in this process."""
    given = load_file(job["inputs"])
    classifier = ViDiDiForVideoClassification.from_pretrained(classifier_folder).eval()
    with torch.inference_mode():
        first, second = (
            ViDiDiModel.from_pretrained(place).eval()(given["clip"]).pooler_output
            for place in (run_folder, run_folder / "checkpoints" / "step-00000010")
        )
        logits = classifier(given["clip"]).logits
    pixels = ViDiDiVideoProcessor.from_pretrained(run_folder)(given["video"], derivative_orders=(1,))
    return {
        **dict.fromkeys(("first", "tag", "one_line"), first),
        **dict.fromkeys(("second", "main", "direct"), second),
        **{"logits": logits, "pixels": pixels["pixel_values_order_1"]},
    }


def check_published(published):
    # A kill in the middle: nobody sees half of it, and what has arrived is not sent again.
    assert published.commits == [{}]
    assert len(published.arrived) >= 1
    assert all(published.hub.uploads.count(oid) == 1 for oid in published.arrived)
    repo = published.hub.repos[ENCODER]
    _, first, second = repo.commits
    assert repo.refs == {"v1": first, "main": second}
    assert "figures/retrieval.png" in repo.commits[first]
    assert "figures/retrieval.png" not in repo.commits[second]  # the new version has not been evaluated
    assert repo.commits[first]["model.safetensors"] != repo.commits[second]["model.safetensors"]
    # What is sent is listed first.
    _, head, *listed, _, last = published.printed.split("--- ")[1].splitlines()
    assert head == f"{ENCODER} (private):"
    assert {line.split()[-1] for line in listed} == set(repo.commits[first])
    assert last.endswith(f"{ENCODER}/commit/{first}")
    # Another repository is public, and one is from push_to_hub.
    assert [published.hub.repos[name].private for name in (ENCODER, CLASSIFIER)] == [True, False]
    one_line = published.hub.repos[ONE_LINE]
    tree = one_line.commits[one_line.refs["main"]]
    code = {name for name in repo.commits[first] if name.endswith("_vididi.py")}
    assert set(tree) == {"config.json", "model.safetensors", "README.md", *code}
    assert f'AutoModel.from_pretrained("{ONE_LINE}", trust_remote_code=True)' in tree["README.md"].decode()
    data = ModelCard(tree["README.md"].decode()).data
    assert (data.library_name, data.tags) == ("transformers", ["vididi", "video", "self-supervised-learning"])


def check_loaded(published, job, folder, expected, alone):
    """Loads in a fresh process, with the package or without it, and compares with the checkpoints."""
    folder.mkdir()
    files = {"outputs": str(folder / "outputs.safetensors"), "facts": str(folder / "facts.json")}
    printed = run("loading_process.py", {**job, **files, "alone": alone}, published.hub, folder)
    facts = json.loads((folder / "facts.json").read_text())
    found = load_file(folder / "outputs.safetensors")
    assert set(found) == set(expected) - ({"direct"} if alone else set())
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], msg=lambda text, name=name: f"{name}: {text}")
    assert not torch.allclose(found["first"], found["second"])
    names = ["ViDiDiConfig", "ViDiDiVideoProcessor", "ViDiDiModel", "ViDiDiForVideoClassification"]
    assert facts["classes"] == names
    assert facts["package_loaded"] is not alone
    assert {name.split(".")[0] for name in facts["modules"]} == {"transformers_modules" if alone else "vididi_hf"}
    assert facts["labels"] == {"0": "rise", "1": "fall", "2": "turn"}
    assert facts["pipeline"]["label"] in ("rise", "fall", "turn")
    assert 1 / 3 <= facts["pipeline"]["score"] <= 1
    # The snippets of the cards print what their comments say.
    for name, part in zip((ENCODER, CLASSIFIER), printed.split("--- ")[1:]):
        snippet, output = part.split("\n---", 1)
        assert snippet.startswith(name)
        promised = re.findall(r"# (torch\.Size\(\[[\d, ]+\]\))", snippet)
        assert [line for line in output.split("\n") if line.startswith("torch.Size")] == promised != []


def test_round_trip(published, job, tmp_path, expected, subtests):
    # One test, lest every worker of a parallel run starts the processes anew.
    with subtests.test("published"):
        check_published(published)
    for alone in (False, True):
        with subtests.test("loaded", alone=alone):
            check_loaded(published, job, tmp_path / str(alone), expected, alone)
