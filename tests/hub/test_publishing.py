"""What is prepared from a checkpoint, and what the real client does with it at a loopback Hub."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image
from safetensors.torch import load_file, save_file

import vididi_hf
from tests.hub.hub_server import TOKEN, is_lfs
from vididi_hf import PublishOptions, ViDiDiForPreTraining, ViDiDiForVideoClassification, ViDiDiModel, publish
from vididi_hf.cli import run_command
from vididi_hf.evaluation.results import EvaluationResult, report_of, write_report
from vididi_hf.hub.publishing import load_checkpoint_model, prepare_repository, send, without_local_paths
from vididi_hf.hub.signature import HASHES_FILE, sign_files

REPO = "org/vididi-vicreg"
MODEL = ("README.md", "config.json", "model.safetensors", "video_preprocessor_config.json")
CODE = [path.name for path in Path(vididi_hf.__file__).parent.glob("*_vididi.py")]
CLIP = torch.rand(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
OPTIONS = PublishOptions(checkpoint="unused", repo=REPO)


def prepare(checkpoint, folder, **options):
    return prepare_repository(PublishOptions(**{"checkpoint": str(checkpoint), "repo": REPO, **options}), folder)


def paths(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def assert_same_weights(folder, expected):
    found = load_file(folder / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.fixture(scope="module")
def prepared(run_folder, tmp_path_factory):
    return prepare(run_folder, tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token=TOKEN)


@pytest.fixture
def checkpoint(run_folder, tmp_path):
    """A copy of the run's encoder that a test may change."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "video_preprocessor_config.json", "recipe.json"):
        shutil.copyfile(run_folder / name, folder / name)
    return folder


def test_all_that_belongs_and_nothing_else(prepared, run_folder):
    run_files = ("recipe.json", "metrics.jsonl", "results/retrieval-videos-test.json")
    figures = ("figures/curves.png", "figures/retrieval.png")
    assert paths(prepared) == {*MODEL, HASHES_FILE, *run_files, *figures, *CODE}
    assert_same_weights(prepared, load_file(run_folder / "model.safetensors"))
    report = json.loads((prepared / "results/retrieval-videos-test.json").read_text())
    assert (report["random_init"], report["metrics"]["frames"]["R@1"]) == (False, 0.25)  # not that of random weights
    # No path of this machine is published.
    home = str(run_folder.parents[1]).encode()
    assert not any(home in (prepared / name).read_bytes() for name in paths(prepared))
    recipe = json.loads((prepared / "recipe.json").read_text())
    assert (recipe["dataset"], recipe["output_dir"]) == ("videos", "vididi")
    assert report["protocol"]["failed_videos"] == ["broken.mp4"]


def test_a_checkpoint_within_a_run_takes_the_metrics_of_the_run(run_folder, tmp_path):
    files = prepare(run_folder / "checkpoints" / "step-00000010", tmp_path, with_code=False)
    assert paths(files) == {*MODEL, HASHES_FILE, "recipe.json", "metrics.jsonl", "figures/curves.png"}
    assert json.loads((tmp_path / "recipe.json").read_text())["seed"] == 1
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


def test_classifier_whole_and_its_encoder_alone(classifier_folder, tmp_path):
    prepare(classifier_folder, tmp_path / "whole", with_code=False)
    prepare(classifier_folder, tmp_path / "encoder", with_code=False, encoder_only=True)
    original = ViDiDiForVideoClassification.from_pretrained(classifier_folder).eval()
    assert_same_weights(tmp_path / "whole", original.state_dict())
    assert_same_weights(tmp_path / "encoder", original.vididi.state_dict())
    encoder = ViDiDiModel.from_pretrained(tmp_path / "encoder").eval()
    with torch.no_grad():
        assert torch.equal(encoder(CLIP).pooler_output, original.vididi(CLIP).pooler_output)
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "pipeline_tag: video-classification" in card
    assert "# torch.Size([1, 3])" in card


def test_encoder_of_a_model_in_pretraining(checkpoint, tmp_path):
    encoder = ViDiDiModel.from_pretrained(checkpoint)
    model = ViDiDiForPreTraining(encoder.config)
    model.vididi.load_state_dict(encoder.state_dict())
    model.save_pretrained(checkpoint)
    assert_same_weights(prepare(checkpoint, tmp_path / "published"), encoder.state_dict())


