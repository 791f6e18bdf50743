"""The layers of the package: imports go downwards. File sizes and text encodings."""

import ast
from pathlib import Path

import pytest

import vididi_hf

ROOT = Path(vididi_hf.__file__).parent
REPOSITORY = Path(__file__).parents[1]
FLOORS = [{"objectives", "data"}, {"detection"}, {"evaluation"}, {"pretraining", "visualization"}, {"finetuning"}]
FLOORS += [{"search", "hub"}]
LEVEL = {package: level for level, packages in enumerate(FLOORS) for package in packages}
# Commands sit on top of the package that they belong to, and may draw.
COMMANDS = {"commands.py"}


def imported_packages(path: Path) -> set[str]:
    """The packages that a file imports from, anywhere in it."""
    modules = [
        node.module
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vididi_hf.")
    ]
    return {module.split(".")[1] for module in modules} & set(LEVEL)


def test_every_package_has_its_floor():
    assert {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()} == set(LEVEL)


@pytest.mark.parametrize("package", sorted(LEVEL))
def test_imports_go_downwards(package: str):
    for path in (ROOT / package).rglob("*.py"):
        for other in imported_packages(path) - {package} - ({"visualization"} if path.name in COMMANDS else set()):
            assert LEVEL[other] < LEVEL[package], f"{path.relative_to(ROOT)} imports from {other}"


def sources() -> list[Path]:
    folders = ("src", "tests", "scripts", "studies", "spaces", "benchmarks")
    return [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))]


def test_no_file_is_too_long_to_be_one_idea():
    long = {str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8").count("\n") for path in sources()}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def opens_text_in_the_locale(call: ast.Call) -> bool:
    """Whether a call of `open`, `read_text` or `write_text` names neither an encoding nor a binary mode."""
    if isinstance(call.func, ast.Attribute):
        owner = call.func.value.id if isinstance(call.func.value, ast.Name) else ""
        others = ("Image", "os", "av", "tarfile", "StoredEmbeddings")
        if call.func.attr not in ("open", "read_text", "write_text") or owner in others:
            return False
    elif getattr(call.func, "id", "") != "open":
        return False
    modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    binary = any("b" in mode and len(mode) <= 3 for mode in modes)
    return not binary and "encoding" not in {keyword.arg for keyword in call.keywords}


def test_text_is_utf8_whatever_the_locale():
    careless = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for path in sources()
        if "tests" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and opens_text_in_the_locale(node)
    ]
    assert careless == []
