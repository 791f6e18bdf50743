"""The notebook runs from its first cell to its last, in the folder it lies in, and shows its pictures.

Its cells are executed here, in one fresh namespace: that needs no Jupyter. The only line that is not Python, the magic
that makes notebooks show figures, is left out.
"""

import ast
import json
from pathlib import Path

import torch
from matplotlib.figure import Figure

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "tour.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def show(code, names):
    """Executes a cell as Jupyter does and returns what it would show: the value of its last expression."""
    body = ast.parse(code).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), NOTEBOOK.name, "exec"), names)
    return eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names) if last else None


def test_cells_run_and_show_pictures(monkeypatch):
    monkeypatch.chdir(NOTEBOOK.parent)
    first, *rest = CODE
    magic, imports = first.split("\n", 1)
    assert magic == "%matplotlib inline"
    names: dict = {}
    shown = [show(code, names) for code in (imports, *rest)]
    figures = [value for value in shown if isinstance(value, Figure)]
    assert len(figures) == 4
    assert all(len(figure.axes) >= 15 for figure in figures)
    assert shown[1] == torch.Size([10, 3, 64, 64])


def test_no_outputs_are_committed():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS if "outputs" in cell)
