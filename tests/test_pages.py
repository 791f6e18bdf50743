"""What the pages and the cards say can be typed: Python blocks run and print what their comments say, commands parse.

A comment behind a `print` is what is printed; `…` in it stands for anything. The blocks of a page share their names,
and run in a folder where the paths that the pages speak of exist: tiny checkpoints, a set of videos, and the project's
own folders. Of a command line, the real parser of the script reads the arguments; nothing is trained.
"""

import ast
import builtins
import dataclasses
import functools
import importlib.util
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from accelerate.commands.launch import launch_command_parser
from transformers import HfArgumentParser

from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.hub.remote_code import carry_code
from vididi_hf.pretraining.recipe import PretrainingRecipe

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]) + sorted(
    ROOT.glob("model_cards/**/README.md")
)
SCRIPTS = [
    path
    for path in sorted([*ROOT.glob("scripts/*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("spaces/*/*.py")])
    if "\nif __name__ ==" in path.read_text()  # the others are imported by these
]
SHELL = ("bash", "shell")
# Languages of blocks that show something and are not typed.
SHOWN = ("text", "json", "bibtex", "yaml")
# Programs that are not ours and whose arguments are not looked at.
STRANGERS = ("apt-get", "brew", "cd", "conda", "curl", "ffmpeg", "git")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the line that it begins in."""

    language: str
    text: str
    line: int


def blocks_of(page: str) -> list[Block]:
    found = re.finditer(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", page, flags=re.MULTILINE)
    return [
        Block(
            match[2], re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE), page[: match.start(3)].count("\n") + 1
        )
        for match in found
    ]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


BLOCKS = {name_of(page): blocks_of(page.read_text()) for page in PAGES}


def test_no_block_escapes() -> None:
    assert sum(block.language == "python" for blocks in BLOCKS.values() for block in blocks) >= 10
    for page, blocks in BLOCKS.items():
        assert (ROOT / page).read_text().count("```") == 2 * len(blocks), page
        for block in blocks:
            allowed = ("python", *SHELL, *SHOWN)
            assert block.language in allowed, f"{page}:{block.line}: a block is one of {', '.join(allowed)}"


# Python


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder whose encoder carries its code."""
    folder = tmp_path_factory.mktemp("pages") / "checkpoint"
    config = ViDiDiConfig(hidden_sizes=(4, 8, 16, 16), depths=(1, 1, 1, 1), image_size=40, num_frames=8)
    ViDiDiModel(config).save_pretrained(folder)
    ViDiDiVideoProcessor(num_frames=8, size={"shortest_edge": 46}, crop_size=40).save_pretrained(folder)
    carry_code(folder)
    PretrainingRecipe().save(folder)
    return folder


@pytest.fixture
def place(
    tiny_checkpoint: Path,
    motion_root: Path,
    remote_code_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], None]:
    """`place(text)` makes the working folder one in which the paths that a text speaks of exist."""

    def make(text: str) -> None:
        monkeypatch.chdir(tmp_path)
        for checkpoint in sorted(set(re.findall(r"\b(?:runs|org|demo)/[\w-]+", text))):
            shutil.copytree(tiny_checkpoint, checkpoint)
        shutil.copyfile(tiny_checkpoint / "recipe.json", "recipe.json")
        Path("path/to").mkdir(parents=True)
        for link in ("path/to/videos", "videos"):
            Path(link).symlink_to(motion_root)
        for folder in ("model_cards", "scripts"):
            Path(folder).symlink_to(ROOT / folder)

    return make


def promises(source: str) -> dict[int, str]:
    """By line of a `print`, the comment behind it."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string[1:].strip() for token in tokens if token.type == tokenize.COMMENT}
    return {
        node.lineno: comments[node.end_lineno]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        if node.end_lineno in comments
    }


def run_blocks(page: str, blocks: list[Block]) -> None:
    """Runs the blocks of a page one after the other, and compares what each `print` says with its comment."""
    waiting: dict[int, str] = {}
    kept: set[int] = set()

    def checking_print(*values: object, **options: object) -> None:
        printed = io.StringIO()
        builtins.print(*values, file=printed, **options)
        line = sys._getframe(1).f_lineno
        if line in waiting:
            pattern = ".*".join(map(re.escape, waiting[line].split("…")))
            assert re.fullmatch(pattern, printed.getvalue().strip(), flags=re.DOTALL), (
                f"{page}:{line} prints {printed.getvalue()!r}, and its comment says {waiting[line]!r}"
            )
            kept.add(line)

    names: dict[str, object] = {"print": checking_print}
    for block in blocks:
        source = "\n" * (block.line - 1) + block.text  # so that lines are those of the page
        waiting |= promises(source)
        exec(compile(source, page, "exec"), names)
    assert set(waiting) == kept, f"{page}: a print with a comment was never reached"


@pytest.mark.filterwarnings("ignore:kinetics400")
@pytest.mark.parametrize(
    "page", [page for page, blocks in BLOCKS.items() if any(b.language == "python" for b in blocks)]
)
def test_python_runs_and_prints_what_its_comments_say(page: str, place: Callable[[str], None]) -> None:
    blocks = [block for block in BLOCKS[page] if block.language == "python"]
    place("".join(block.text for block in blocks))
    run_blocks(page, blocks)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import vididi_hf.nothing", "No module named"),
        ("for i in range(2):\n    print(i)  # 0", r"page:4 prints '1\\n', and its comment says '0'"),
        ("print(\n    1\n)  # 2", "page:3 prints"),
        ("if False:\n    print(1)  # 1", "never reached"),
    ],
)
def test_a_wrong_block_is_noticed(text: str, error: str) -> None:
    run_blocks("page", blocks_of("```python\nprint(1, 'x')  # 1 …\n```\n"))
    with pytest.raises((ImportError, AssertionError), match=error):
        run_blocks("page", blocks_of(f"\n```python\n{text}\n```\n"))


# Commands


class Parsed(Exception):
    """No error: it stops a script where its work would begin, the parser having read the command line."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends every script when its arguments are read and checked."""

    def ending(original: Callable[..., object]) -> Callable[..., object]:
        def parse(parser: HfArgumentParser, *arguments: object, **options: object) -> object:
            values = original(parser, *arguments, **options)
            if not isinstance(values, tuple):  # which holds dataclasses already
                for kind in parser.dataclass_types:
                    kind(
                        **{field.name: getattr(values, field.name) for field in dataclasses.fields(kind) if field.init}
                    )
            raise Parsed

        return parse

    for name in ("parse_args", "parse_args_into_dataclasses"):
        monkeypatch.setattr(HfArgumentParser, name, ending(getattr(HfArgumentParser, name)))


@functools.cache
def module_of(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"page_script_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(script.parent))  # as Python does
        spec.loader.exec_module(module)
    return module


def commands_of(text: str) -> list[str]:
    """The command lines of a block, without comments, and with continued lines joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def check_command(line: str) -> None:
    """Checks a command line as far as can be without running it.

    Raises:
        AssertionError: If it would not work, or is of a kind that cannot be checked.
        SystemExit: If a parser refuses the arguments; it has said why on stderr.
    """
    words = shlex.split(line, comments=True)
    while words and (words[0] == "srun" or re.fullmatch(r"[A-Z_]+=.*", words[0])):
        del words[0]
    program, *arguments = words
    if program == "accelerate":
        assert arguments[0] == "launch", line
        launch = launch_command_parser().parse_args(arguments[1:])
        program, arguments = "python", [launch.training_script, *launch.training_script_args]
    if program == "python":
        script = ROOT / arguments[0]
        assert script in SCRIPTS, f"{line}: there is no {arguments[0]}"
        main = module_of(script).main
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", arguments)
            with pytest.raises(Parsed):
                main()
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text()
        for word in arguments:
            name, is_variable, _ = word.partition("=")
            pattern = rf"^{re.escape(name)} \?=" if is_variable else rf"^{re.escape(name)}:"
            assert re.search(pattern, makefile, flags=re.MULTILINE), f"{line}: the Makefile has no {name}"
    elif program == "pip":
        for extras in re.findall(r"\[(.*?)\]", line):
            for extra in extras.split(","):
                assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(), f"{line}: there is no extra {extra}"
    elif program == "hf":
        client = [sys.executable, "-c", "from huggingface_hub.cli.hf import main; main()", *arguments, "--help"]
        told = subprocess.run(client, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        assert told.returncode == 0, f"{line}: {told.stderr}"
    else:
        assert program in STRANGERS, f"{line}: nobody knows how to check {program}"


# What pages, and the docstrings of the scripts, say to type.
COMMANDS = {
    page: [c for b in blocks if b.language in SHELL for c in commands_of(b.text)] for page, blocks in BLOCKS.items()
}
COMMANDS |= {
    name_of(script): [
        line
        for line in commands_of(ast.get_docstring(ast.parse(script.read_text())) or "")
        if re.match(r"(python|accelerate launch) ", line)
    ]
    for script in SCRIPTS
}
# And in the middle of a sentence.
for each in PAGES:
    prose = re.sub(r"^ *```.*?^ *```", "", each.read_text(), flags=re.MULTILINE | re.DOTALL)
    COMMANDS[name_of(each)] += re.findall(r"`((?:make|hf|python (?:scripts|benchmarks)/\S+\.py) [^`]+)`", prose)


@pytest.mark.parametrize("page", [page for page, commands in COMMANDS.items() if commands])
def test_commands_can_be_typed(
    page: str, place: Callable[[str], None], parse_only: None, capsys: pytest.CaptureFixture[str]
) -> None:
    place("\n".join(COMMANDS[page]))
    for command in COMMANDS[page]:
        try:
            check_command(command)
        except SystemExit:
            pytest.fail(f"{page}: {command}\n{capsys.readouterr().err}")


@pytest.mark.parametrize(
    "command",
    [
        "python scripts/nothing.py",
        "python scripts/pretrain.py --dataste x",
        "python scripts/pretrain.py --objective vicrge",
        "srun accelerate launch scripts/pretrain.py --epochs many",
        "accelerate launch --num_proc 2 scripts/pretrain.py --epochs 1",
        "python scripts/publish.py runs/vididi",
        "make nothing",
        "make demo DATASTE=x",
        "pip install 'vididi-hf[nothing]'",
        "hf auth logging-in",
        "nobody",
    ],
)
def test_a_wrong_command_is_noticed(command: str, parse_only: None) -> None:
    with pytest.raises((AssertionError, SystemExit, pytest.fail.Exception)):
        check_command(command)


@functools.cache
def flags() -> set[str]:
    """The flags of all scripts."""
    found: set[str] = set()

    def keep(parser: HfArgumentParser, *_: object, **__: object) -> None:
        found.update(parser._option_string_actions)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        for name in ("parse_args", "parse_args_into_dataclasses"):
            patch.setattr(HfArgumentParser, name, keep)
        for script in SCRIPTS:
            patch.setattr(sys, "argv", [str(script)])
            with pytest.raises(Parsed):
                module_of(script).main()
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_flags_in_the_middle_of_a_sentence_exist(page: Path) -> None:
    named = set(re.findall(r"`(--\w+)", page.read_text()))
    assert named <= flags(), f"{page.name} names {', '.join(sorted(named - flags()))}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_and_sections_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for folder, rest in re.findall(
        r"(?<![\w/.-])(src|scripts|tests|docs|benchmarks)/([\w./-]*\.(?:py|md|json|png))\b", text
    ):
        assert (ROOT / folder / rest).exists(), f"{page.name} names {folder}/{rest}"
    for module in re.findall(r"`([\w/]+/\w+\.py)`", text):  # its folder may be left out where that is clear
        assert (ROOT / module).exists() or any(ROOT.glob(f"src/**/{module}")), f"{page.name} names {module}"
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, section = link.partition("#")
        target = Path(os.path.normpath(page.parent / path)) if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if section:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert section in anchors, f"{page.name} links to {link}"
