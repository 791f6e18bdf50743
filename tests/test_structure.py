"""The rooms of the package, and that imports go downwards, as docs/methods.md says."""

import ast
from pathlib import Path

import pytest

import vididi_hf

ROOT = Path(vididi_hf.__file__).parent
FLOORS = [
    {"objectives", "metrics", "data"},
    {"evaluation"},
    {"pretraining"},
    {"finetuning", "visualization"},
    {"detection"},
    {"study", "search", "explorer", "hub"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a file imports from, at whatever place in it."""
    modules = [
        node.module
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vididi_hf.")
    ]
    return {module.split(".")[1] for module in modules} & set(LEVEL)


def test_every_room_has_its_floor():
    assert {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()} == set(LEVEL)


@pytest.mark.parametrize("room", sorted(LEVEL))
def test_imports_go_downwards(room: str):
    for path in (ROOT / room).rglob("*.py"):
        for other in imported_rooms(path) - {room}:
            assert LEVEL[other] < LEVEL[room], f"{path.relative_to(ROOT)} imports from {other}"
