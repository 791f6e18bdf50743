"""The whole way: publish with the command, load from a fresh process with a fresh cache, with this package and without.

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

from vididi_hf import ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.hub.remote_code import code_files

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is killed in the middle; needs fork")

HERE = Path(__file__).parent
ENCODER, CLASSIFIER, ONE_LINE = "org/vididi-vicreg", "org/vididi-classifier", "org/one-line"


def run(process, job, hub, folder, token):
    """Runs one of the processes; fails with what it printed."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_", "XDG_"))},
        **{"HF_ENDPOINT": hub.url, "HF_HOME": str(folder), "HF_TOKEN": token},
        **{"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"},
    }
    command = [sys.executable, str(HERE / process), json.dumps(job)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def published(server_module, run_folder, classifier_folder, tmp_path):
    """The Hub after all has been published, and what was noticed on the way."""
    pid_file = tmp_path / "pid"
    job = {
        **{"run": str(run_folder), "classifier_run": str(classifier_folder)},
        **{"checkpoint": str(run_folder / "checkpoints" / "step-00000010"), "pid_file": str(pid_file)},
        **{"encoder": ENCODER, "classifier": CLASSIFIER, "one_line": ONE_LINE},
    }
    noticed = SimpleNamespace()
    uploads = itertools.count()

    def kill_in_the_middle(method, path):
        if method != "PUT" or next(uploads) != 1:
            return
        deadline = time.monotonic() + 60
        while not server.storage and time.monotonic() < deadline:
            time.sleep(0.01)
        noticed.arrived = set(server.storage)
        noticed.commits = [dict(tree) for tree in server.repos[ENCODER].commits.values()]
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
        raise server_module.HubError(500, "nobody hears this")

    with server_module.HubServer().running() as server:
        server.intercept = kill_in_the_middle
        noticed.printed = run("publishing_process.py", job, server, tmp_path, server_module.TOKEN)
        noticed.hub, noticed.token = server, server_module.TOKEN
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
        **{
            "encoder": ENCODER,
            "classifier": CLASSIFIER,
            "one_line": ONE_LINE,
            "inputs": str(tmp_path / "inputs.safetensors"),
        },
        **{
            "revisions": {"tag": "v1", "first": first, "second": second},
            "video": str(write_video(tmp_path / "video.mp4")),
        },
    }


def load(published, job, tmp_path, alone):
    """What a fresh process gets, with the package or without it."""
    folder = tmp_path / ("alone" if alone else "with")
    folder.mkdir()
    files = {"outputs": str(folder / "outputs.safetensors"), "facts": str(folder / "facts.json")}
    printed = run("loading_process.py", {**job, **files, "alone": alone}, published.hub, folder, published.token)
    facts = json.loads((folder / "facts.json").read_text())
    found = load_file(folder / "outputs.safetensors")
    return SimpleNamespace(found=found, facts=facts, printed=printed, alone=alone)


@pytest.fixture
def expected(run_folder, classifier_folder, job):
    """The same from the local checkpoints, in this process."""
    given = load_file(job["inputs"])
    places = {"first": run_folder, "second": run_folder / "checkpoints" / "step-00000010"}
    with torch.inference_mode():
        outputs = {
            name: ViDiDiModel.from_pretrained(place).eval()(given["clip"]).pooler_output
            for name, place in places.items()
        }
        model = ViDiDiForVideoClassification.from_pretrained(classifier_folder).eval()
        outputs["logits"] = model(given["clip"]).logits
    processor = ViDiDiVideoProcessor.from_pretrained(run_folder)
    outputs["pixels"] = processor(given["video"], derivative_orders=(1,))["pixel_values_order_1"]
    outputs |= {"main": outputs["second"], "tag": outputs["first"]}
    outputs |= {"direct": outputs["second"], "one_line": outputs["first"]}
    return outputs


def check_killed_in_the_middle_nothing_is_seen_and_nothing_is_sent_twice(published):
    assert published.commits == [{}]
    assert len(published.arrived) >= 1
    uploads = published.hub.uploads()
    assert all(uploads.count(oid) == 1 for oid in published.arrived)