def test_results_and_figures_from_elsewhere(checkpoint, run_folder, tmp_path):
    shutil.copytree(run_folder / "retrieval", checkpoint / "finetuned")  # another model below, with results of its own
    shutil.copyfile(checkpoint / "config.json", checkpoint / "finetuned" / "config.json")
    Image.new("RGB", (4, 4)).save(tmp_path / "derivatives.png")
    results = [str(run_folder / "retrieval"), str(run_folder / "retrieval" / "metrics.json")]
    figures = [str(tmp_path / "derivatives.png")]
    files = prepare(checkpoint, tmp_path / "out", results=results, figures=figures, with_code=False)
    assert {path for path in paths(files) if "/" in path} == {
        *("results/retrieval-videos-test.json", "results/retrieval-videos-test-2.json"),
        "figures/derivatives.png",
    }
    assert "A clip and its temporal derivatives" in (tmp_path / "out" / "README.md").read_text()


def test_a_fine_tuned_classifier(classifier_folder, tmp_path):
    """Trained from random weights, which does not make its results those of random weights."""
    run = shutil.copytree(classifier_folder, tmp_path / "finetuned")
    recipe = {"model": str(tmp_path), "random_init": True, "dataset": "motion", "train_split": "half", "epochs": 7}
    (run / "finetuning.json").write_text(json.dumps(recipe))
    (run / "metrics.jsonl").write_text('{"epoch": 1, "total_steps": 3, "loss": 1.5, "train_accuracy": 0.5}\n')
    protocol = {"videos": 9, "failed_training_videos": [str(tmp_path / "a.mp4")]}
    result = EvaluationResult("classification", {"frames": {"top-1": 0.75}}, protocol, "top-1", dataset="motion")
    write_report(run / "metrics.json", report_of(result, str(run), pretrained=str(tmp_path), random_init=True))
    files = prepare(run, tmp_path / "out", with_code=False)
    assert {"finetuning.json", "results/classification-motion-test.json", "figures/curves.png"} <= paths(files)
    card = (tmp_path / "out" / "README.md").read_text()
    for text in (
        *("| frames | 75.0 |", "| epochs | 7 |", f"| model | {tmp_path.name} |", "| steps | 3 |"),
        *("Protocol: videos 9, failed training videos 1.", "was trained on the split `half` of motion"),
        "[finetuning.json](finetuning.json)",
    ):
        assert text in card
    assert not any(str(tmp_path) in path.read_text() for path in files.rglob("*.json"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repo": "name"}, "repo must be owner/name, got 'name'"),
        ({"repo": "a b/c"}, "a b/c"),
        ({"checkpoint": "nothing"}, r"nothing is not a checkpoint: it has no config\.json"),
        ({"results": ["nothing.json"]}, r"nothing\.json does not exist"),
        ({"results": ["checkpoint/config.json"]}, r"config\.json"),
        ({"figures": ["checkpoint/config.json"]}, r"config\.json is not a PNG figure"),
        ({"notes": "no.md"}, r"no\.md"),
        ({"folder": "checkpoint"}, "is not empty: choose a new folder"),
    ],
)
def test_wrong_arguments(checkpoint, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(**{"checkpoint": checkpoint, "folder": "out", **options})


def test_wrong_checkpoints(checkpoint, tmp_path):
    weights = load_file(checkpoint / "model.safetensors")
    name = next(name for name in weights if name.endswith("weight"))
    del weights[name]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks 1 weights of the ViDiDiModel, such as {re.escape(name)}"):
        prepare(checkpoint, tmp_path / "out")
    (checkpoint / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    with pytest.raises(ValueError, match=r"is not a ViDiDi checkpoint: it was saved from BertModel"):
        prepare(checkpoint, tmp_path / "out")


def test_a_folder_with_the_name_of_the_packaged_encoder(checkpoint, tmp_path, monkeypatch):
    expected = load_checkpoint_model(checkpoint).state_dict()
    shutil.copytree(checkpoint, tmp_path / "reference")
    monkeypatch.chdir(tmp_path)
    torch.testing.assert_close(load_checkpoint_model("reference").state_dict(), expected)


def test_one_private_commit_with_the_same_bytes_once(prepared, hub, api):
    commit, repo = send(prepared, OPTIONS, api), hub.repos[REPO]
    assert repo.private
    assert repo.refs == {"main": commit.oid}
    assert repo.commits[commit.oid] == {name: (prepared / name).read_bytes() for name in paths(prepared)}
    assert len(hub.uploads) == sum(map(is_lfs, repo.commits[commit.oid].values())) == 3  # weights and figures
    assert send(prepared, OPTIONS, api).oid == commit.oid
    assert len(hub.uploads) == 3
    assert len(repo.commits) == 2  # the Hub's own first one, and ours


def test_what_a_new_version_lacks_is_removed_unless_it_is_the_users(prepared, hub, api, tmp_path):
    send(prepared, OPTIONS, api)
    added = ("model-00001-of-00002.safetensors", "figures/drawn-by-hand.png", "notes.md", ".gitattributes")
    api.create_commit(REPO, [CommitOperationAdd(path, b"\0old") for path in added], commit_message="by hand")
    ignore = shutil.ignore_patterns("figures", "results")
    remaining = shutil.copytree(prepared, tmp_path / "remaining", ignore=ignore)
    with pytest.warns(UserWarning, match=r"keeps figures/drawn-by-hand\.png: somebody else wrote"):
        commit = send(remaining, OPTIONS, api)
    assert set(hub.repos[REPO].commits[commit.oid]) == paths(remaining) | set(added[1:])
    commit = send(remaining, dataclasses.replace(OPTIONS, overwrite_card=True), api)
    assert set(hub.repos[REPO].commits[commit.oid]) == paths(remaining) | set(added[2:])


@pytest.mark.parametrize("edit", [lambda text: text.replace(b"# vididi", b"# Our vididi"), lambda text: b"# Ours\n"])
def test_what_somebody_edited_on_the_hub_stays(prepared, hub, api, tmp_path, edit):
    commit = send(prepared, OPTIONS, api)
    card = edit(hub.repos[REPO].commits[commit.oid]["README.md"])
    edited = [CommitOperationAdd("README.md", card), CommitOperationAdd("figures/curves.png", b"\0mine")]
    api.create_commit(REPO, edited, commit_message="by hand")
    changed = shutil.copytree(prepared, tmp_path / "changed")
    (changed / "recipe.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"keeps README\.md.*--overwrite_card replaces them"):
        tree = hub.repos[REPO].commits[send(changed, OPTIONS, api).oid]
    assert (tree["README.md"], tree["figures/curves.png"], tree["recipe.json"]) == (card, b"\0mine", b"{}")
    tree = hub.repos[REPO].commits[send(changed, dataclasses.replace(OPTIONS, overwrite_card=True), api).oid]
    assert tree == {name: (changed / name).read_bytes() for name in paths(changed)}


def test_an_edited_card_does_not_keep_the_results_of_an_earlier_version(prepared, hub, api, tmp_path):
    send(prepared, OPTIONS, api)
    api.create_commit(REPO, [CommitOperationAdd("README.md", b"# Ours")], commit_message="by hand")
    for version in (b"second", b"third"):
        changed = shutil.copytree(prepared, tmp_path / version.decode())
        (report := next((changed / "results").iterdir())).write_bytes(version)
        sign_files(changed)
        with pytest.warns(UserWarning, match=r"keeps README\.md: somebody else"):
            tree = hub.repos[REPO].commits[send(changed, OPTIONS, api).oid]
        assert (tree["README.md"], tree[f"results/{report.name}"]) == (b"# Ours", version)


@pytest.mark.parametrize("name", ["plot.png", "recipe.json", "metrics.jsonl", "metrics.json", "emissions.csv", "eval"])
def test_symbolic_links_publish_nothing(checkpoint, tmp_path, name):
    secret = tmp_path / "secret"
    (checkpoint / name).unlink(missing_ok=True)
    (checkpoint / name).symlink_to(secret)
    if name == "eval":  # the link is a folder
        secret.mkdir()
        Image.new("RGB", (4, 4)).save(secret / "plot.png")
    else:
        secret.write_text("{}")
    with pytest.raises(ValueError, match="is a symbolic link, which may lead to a private file"):
        prepare(checkpoint, tmp_path / "out")


@pytest.mark.parametrize("name", ["plot.png", "recipe.json", "metrics.jsonl", "metrics.json"])
def test_a_file_that_is_not_what_its_name_says_is_not_published(checkpoint, tmp_path, name):
    (checkpoint / name).write_text("a private key\n\n")
    if name == "metrics.json":  # an unknown kind of file is left out
        folder = prepare(checkpoint, tmp_path / "out")
        assert not any(b"a private key" in (folder / path).read_bytes() for path in paths(folder))
    else:
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            prepare(checkpoint, tmp_path / "out")


def test_places_and_markup_of_a_recipe_do_not_reach_the_card(checkpoint, tmp_path):
    recipe = json.loads((checkpoint / "recipe.json").read_text())
    recipe |= {"dataset": "s3://KEY:SECRET@bucket/<b>{{ 7 * 7 }}</b>\n# Hijacked", "optimizer": "https://u:p@h/x?sig=1"}
    (checkpoint / "recipe.json").write_text(json.dumps(recipe))
    (checkpoint / "metrics.jsonl").write_text('{"epoch": 1, "total_steps": 5, "loss": 1.0}\n')
    Image.new("RGB", (4, 4)).save(checkpoint / "a](x) <script>.png")
    folder = prepare(checkpoint, tmp_path / "out", with_code=False)
    for path in ("README.md", "recipe.json"):
        text = (folder / path).read_text()
        assert not [part for part in ("SECRET", "bucket", "u:p", "sig=1") if part in text]
    card = (folder / "README.md").read_text()
    assert not [part for part in ("<b>", "<script>", "{{", "49", "\n# Hijacked") if part in card.partition("```")[0]]
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_nothing_becomes_public_by_accident(prepared, hub, api):
    api.create_repo(REPO, private=False)
    with pytest.raises(ValueError, match="org/vididi-vicreg exists and is public: set --public"):
        send(prepared, OPTIONS, api)
    assert list(hub.repos[REPO].commits.values()) == [{}]
    commit = send(prepared, dataclasses.replace(OPTIONS, public=True, revision="tiny"), api)
    repo = hub.repos[REPO]
    assert repo.refs["tiny"] == commit.oid
    assert repo.commits[repo.refs["main"]] == {}


def test_without_a_token(prepared, hub):
    with pytest.raises(HfHubHTTPError):
        send(prepared, OPTIONS, HfApi(endpoint=hub.url, token=False))
    assert hub.repos == {}


def test_local_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "clips.csv").touch()
    for key, value, expected in (
        ("dataset", "data/clips.csv", "data"),
        ("model", str(tmp_path / "gone"), "gone"),
        ("lists", [["./here/a.mp4", "~/b.mp4"], 3, None], [["a.mp4", "b.mp4"], 3, None]),
        ("hub", "owner/name", "owner/name"),
        ("data", "data/clips.csv", "clips.csv"),
        ("output_dir", "runs/gone", "gone"),
        ("link", "https://user:pass@example.org/a?sig=1", "a"),
    ):
        assert without_local_paths({key: value}) == {key: expected}


def test_publish_in_one_call(run_folder, hub, api):
    commit = publish(run_folder, REPO, private=False, with_code=False, license="mit", api=api)
    tree = hub.repos[REPO].commits[commit.oid]
    assert not hub.repos[REPO].private
    assert b"license: mit\n" in tree["README.md"]
    assert not any(path.endswith(".py") for path in tree)


def test_dry_run_of_the_command(run_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", None)  # nothing may use the network
    (tmp_path / "notes.md").write_text("Trained on a rainy day.")
    folder = tmp_path / "out"
    options = ["--license", "mit", "--base_model", "org/encoder", "--notes", str(tmp_path / "notes.md")]
    run_command("publish", [str(run_folder), "--repo", REPO, "--dry_run", str(folder), *options])
    head, *listed, _, last = capsys.readouterr().out.splitlines()
    assert head == f"{REPO} (private):"
    assert {line.split()[-1] for line in listed} == paths(folder)
    assert last == f"Nothing was sent. The repository is in {folder}."
    card = (folder / "README.md").read_text()
    assert all(text in card for text in ("license: mit\n", "base_model: org/encoder\n", "Trained on a rainy day."))
