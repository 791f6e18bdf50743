"""The pages hold: Python blocks run and print what their comments say, commands parse, links and named files exist.

A comment behind a `print` is the expected output, with `…` for anything. The blocks of a page share their names.
The real options parse the commands, and nothing is run.
"""

import importlib
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser as torchrun_parser

import vididi_hf
from vididi_hf.cli import COMMANDS
from vididi_hf.data.options import SPLIT_NAMES
from vididi_hf.data.registry import DATASETS
from vididi_hf.options import parse_options
from vididi_hf.pretraining.recipe import PretrainingRecipe

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "model_cards/**/README.md")
    for path in sorted(ROOT.glob(pattern))
}
REPOSITORY = re.compile(r"https://(raw\.githubusercontent|github)\.com/vididi-hf/vididi_hf/(blob/)?main/")
# Programs of others, whose arguments are not looked at.
OTHERS = ("apt-get", "brew", "cd", "conda", "ffmpeg", "git", "hf", "pre-commit", "source")


def blocks_of(page: str, language: str) -> list[tuple[int, str]]:
    """The fenced blocks of a language, with the numbers of their first lines."""
    found = re.finditer(rf"^(<!-- not run.*\n)?```{language}\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    return [(page[: match.start(2)].count("\n") + 1, match[2]) for match in found if not match[1]]


def prose_of(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(
    checkpoint: Path, motion_root: Path, remote_code_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """`place(text)` makes the working folder one in which the paths that a text mentions exist."""

    def make(text: str) -> None:
        monkeypatch.chdir(tmp_path)
        for folder in sorted(set(re.findall(r"\b(?:runs|org|demo)/[\w-]+", text))):
            shutil.copytree(checkpoint, folder)
            Path(folder, "recipe.json").write_text(PretrainingRecipe().to_json(), encoding="utf-8")
        Path("recipe.json").write_text("{}", encoding="utf-8")
        shutil.copyfile(next(motion_root.rglob("*.mp4")), "clip.mp4")
        Path("path/to").mkdir(parents=True)
        Path("path/to/videos").symlink_to(motion_root)
        for name in ("model_cards", "scripts"):
            Path(name).symlink_to(ROOT / name)

    return make


def run_blocks(page: str, blocks: list[tuple[int, str]]) -> None:
    """Runs the blocks of a page in turn, and compares what each `print(...)  # text` says with its comment."""
    expected: dict[int, str] = {}
    told: set[int] = set()

    def checking_print(*values: object) -> None:
        line = sys._getframe(1).f_lineno
        pattern = ".*".join(map(re.escape, expected.get(line, "…").split("…")))
        text = " ".join(map(str, values))
        assert re.fullmatch(pattern, text, flags=re.DOTALL), f"{page}:{line} prints {text!r}"
        told.add(line)

    names: dict[str, object] = {"print": checking_print}
    for first, text in blocks:
        for number, line in enumerate(text.splitlines(), first):
            if match := re.match(r"\s*print\(.*\)  # (.*)", line):
                expected[number] = match[1]
        exec(compile("\n" * (first - 1) + text, page, "exec"), names)
    assert told >= set(expected), f"{page}: a print with a comment was not reached"


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if blocks_of(text, "python")])
def test_python_runs_and_prints_what_its_comments_say(page: str, place: Callable[[str], None]) -> None:
    blocks = blocks_of(PAGES[page], "python")
    place("".join(text for _, text in blocks))
    run_blocks(page, blocks)


def options_of(command: str) -> type:
    module, name = COMMANDS[command].options.split(":")
    return getattr(importlib.import_module(f"vididi_hf.{module}"), name)


def parse_vididi(words: list[str]) -> None:
    size = 2 if words[0] == "evaluate" else 1
    if words != ["--help"]:
        parse_options(options_of(" ".join(words[:size])), words[size:])


def check_command(line: str) -> None:
    """Checks a command line without running it."""
    program, *words = shlex.split(line, comments=True)
    if program in ("accelerate", "torchrun"):
        parser = launch_command_parser() if program == "accelerate" else torchrun_parser()
        launch = parser.parse_args(words[1:] if program == "accelerate" else words)
        program, words = "python", [launch.training_script, *launch.training_script_args]
        if launch.module and words.pop(0) == "vididi_hf":
            program = "vididi"
    if program == "vididi":
        parse_vididi(words)
    elif program == "python":
        source = (ROOT / words[0]).read_text(encoding="utf-8")
        if shim := re.search(r'run_command\("(.*)"\)', source):
            parse_vididi([*shim[1].split(), *words[1:]])
        else:
            assert all(flag in source for flag in re.findall(r"--(\w+)", line)), line
    elif program == "make":
        for word in words:
            name = word.replace("=", " [?]=").split("=")[0]
            assert re.search(rf"^{name}[:=]", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE), line
    elif program == "pip":
        for extra in re.findall(r"\[(\w+)\]", line):
            assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8"), line
    else:
        assert program in OTHERS, f"{line}: unknown program"


def commands_of(page: str) -> list[str]:
    lines = [line for _, block in blocks_of(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.strip() and not line.startswith("#")] + re.findall(r"`(make [^`]+)`", page)


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if commands_of(text)])
def test_commands_parse(page: str, place: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    place("\n".join(commands_of(PAGES[page])))
    for command in commands_of(PAGES[page]):
        try:
            check_command(command)
        except SystemExit:
            pytest.fail(f"{page}: {command}\n{capsys.readouterr().err}")
    assert "is now called" not in capsys.readouterr().err


def test_flags_in_the_text_exist() -> None:
    known = {spec.name for command in COMMANDS for spec in fields(options_of(command))}
    known |= {f"no_{name}" for name in known} | {"gpus-per-node", "machine_rank", "max_restarts"}
    for page in PAGES:
        if page.startswith(("docs/", "README")) and page != "docs/study.md":
            assert set(re.findall(r"`--([\w-]+)", prose_of(PAGES[page]))) <= known | {"config", "debug", "help"}, page


@pytest.mark.parametrize("page", PAGES)
def test_links_and_named_files_exist(page: str) -> None:
    text = prose_of(PAGES[page])
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not (ours := REPOSITORY.match(link)):
            if re.match(r"[a-z]+:", link):
                continue
            assert page != "README.md", f"{link}: a package index needs absolute links"
        path, _, section = link.removeprefix(ours[0] if ours else "").partition("#")
        target = (ROOT if ours else (ROOT / page).parent) / path if path else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if section:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert section in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, link
    for name in re.findall(r"`((?:[\w.]+/)*\w+\.(?:py|sbatch)|(?:tests|src|scripts)/[\w/]+/?)`", text):
        assert any((base / name).exists() for base in (ROOT, ROOT / "src/vididi_hf", ROOT / "src")), f"{page}: {name}"


def test_the_api_reference_lists_every_public_name() -> None:
    assert sorted(re.findall(r"^::: vididi_hf\.(\w+)$", PAGES["docs/api.md"], flags=re.MULTILINE)) == vididi_hf.__all__


def test_every_data_set_is_in_the_table() -> None:
    rows = [line.split("|")[1] for line in PAGES["docs/datasets.md"].splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert named - {"boxes", "box_labels", "persons", "frames", *SPLIT_NAMES} == set(DATASETS)