def check_commits(published):
    repo = published.hub.repos[ENCODER]
    _, first, second = repo.commits
    assert repo.tags == {"v1": first}
    assert repo.branches == {"main": second}
    assert "figures/retrieval.png" in repo.commits[first]
    assert "figures/retrieval.png" not in repo.commits[second]  # the new version has not been evaluated
    assert repo.commits[first]["model.safetensors"] != repo.commits[second]["model.safetensors"]


def check_private_unless_asked_otherwise(published):
    assert published.hub.repos[ENCODER].private
    assert not published.hub.repos[CLASSIFIER].private


def check_what_will_be_sent_is_said_first(published):
    again = published.printed.split("--- ")[1].splitlines()
    assert again[1] == f"{ENCODER} (private):"
    listed = {line.split()[-1] for line in again[2:-2]}
    repo = published.hub.repos[ENCODER]
    first = repo.tags["v1"]
    assert listed == set(repo.commits[first])
    assert again[-1].endswith(f"{ENCODER}/commit/{first}")
    assert f"{CLASSIFIER} (public):" in published.printed


def check_code_comes_along(published):
    for name in (ENCODER, CLASSIFIER):
        repo = published.hub.repos[name]
        tree = repo.commits[repo.branches["main"]]
        assert {path for path in tree if path.endswith(".py")} == {path.name for path in code_files()}


def check_push_to_hub_in_one_line(published):
    repo = published.hub.repos[ONE_LINE]
    tree = repo.commits[repo.branches["main"]]
    assert set(tree) == {"config.json", "model.safetensors", "README.md"}
    data = ModelCard(tree["README.md"].content.decode()).data
    assert data.library_name == "transformers"
    assert data.tags == ["vididi", "video", "self-supervised-learning"]


def check_outputs_are_those_of_the_checkpoints(loaded):
    assert set(loaded.found) >= {"main", "tag", "first", "second", "logits", "pixels"}
    for name, value in loaded.found.items():
        torch.testing.assert_close(value, loaded.expected[name], msg=lambda text, name=name: f"{name}: {text}")
    assert not torch.allclose(loaded.found["first"], loaded.found["second"])


def check_classes(loaded):
    names = ["ViDiDiConfig", "ViDiDiVideoProcessor", "ViDiDiModel", "ViDiDiForVideoClassification"]
    assert loaded.facts["classes"] == names
    assert loaded.facts["package_loaded"] is not loaded.alone
    root = "transformers_modules" if loaded.alone else "vididi_hf"
    assert {module.split(".")[0] for module in loaded.facts["modules"]} == {root}


def check_labels_and_pipeline(loaded):
    assert loaded.facts["labels"] == {"0": "rise", "1": "fall", "2": "turn"}
    assert loaded.facts["pipeline"]["label"] in ("rise", "fall", "turn")
    assert 1 / 3 <= loaded.facts["pipeline"]["score"] <= 1


def check_snippets_of_the_cards_print_what_their_comments_say(loaded):
    parts = loaded.printed.split("--- ")[1:]
    assert [part.splitlines()[0] for part in parts] == [ENCODER, CLASSIFIER]
    for part in parts:
        snippet, printed = part.split("\n---", 1)
        promised = re.findall(r"# (torch\.Size\(\[[\d, ]+\]\))", snippet)
        assert len(promised) >= 1
        assert [line for line in printed.split("\n") if line.startswith("torch.Size")] == promised


def test_round_trip(published, job, tmp_path, expected, subtests):
    # One test, lest every worker of a parallel run starts the processes anew.
    for check in (
        check_killed_in_the_middle_nothing_is_seen_and_nothing_is_sent_twice,
        check_commits,
        check_private_unless_asked_otherwise,
        check_what_will_be_sent_is_said_first,
        check_code_comes_along,
        check_push_to_hub_in_one_line,
    ):
        with subtests.test(check.__name__):
            check(published)
    for alone in (False, True):
        loaded = load(published, job, tmp_path, alone)
        loaded.expected = expected
        for check in (
            check_outputs_are_those_of_the_checkpoints,
            check_classes,
            check_labels_and_pipeline,
            check_snippets_of_the_cards_print_what_their_comments_say,
        ):
            with subtests.test(check.__name__, alone=alone):
                check(loaded)
