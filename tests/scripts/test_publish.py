"""The script from the command line to a folder; sending is tested in `tests/hub`."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "publish.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("publish", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1), image_size=32)).save_pretrained(folder)
    ViDiDiVideoProcessor(num_frames=4, size=32, crop_size=32).save_pretrained(folder)
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "loss": 2.0}\n{"epoch": 2, "loss": 1.0}\n')
    return folder


def test_dry_run_makes_the_folder_and_lists_it(script, checkpoint, tmp_path, capsys):
    (tmp_path / "notes.md").write_text("Trained on a rainy day.")
    folder = tmp_path / "out"
    options = ["--license", "mit", "--base_model", "org/encoder", "--notes", str(tmp_path / "notes.md")]
    script.main([str(checkpoint), "--repo", "org/name", "--dry_run", str(folder), *options])
    head, *listed, total, last = capsys.readouterr().out.splitlines()
    assert head == "org/name (private):"
    assert {line.split()[-1] for line in listed} == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    }
    assert total.endswith(f"in {len(listed)} files")
    assert last == f"nothing was sent; look at {folder}"
    card = (folder / "README.md").read_text()
    assert "license: mit\n" in card
    assert "base_model: org/encoder\n" in card
    assert "Trained on a rainy day." in card
    assert (folder / "figures" / "curves.png").exists()
    assert "auto_map" in json.loads((folder / "config.json").read_text())


def test_without_code(script, checkpoint, tmp_path, capsys):
    options = ["--dry_run", str(tmp_path / "out"), "--no_with_code", "--public"]
    script.main([str(checkpoint), "--repo", "org/name", *options])
    assert capsys.readouterr().out.startswith("org/name (public):")
    assert not list((tmp_path / "out").glob("*.py"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "--repo", "org/name"], "nothing is no checkpoint: it holds no config.json"),
        (["CHECKPOINT", "--repo", "name"], "the repository must be named owner/name, got 'name'"),
        (["CHECKPOINT", "--repo", "org/name", "--license", "mine"], "license must be an identifier"),
        (["CHECKPOINT", "--repo", "org/name", "--notes", "no.md"], "No such file or directory: 'no.md'"),
        (["CHECKPOINT", "--repo", "org/name", "--results", "no.json"], "there is no no.json"),
        (["CHECKPOINT"], "the following arguments are required: --repo"),
        (["CHECKPOINT", "--repo", "org/name", "--dryrun", "x"], "unrecognized arguments: --dryrun x"),
    ],
)
def test_mistakes_are_one_line(script, checkpoint, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    arguments = [str(checkpoint) if argument == "CHECKPOINT" else argument for argument in arguments]
    with pytest.raises(SystemExit) as stop:
        script.main([*arguments, *([] if "--dryrun" in arguments else ["--dry_run", "out"])])
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
