#!/usr/bin/env python
"""Publishes runs that hold links, secrets and markup to a simulated Hub, and counts what would leak or be overwritten.

python benchmarks/faults/publishing.py --output publishing.json
"""

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from vididi_hf.hub.options import PublishOptions
from vididi_hf.hub.publishing import prepare_repository, send
from vididi_hf.options import Options, option, parse_options

MODEL = Path(__file__).resolve().parents[2] / "model_cards" / "vididi-vicreg-tiny-motion"
SECRET = "PRIVATE"
PLACES = [
    *(f"s3://KEY:{SECRET}@bucket/clips", f"https://me:{SECRET}@host/clips", f"https://host/clips?X-Signature={SECRET}"),
    *(f"file:///home/{SECRET}/clips", f"/home/{SECRET}/clips", f"C:\\Users\\{SECRET}\\clips", f"~/{SECRET}/clips"),
    *(f"\\\\{SECRET}\\share\\clips", f"simplecache::s3://KEY:{SECRET}@bucket/clips", f"s3://KEY:{SECRET}@bucket"),
    *(f"me:{SECRET}@host:/clips", f"../{SECRET}/clips", f"hf://user:{SECRET}@datasets/owner/clips"),
]
FIELDS = ("dataset", "dataset_root", "output_dir", "model", "evaluation_dataset")
MARKUP = [
    "<script>PWN</script>",
    "a\n# PWN",
    "{{ 'P' ~ 'WN' }}",
    "[x](https://PWN)",
    "a | PWN |\n| --- |",
    "--- \nPWN: 1",
]
MARKS = ["<script", "<img", "\n# PWN", "[x](https://PWN", "](PWN", "{{", "\nPWN"]


def edit(name: str, **values: Any) -> Callable[[Path], None]:
    """Sets keys of a JSON file of the run."""

    def change(run: Path) -> None:
        content = json.loads((run / name).read_text(encoding="utf-8"))
        (run / name).write_text(json.dumps(content | values), encoding="utf-8")

    return change


def link(name: str, folder: bool = False) -> Callable[[Path], None]:
    """Replaces a file of the run, or adds one, by a link to a private one."""

    def change(run: Path) -> None:
        target = run.parent / "private"
        if folder:
            target.mkdir()
            Image.new("RGB", (4, 4)).save(target / "plot.png", pnginfo=None)
            (target / "plot.png").write_bytes((target / "plot.png").read_bytes() + SECRET.encode())
        else:
            target.write_text(json.dumps({"private": SECRET}), encoding="utf-8")
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(target)

    return change


def text(name: str) -> Callable[[Path], None]:
    """Writes a private text under the name of another kind of file."""
    return lambda run: (run / name).write_text(f"{SECRET}\n\n", encoding="utf-8") and None


def figure(name: str) -> Callable[[Path], None]:
    """Adds a picture of a hostile name."""
    return lambda run: Image.new("RGB", (4, 4)).save(run / name)


LEAKS: dict[str, Callable[[Path], None]] = {
    **{f"{field} {place}": edit("recipe.json", **{field: place}) for field in FIELDS for place in PLACES},
    **{f"nested {place}": edit("recipe.json", extra={"deep": [place], place: 1}) for place in PLACES},
    **{f"sentence {place}": edit("recipe.json", extra=f"read {place} twice") for place in PLACES[:7]},
    **{f"link {name}": link(name) for name in ("plot.png", "recipe.json", "metrics.jsonl", "emissions.csv", "a.json")},
    "link to a folder": link("plots", folder=True),
    **{f"text {name}": text(name) for name in ("plot.png", "recipe.json", "metrics.jsonl", "a.json", "metrics.json")},
}
INJECTIONS: dict[str, Callable[[Path], None]] = {
    **{f"dataset {text!r}": edit("recipe.json", dataset=text, split=text) for text in MARKUP},
    **{f"optimizer {text!r}": edit("recipe.json", optimizer=text) for text in MARKUP},
    **{f"figure {name}": figure(name) for name in ("<img src=PWN>.png", "a](PWN).png", "{{ PWN }}.png", "# PWN.png")},
}


class Hub:
    """Keeps one repository in memory, with what `send` asks of the client."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.folder = tempfile.mkdtemp()

    def model_info(self, repo: str) -> Any:
        return SimpleNamespace(private=True)

    def create_repo(self, *args: Any, **options: Any) -> None:
        """It exists."""

    def list_repo_files(self, repo: str, revision: str) -> list[str]:
        return list(self.files)

    def hf_hub_download(self, repo: str, name: str, **options: Any) -> str:
        path = Path(self.folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.files[name])
        return str(path)

    def create_commit(self, repo: str, operations: list[Any], **options: Any) -> Any:
        for one in operations:
            if hasattr(one, "path_or_fileobj"):
                self.files[one.path_in_repo] = Path(one.path_or_fileobj).read_bytes()
            else:
                del self.files[one.path_in_repo]
        return SimpleNamespace(commit_url="")


def published(run: Path, folder: Path) -> str:
    """Returns all JSON, Markdown and pictures that would be sent, as text; empty if it is refused."""
    try:
        prepare_repository(PublishOptions(checkpoint=str(run), repo="me/x", with_code=False), folder)
    except (OSError, ValueError):
        return ""
    paths = [path for path in folder.rglob("*") if path.suffix in (".md", ".json", ".jsonl", ".png")]
    return "\n".join(f"{path.name}\n{path.read_bytes().decode(errors='replace')}" for path in paths)


def hand_edits_kept(folder: Path) -> dict[str, bool]:
    """Publishes twice with edits by hand in between: whether each edit is still there."""
    options, hub = PublishOptions(checkpoint=str(MODEL), repo="me/x", with_code=False), Hub()
    client: Any = hub
    send(prepare_repository(options, folder / "first"), options, client)
    edits = {"README.md": b"by hand", "figures/curves.png": b"by hand", "figures/drawn.png": b"by hand"}
    hub.files |= edits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        send(prepare_repository(options, folder / "second"), options, client)
    return {name: hub.files.get(name) == content for name, content in edits.items()}


@dataclass(kw_only=True)
class PublishingOptions(Options):
    """The options of the test."""

    output: str = option(default="publishing.json", help="JSON file of the results.")


def main() -> None:
    """Runs all cases and writes what leaked."""
    options = parse_options(PublishingOptions, description=__doc__)
    report: dict[str, Any] = {}
    for kind, cases, marks in (("leaks", LEAKS, [SECRET]), ("injections", INJECTIONS, MARKS)):
        failed = []
        for name, change in cases.items():
            with tempfile.TemporaryDirectory() as temporary:
                run = shutil.copytree(MODEL, Path(temporary, "run"))
                change(run)
                content = published(run, Path(temporary, "out"))
            if kind == "injections":  # of the card, without its front matter and code
                card = content.partition("README.md\n---")[2].partition("\n---\n")[2]
                content = card.partition("```")[0] + card.partition("\n## Network")[2].partition("```bibtex")[0]
            failed += [name] if any(one in content for one in marks) else []
        report[kind] = {"cases": len(cases), "failed": failed}
    with tempfile.TemporaryDirectory() as temporary:
        report["hand edits kept"] = hand_edits_kept(Path(temporary))
    Path(options.output).write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
