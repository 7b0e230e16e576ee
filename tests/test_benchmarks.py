"""Benchmarks lose no row in silence: what they are measured beside is there, or they end and say what is not."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
RIVALS = {"monai", "torchio", "elasticdeform", "zarr", "blosc2", "onnxruntime"}


def _imported(path: Path) -> set[str]:
    """Libraries of others that a benchmark imports, itself or by its modules beside it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        found = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        found += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in found:
            beside = FOLDER / f"{name}.py"
            names |= _imported(beside) if beside.is_file() and name != path.stem else {name.split(".")[0]}
    return names & RIVALS


def _needed(path: Path) -> set[str]:
    """What it names to ``need``, wherever in the call."""
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    called = [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == "need"]
    return {c.value for call in called for c in ast.walk(call) if isinstance(c, ast.Constant)}


@pytest.mark.parametrize("name", ["augment", "reading", "preparing", "training_step", "store", "gpu"])
def test_a_benchmark_asks_for_all_that_its_rows_need_before_it_begins(name):
    path = FOLDER / f"{name}.py"
    needed = _needed(path)
    needed |= _needed(FOLDER / "augment.py") if "augment" in needed else set()  # it is imported as a whole
    wanted = _imported(path) - ({"onnxruntime"} if name == "training_step" else set())  # that row is of prediction
    assert wanted
    assert wanted <= needed


def test_the_tutorial_needs_elasticdeform_which_no_import_at_the_top_shows():
    assert "elasticdeform" in _needed(FOLDER / "augment.py")


def test_a_row_that_would_be_lost_ends_a_benchmark_and_names_the_library(tmp_path):
    (tmp_path / "elasticdeform.py").write_text("raise ImportError('numpy.core.multiarray failed to import')")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, FOLDER / "augment.py", "--quick"],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "elasticdeform cannot be imported, and its row would be lost (numpy.core.multiarray" in done.stderr
    assert "scripts/bench installs it" in done.stderr


def test_every_benchmark_has_a_quick_run():
    scripts = [path for path in FOLDER.glob("*.py") if "ArgumentParser" in path.read_text()]
    assert len(scripts) > 15
    assert [path.name for path in scripts if '"--quick"' not in path.read_text()] == []


def test_the_steps_that_a_benchmark_times_are_functions_of_hilum():
    """It replaces them by name, which nothing else would notice when they are renamed."""
    tree = ast.parse((FOLDER / "preparing.py").read_text())
    (steps,) = (n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "STEPS")
    for _, module, names in ast.literal_eval(steps):
        assert all(callable(getattr(importlib.import_module(module), name)) for name in names)


def test_the_script_runs_a_benchmark_by_its_name_alone():
    done = subprocess.run([ROOT / "scripts" / "bench", "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "NAME being a file of benchmarks/ without .py; got 'nothing'" in done.stderr
