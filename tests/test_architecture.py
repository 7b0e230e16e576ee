"""The rooms and the order in which they may import one another."""

import ast
import io
import re
import tokenize
from collections import defaultdict
from pathlib import Path

import pytest

import hilum

ROOT = Path(hilum.__file__).parent
ROOMS = [
    "errors", "arrays", "files", "findings", "interchange", "imagefile", "orientation", "pages", "volume", "randomness",
    "drawing", "settings", "measuring", "working", "reading", "simulating", "preparing", "cohorts", "modelling",
    "deciding", "planning", "training", "predicting", "judging", "serving", "demo", "cli",
]  # fmt: skip
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room(module: Path) -> str:
    return module.parts[0].removesuffix(".py")


def imported(module: Path) -> set[str]:
    """Rooms that a module imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hilum"):
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names if alias.name.startswith("hilum"))
    return {name.split(".")[1] for name in names if "." in name}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_imports_only_from_rooms_above_its_own(module):
    own = ROOMS.index(room(module))
    for name in imported(module):
        assert name == room(module) or ROOMS.index(name) < own, f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_begins_with_one_sentence(module):
    text = (ROOT / module).read_text()
    first = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    assert len(first) > 20, module
    assert first.endswith((".", ":")), module


def test_the_ground_and_the_settings_import_no_torch():
    for module in MODULES:
        if ROOMS.index(room(module)) > ROOMS.index("settings"):
            continue
        tree = ast.parse((ROOT / module).read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        assert not {n for n in names if n.split(".")[0] in ("torch", "lightning_fabric")}, module


def test_nothing_is_pickled():
    for module in MODULES:
        text = (ROOT / module).read_text()
        assert "import pickle" not in text, module
        for call in re.findall(r"torch\.load\([^()]*\)?", text):
            assert module == Path("modelling/weights/file.py"), module
            assert call.endswith("weights_only=True)"), call
        assert "torch.save(" not in text, module


def test_no_public_name_is_defined_twice():
    homes = defaultdict(set)
    for module in MODULES:
        for node in ast.parse((ROOT / module).read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [one.id for one in targets if isinstance(one, ast.Name)]
            names += [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            for name in names:
                homes[name].add(str(module))
    twice = {name: sorted(found) for name, found in homes.items() if len(found) > 1 and not name.startswith("_")}
    assert twice == {}


def code_lines(tree, source):
    """Lines that hold code: no comment, no docstring, no blank."""
    said = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            said |= set(range(node.lineno, node.end_lineno + 1))
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            found |= set(range(token.start[0], token.end[0] + 1))
    return found - said


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_function_has_more_than_sixty_lines_of_code_without_a_reason_above_it(module):
    source = (ROOT / module).read_text()
    tree, lines = ast.parse(source), source.splitlines()
    code = code_lines(tree, source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            size = len(code & set(range(node.lineno, node.end_lineno + 1)))
            most = 50 if node.name in ("fit", "train", "evaluate", "judge") else 60
            has_reason = most == 60 and lines[node.lineno - 2].strip().startswith("#")
            assert size <= most or has_reason, f"{module}: {node.name} has {size} lines"
