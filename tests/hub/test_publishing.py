"""What is prepared from a checkpoint, and what the real client does with it at a loopback Hub."""

import dataclasses
import json
import re
import shutil

import pytest
import torch
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image
from safetensors.torch import load_file, save_file

from vididi_hf import ViDiDiForPreTraining, ViDiDiModel
from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.cli import run_command
from vididi_hf.evaluation.results import EvaluationResult, report_of, write_report
from vididi_hf.hub.options import PublishOptions
from vididi_hf.hub.publishing import format_plan, prepare_repository, publish, send, without_local_paths
from vididi_hf.hub.remote_code import code_files

REPO = "org/vididi-vicreg"
CLIP = torch.rand(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


OPTIONS = PublishOptions(checkpoint="unused", repo=REPO)


def prepare(checkpoint, folder, **options):
    return prepare_repository(PublishOptions(**{"checkpoint": str(checkpoint), "repo": REPO, **options}), folder)


def paths(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def prepared(run_folder, tmp_path_factory):
    return prepare(run_folder, tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def api(hub, server_module):
    return HfApi(endpoint=hub.url, token=server_module.TOKEN)


@pytest.fixture
def checkpoint(run_folder, tmp_path):
    """A copy of the run's encoder that a test may change."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "video_preprocessor_config.json", "recipe.json"):
        shutil.copyfile(run_folder / name, folder / name)
    return folder


class TestPrepare:
    def test_all_that_belongs_and_nothing_else(self, prepared):
        code = {file.name for file in code_files()}
        assert paths(prepared) == code | {
            *("README.md", "config.json", "model.safetensors", "video_preprocessor_config.json"),
            *("recipe.json", "metrics.jsonl", "results/retrieval-videos-test.json"),
            *("figures/curves.png", "figures/retrieval.png"),
        }

    def test_weights_are_those_of_the_checkpoint(self, prepared, run_folder):
        original = load_file(run_folder / "model.safetensors")
        published = load_file(prepared / "model.safetensors")
        assert original.keys() == published.keys()
        assert all(torch.equal(original[name], published[name]) for name in original)

    def test_results_of_random_weights_are_left_out(self, prepared):
        [report] = [json.loads(path.read_text()) for path in (prepared / "results").iterdir()]
        assert report["random_init"] is False
        assert report["metrics"]["frames"]["R@1"] == 0.25

    def test_no_path_of_this_machine_is_published(self, prepared, run_folder):
        home = str(run_folder.parents[1])
        for name in paths(prepared):
            assert home.encode() not in (prepared / name).read_bytes()
        recipe = json.loads((prepared / "recipe.json").read_text())
        assert (recipe["dataset"], recipe["output_dir"]) == ("videos", "vididi")
        report = json.loads((prepared / "results/retrieval-videos-test.json").read_text())
        assert report["protocol"]["failed_videos"] == ["broken.mp4"]

    def test_a_checkpoint_within_a_run_takes_the_metrics_of_the_run(self, run_folder, tmp_path):
        checkpoint = run_folder / "checkpoints" / "step-00000010"
        files = prepare(checkpoint, tmp_path, with_code=False)
        assert paths(files) == {
            *("README.md", "config.json", "model.safetensors", "video_preprocessor_config.json"),
            *("recipe.json", "metrics.jsonl", "figures/curves.png"),
        }
        assert json.loads((tmp_path / "recipe.json").read_text())["seed"] == 1
        assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())

    def test_classifier_whole_and_its_encoder_alone(self, classifier_folder, tmp_path):
        prepare(classifier_folder, tmp_path / "whole", with_code=False)
        prepare(classifier_folder, tmp_path / "encoder", with_code=False, encoder_only=True)
        original = ViDiDiForVideoClassification.from_pretrained(classifier_folder).eval()
        whole = ViDiDiForVideoClassification.from_pretrained(tmp_path / "whole").eval()
        encoder = ViDiDiModel.from_pretrained(tmp_path / "encoder").eval()
        with torch.no_grad():
            assert torch.equal(whole(CLIP).logits, original(CLIP).logits)
            assert torch.equal(encoder(CLIP).pooler_output, original.vididi(CLIP).pooler_output)
        assert whole.config.id2label == {0: "rise", 1: "fall", 2: "turn"}
        assert not any("classifier" in name for name in load_file(tmp_path / "encoder" / "model.safetensors"))
        card = (tmp_path / "whole" / "README.md").read_text()
        assert "pipeline_tag: video-classification" in card
        assert "# torch.Size([1, 3])" in card

    def test_encoder_of_a_model_in_pretraining(self, checkpoint, tmp_path):
        encoder = ViDiDiModel.from_pretrained(checkpoint)
        model = ViDiDiForPreTraining(encoder.config)
        model.vididi.load_state_dict(encoder.state_dict())
        model.save_pretrained(checkpoint)
        prepare(checkpoint, tmp_path / "published")
        published = load_file(tmp_path / "published" / "model.safetensors")
        assert published.keys() == encoder.state_dict().keys()
        assert all(torch.equal(published[name], tensor) for name, tensor in encoder.state_dict().items())

    def test_results_and_figures_from_elsewhere(self, checkpoint, run_folder, tmp_path):
        Image.new("RGB", (4, 4)).save(tmp_path / "derivatives.png")
        results = [str(run_folder / "retrieval"), str(run_folder / "retrieval" / "metrics.json")]
        figures = [str(tmp_path / "derivatives.png")]
        files = prepare(checkpoint, tmp_path / "out", results=results, figures=figures, with_code=False)
        added = {path for path in paths(files) if "/" in path}
        assert added == {
            *("results/retrieval-videos-test.json", "results/retrieval-videos-test-2.json"),
            "figures/derivatives.png",
        }
        assert "A clip and its temporal derivatives" in (tmp_path / "out" / "README.md").read_text()

    def test_a_fine_tuned_classifier(self, classifier_folder, tmp_path):
        """Trained from random weights, which does not make its results those of random weights."""
        run = tmp_path / "finetuned"
        shutil.copytree(classifier_folder, run)
        recipe = {"model": str(tmp_path), "random_init": True, "dataset": "motion", "train_split": "half", "epochs": 7}
        (run / "finetuning.json").write_text(json.dumps(recipe))
        (run / "metrics.jsonl").write_text('{"epoch": 1, "total_steps": 3, "loss": 1.5, "train_accuracy": 0.5}\n')
        protocol = {"videos": 9, "failed_training_videos": [str(tmp_path / "a.mp4")]}
        result = EvaluationResult("classification", {"frames": {"top-1": 0.75}}, protocol, "top-1", dataset="motion")
        report = report_of(result, str(run), pretrained=str(tmp_path), random_init=True)
        write_report(run / "metrics.json", report)
        files = prepare(run, tmp_path / "out", with_code=False)
        assert {"finetuning.json", "results/classification-motion-test.json", "figures/curves.png"} <= paths(files)
        card = (tmp_path / "out" / "README.md").read_text()
        for line in ("| frames | 75.0 |", "| epochs | 7 |", f"| model | {tmp_path.name} |", "| steps | 3 |"):
            assert line in card
        assert "Protocol: videos 9, failed training videos 1." in card
        assert "[finetuning.json](finetuning.json)" in card
        assert "was trained on the split `half` of motion" in card
        assert not any(str(tmp_path) in path.read_text() for path in files.rglob("*.json"))

    def test_results_of_a_model_below_are_not_this_models(self, checkpoint, run_folder, tmp_path):
        shutil.copytree(run_folder / "retrieval", checkpoint / "finetuned")
        shutil.copyfile(checkpoint / "config.json", checkpoint / "finetuned" / "config.json")
        files = prepare(checkpoint, tmp_path / "out")
        assert not any(path.startswith(("results/", "figures/")) for path in paths(files))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"repo": "name"}, "repo must be owner/name, got 'name'"),
            ({"repo": "a b/c"}, "a b/c"),
            ({"checkpoint": "nothing"}, r"nothing is not a checkpoint: it has no config\.json"),
            ({"results": ["nothing.json"]}, r"nothing\.json does not exist"),
            ({"figures": ["nothing"]}, "nothing does not exist"),
            ({"results": ["CHECKPOINT/config.json"]}, r"config\.json"),
            ({"figures": ["CHECKPOINT/config.json"]}, r"config\.json is not a PNG figure"),
            ({"notes": "no.md"}, r"no\.md"),
        ],
    )
    def test_wrong_arguments(self, checkpoint, tmp_path, options, message):
        for name in ("results", "figures"):
            if name in options:
                options = {name: [path.replace("CHECKPOINT", str(checkpoint)) for path in options[name]]}
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            prepare(**{"checkpoint": checkpoint, "folder": tmp_path / "out", **options})

    def test_a_stranger(self, checkpoint, tmp_path):
        (checkpoint / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
        with pytest.raises(ValueError, match=r"is not a ViDiDi checkpoint: it was saved from BertModel"):
            prepare(checkpoint, tmp_path / "out")

    def test_missing_weights(self, checkpoint, tmp_path):
        weights = load_file(checkpoint / "model.safetensors")
        name = next(name for name in weights if name.endswith("weight"))
        del weights[name]
        save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"lacks 1 weights of ViDiDiModel, such as {re.escape(name)}"):
            prepare(checkpoint, tmp_path / "out")

    def test_a_folder_in_use(self, checkpoint):
        with pytest.raises(ValueError, match="is not empty: choose a new folder"):
            prepare(checkpoint, checkpoint)


class TestSend:
    def test_one_commit_private_with_the_same_bytes(self, prepared, hub, api, tmp_path):
        commit = send(prepared, OPTIONS, api)
        repo = hub.repos[REPO]
        assert repo.private
        assert len(repo.commits) == 2  # the Hub's own first one, and ours
        assert repo.branches["main"] == commit.oid
        tree = repo.commits[commit.oid]
        assert {path: blob.content for path, blob in tree.items()} == {
            name: (prepared / name).read_bytes() for name in paths(prepared)
        }
        assert {path for path, blob in tree.items() if blob.lfs} == {
            *("model.safetensors", "figures/curves.png", "figures/retrieval.png")
        }

    def test_again_sends_nothing(self, prepared, hub, api):
        first = send(prepared, OPTIONS, api)
        sent = hub.uploads()
        assert send(prepared, OPTIONS, api).oid == first.oid
        assert hub.uploads() == sent
        assert len(hub.repos[REPO].commits) == 2

    def test_what_a_new_version_lacks_is_removed_unless_it_is_the_users(self, prepared, hub, api, tmp_path):
        send(prepared, OPTIONS, api)
        added = ("model-00001-of-00002.safetensors", "figures/old.png", "notes.md", ".gitattributes")
        api.create_commit(REPO, [CommitOperationAdd(path, b"\0old") for path in added], commit_message="by hand")
        remaining = shutil.copytree(
            prepared, tmp_path / "remaining", ignore=shutil.ignore_patterns("figures", "results")
        )
        commit = send(remaining, OPTIONS, api)
        assert set(hub.repos[REPO].commits[commit.oid]) == paths(remaining) | {"notes.md", ".gitattributes"}

    def test_nothing_becomes_public_by_accident(self, prepared, hub, api):
        api.create_repo(REPO, private=False)
        with pytest.raises(ValueError, match="org/vididi-vicreg exists and is public: set --public"):
            send(prepared, OPTIONS, api)
        assert list(hub.repos[REPO].commits.values()) == [{}]
        send(prepared, dataclasses.replace(OPTIONS, public=True), api)
        assert not hub.repos[REPO].private

    def test_a_branch(self, prepared, hub, api):
        commit = send(prepared, dataclasses.replace(OPTIONS, revision="tiny"), api)
        repo = hub.repos[REPO]
        assert repo.branches["tiny"] == commit.oid
        assert repo.commits[repo.branches["main"]] == {}

    def test_without_a_token(self, prepared, hub):
        with pytest.raises(HfHubHTTPError):
            send(prepared, OPTIONS, HfApi(endpoint=hub.url, token=False))
        assert hub.repos == {}


def test_plan(tmp_path):
    for name, size in (("model.safetensors", 2_500_000), ("config.json", 999), ("figures/a.png", 1000)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    assert format_plan(tmp_path, OPTIONS).splitlines() == [
        "org/vididi-vicreg (private):",
        " 2.50MB  model.safetensors",
        " 1.00kB  figures/a.png",
        "   999B  config.json",
        " 2.50MB  in 3 files",
    ]
    assert format_plan(tmp_path, dataclasses.replace(OPTIONS, public=True)).startswith("org/vididi-vicreg (public):")


def test_local_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "clips.csv").touch()
    values = {
        "dataset": "data/clips.csv",
        "model": str(tmp_path / "gone"),
        "lists": [["./here/a.mp4", "~/b.mp4"], 3, None],
        "hub": "owner/name",
        "data": "data/clips.csv",
        "output_dir": "runs/gone",
        "link": "https://example.org/a",
    }
    assert without_local_paths(values) == {
        "dataset": "data",
        "model": "gone",
        "lists": [["a.mp4", "b.mp4"], 3, None],
        "hub": "owner/name",
        "data": "clips.csv",
        "output_dir": "gone",
        "link": "https://example.org/a",
    }


def test_publish_in_one_call(run_folder, hub, api):
    commit = publish(run_folder, REPO, private=False, with_code=False, license="mit", api=api)
    tree = hub.repos[REPO].commits[commit.oid]
    assert not hub.repos[REPO].private
    assert b"license: mit\n" in tree["README.md"].content
    assert not any(path.endswith(".py") for path in tree)


def test_dry_run_of_the_command(run_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", None)  # nothing may use the network
    (tmp_path / "notes.md").write_text("Trained on a rainy day.")
    folder = tmp_path / "out"
    options = ["--license", "mit", "--base_model", "org/encoder", "--notes", str(tmp_path / "notes.md")]
    run_command("publish", [str(run_folder), "--repo", REPO, "--dry_run", str(folder), *options])
    head, *listed, total, last = capsys.readouterr().out.splitlines()
    assert head == f"{REPO} (private):"
    assert {line.split()[-1] for line in listed} == paths(folder)
    assert total.endswith(f"in {len(listed)} files")
    assert last == f"Nothing was sent. The repository is in {folder}."
    card = (folder / "README.md").read_text()
    assert all(text in card for text in ("license: mit\n", "base_model: org/encoder\n", "Trained on a rainy day."))
    assert "auto_map" in json.loads((folder / "config.json").read_text())
