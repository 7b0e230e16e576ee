"""Changes lines of Hilum at random, one at a time, and sees whether a test notices.

    python benchmarks/mutations.py [--seed 0] [--count 30] [--out mutations.json] [--json]

Each mutation changes one operator, number or truth value in one line of a function, drawn from the seed, room by room.
The tests that import the module directly run first, then those that import it through others, until one fails. What was
tried is kept in ``--out``, so that a stopped run goes on. Takes an hour or two on two cores.
"""

import argparse
import ast
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from machine import machine

from hilum import _HOME as API

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "hilum"
LONGEST_S = 2400
"""Tests that run longer have hung: that counts as noticed."""

COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
COMPUTED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}


def changes_in(tree):
    """(line, what, how) of each place in a function that can be changed; ``how`` changes the tree."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for statement in function.body:
            for node in ast.walk(statement):
                yield from changes_of(node)


def changes_of(node):
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
        new = COMPARED[type(node.ops[0])]
        yield node.lineno, f"{type(node.ops[0]).__name__} -> {new.__name__}", lambda: node.ops.__setitem__(0, new())
    elif isinstance(node, ast.BinOp) and type(node.op) in COMPUTED:
        new = COMPUTED[type(node.op)]
        yield node.lineno, f"{type(node.op).__name__} -> {new.__name__}", lambda: setattr(node, "op", new())
    elif isinstance(node, ast.BoolOp):
        new = ast.And if isinstance(node.op, ast.Or) else ast.Or
        yield node.lineno, f"{type(node.op).__name__} -> {new.__name__}", lambda: setattr(node, "op", new())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.lineno, "not X -> bool(X)", lambda: affirm(node)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield node.lineno, f"{node.value} -> {not node.value}", lambda: setattr(node, "value", not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield node.lineno, f"{node.value} -> {node.value + 1}", lambda: setattr(node, "value", node.value + 1)


def affirm(node):
    """Turn ``not X`` into ``+bool(X)``."""
    node.op = ast.UAdd()
    node.operand = ast.Call(func=ast.Name(id="bool", ctx=ast.Load()), args=[node.operand], keywords=[])


def drawn(seed, count):
    """(module, number of the change in it, line, what), as many from each room as can be."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    by_room = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        for number, (line, what, _) in enumerate(changes_in(ast.parse(path.read_text()))):
            by_room[name.split("/")[0]].append((name, number, line, what))
    rooms = sorted(by_room)
    rng.shuffle(rooms)
    chosen = []
    while len(chosen) < count:
        for room in rooms:
            if len(chosen) < count and by_room[room]:
                chosen.append(by_room[room].pop(rng.randrange(len(by_room[room]))))
    return chosen


def imports_of(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {node.module, *found, *(API[name[6:]] for name in found if name[6:] in API)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def tests_for(module):
    """Test files that import a module directly, and those that do through others, the nearest first."""
    dotted = "hilum." + module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    graph = {path: imports_of(path) for path in SOURCE.rglob("*.py")}
    names = {path: "hilum." + path.relative_to(SOURCE).as_posix()[:-3].replace("/", ".") for path in graph}
    distances, layer = {"hilum.cli": math.inf, dotted: 0}, {dotted}  # verbs import what they need within functions
    for distance in range(1, len(graph)):
        layer = {names[path].removesuffix(".__init__") for path, found in graph.items() if found & layer}
        layer = {name for name in layer if distances.get(name, math.inf) > distance}
        distances |= dict.fromkeys(layer, distance)
    tests = {
        path: min(distances[name] for name in found)
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        if (found := imports_of(path) & distances.keys())
    }
    through = sorted((path for path in tests if tests[path]), key=tests.get)
    return [path for path in tests if not tests[path]], through


def try_one(module, number):
    """The test that notices a change and the seconds that it took; None if none does."""
    path = SOURCE / module
    tree = ast.parse(path.read_text())
    list(changes_in(tree))[number][2]()
    began = time.monotonic()
    noticed = None
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "src", Path(folder) / "src")
        (Path(folder) / "src" / "hilum" / module).write_text(ast.unparse(ast.fix_missing_locations(tree)))
        for tests in filter(None, tests_for(module)):
            noticed = noticed or first_failure(Path(folder) / "src", tests)
    return noticed, time.monotonic() - began


def first_failure(source, tests=()):
    """The first test that fails with Hilum from a folder; None if all of them pass."""
    env = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header"]
    command += ["-n", "2", "--dist", "worksteal", *map(str, tests)]
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        return "a test that hung"
    if done.returncode in (0, 5):
        return None
    failed = [line.split(" ")[1] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return (failed or ["the import"])[0].split("/")[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("mutations.json"))
    parser.add_argument("--quick", action="store_true", help="three mutations")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    done = {(row["module"], row["number"]) for row in rows}
    if not rows and (failed := first_failure(ROOT / "src")):
        sys.exit(f"{failed} fails without any mutation")
    for module, number, line, what in drawn(args.seed, 3 if args.quick else args.count):
        if (module, number) in done:
            continue
        noticed, seconds = try_one(module, number)
        text = (SOURCE / module).read_text().splitlines()[line - 1].strip()
        rows.append(
            {"module": module, "number": number, "line": line, "text": text, "change": what, "noticed_by": noticed,
             "seconds": round(seconds)}
        )  # fmt: skip
        args.out.write_text(json.dumps({"seed": args.seed, "machine": machine("torch"), "rows": rows}, indent=1) + "\n")
        print(f"{module}:{line}  {what}  {noticed or 'NOT NOTICED'}  {seconds:.0f} s", flush=True)
    noticed = sum(row["noticed_by"] is not None for row in rows)
    print(f"{noticed} of {len(rows)} mutations were noticed")
    if args.json:
        print(json.dumps({"rows": rows, "noticed": noticed}))


if __name__ == "__main__":
    main()
