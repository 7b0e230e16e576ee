"""The notebooks: stored without outputs, of names that exist; in the slow tests they run from beginning to end."""

import ast
import importlib
import re
import shutil
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import hilum

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LIMIT_S = 120


def cells(path: Path, kind: str) -> list[str]:
    return [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


def test_there_are_three():
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_stored_without_outputs(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_one_title_and_says_how_long_it_takes(path):
    texts = cells(path, "markdown")
    assert texts[0].startswith("# ")
    assert "It takes" in texts[0]
    assert sum(line.startswith("# ") for text in texts for line in text.splitlines()) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_takes_from_hilum_is_there(path):
    """Found without running it: the slow test does that."""
    tree = ast.parse("\n".join(cells(path, "code")))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_hilum(node.value)}
    assert used
    told = re.findall(r"`hilum\.(\w+)", "\n".join(cells(path, "markdown")))
    assert {*used, *told} <= {*hilum.__all__}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hilum"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)


def _is_hilum(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "hilum"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_link_of_a_notebook_leads_somewhere(path):
    from test_docs import links_of  # which has them of all pages

    for text in cells(path, "markdown"):
        for target in links_of(text):
            assert (FOLDER / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_to_its_end_in_less_than_two_minutes(path, tmp_path, monkeypatch):
    """In a kernel of its own on all cores, as a user has it."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    shutil.copy(path, tmp_path)
    notebook = nbformat.read(path, 4)
    started = time.monotonic()
    NotebookClient(
        notebook, timeout=2 * LIMIT_S, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    assert time.monotonic() - started < LIMIT_S
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("text/html" in output.get("data", {}) for output in shown)
    assert not [output for output in shown if output.output_type == "error"]
