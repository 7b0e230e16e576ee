"""How a measured figure, its spread and its origin are written in the pages of docs/results."""

import ast
import itertools
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import ROOT, line

FOLDER = Path(__file__).parent
WIDTH = 120
NOT_KEPT = "it was not kept"
COMMANDS = {
    "augment_lidc_fold1": "compare_lidc.py --arms none standard",
    "compare_lidc_precision_fold1": "compare_lidc.py --arms fp32 bf16",
    "explain_forms_demo": "explain_forms.py",
    "explain_forms_nodules": "explain_forms.py",
    "lungs_written": "lungs.py --written",
    "training_step_no_amx": "training_step.py --no-amx",
    "training_step_slow_bf16": "training_step.py",
}
"""What made a file of figures, where it is not the script of the same name."""


@dataclass(frozen=True)
class Result:
    """What one run of a benchmark printed with --json."""

    path: Path
    command: str
    data: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    @property
    def link(self) -> str:
        """To the file, from a page of docs/results."""
        return f"[{self.path.name}](../../{self.path.relative_to(ROOT)})"


def result_files() -> dict[str, Path]:
    """All files of figures, by name."""
    evidence = ROOT / "src" / "hilum" / "planning" / "imbalance.json"  # where hilum advise reads it
    return {path.stem: path for path in (*sorted((FOLDER / "results").glob("*.json")), evidence)}


def result(name: str) -> Result:
    path = result_files()[name]
    return Result(path, COMMANDS.get(name, f"{name}.py"), json.loads(path.read_text()))


def constant(script: str, name: str) -> Any:
    """A constant of a benchmark, for what its JSON does not keep."""
    for node in ast.parse((FOLDER / f"{script}.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    msg = f"benchmarks/{script}.py has no constant {name}"
    raise KeyError(msg)


def default_rounds(script: str) -> int:
    """The rounds that a benchmark makes unless told otherwise, by its docstring."""
    found = re.search(r"\[--rounds (\d+)\]", (FOLDER / f"{script}.py").read_text())
    assert found, script
    return int(found[1])


def digits(value: float, number: int = 3) -> str:
    """A number with so many significant digits, without an exponent."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{number - 1}e}")
    places = number - 1 - int(f"{abs(rounded):e}".partition("e")[2])
    return f"{rounded:.{max(places, 0)}f}"


def small(value: float) -> str:
    """A difference that may be tiny, zero or not finite."""
    if value != value or value == float("inf"):
        return "not finite"
    if value == 0:
        return "0"
    return f"{value:.0e}" if abs(value) < 0.001 else digits(value, 1)


def fixed(value: float | None, places: int = 3, *, signed: bool = False) -> str:
    if value is None:
        return ""
    return f"{value:{'+' if signed else ''}.{places}f}"


def between(value: float, ends: Sequence[float], places: int = 3, *, signed: bool = False) -> str:
    """A figure and its interval or its spread."""
    low, high = (fixed(end, places, signed=signed) for end in ends)
    return f"{fixed(value, places, signed=signed)} ({low} to {high})"


def percent(value: float, places: int = 0) -> str:
    return f"{100 * value:.{places}f} %"


def percent_between(found: Mapping[str, Any], *, share: str = "share", places: int = 1) -> str:
    low, high = found["ci"]
    return f"{100 * found[share]:.{places}f} % ({100 * low:.{places}f} to {100 * high:.{places}f})"


def seconds(row: Mapping[str, Any]) -> str:
    return f"{digits(row['median_s'])} s ({digits(row['min_s'])} to {digits(row['max_s'])})"


def milliseconds(row: Mapping[str, Any]) -> str:
    return f"{1000 * row['median_s']:.0f} ms ({1000 * row['min_s']:.0f} to {1000 * row['max_s']:.0f})"


def span(values: Iterable[float], write: Callable[[float], str] = str) -> str:
    """Smallest and largest of several."""
    found = sorted(values)
    low, high = write(found[0]), write(found[-1])
    return low if low == high else f"{low} to {high}"


def grid(
    rows: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    columns: Sequence[Mapping[str, Any]],
    cell: Callable[[Mapping[str, Any]], str],
    *,
    least: str = "",
    last: Callable[[str], str] | None = None,
) -> list[list[str]]:
    """A line for each name, a cell for each column's conditions, and one that ``last`` writes of the name.

    The smallest ``least`` of a column is bold.
    """
    table = [[text] for text in names.values()]
    for conditions in columns:
        found = {row["row"]: row for row in rows if all(row[key] == value for key, value in conditions.items())}
        best = min((row[least] for name, row in found.items() if name in names), default=None) if least else None
        for name, cells in zip(names, table, strict=True):
            text = cell(found[name]) if name in found else ""
            cells.append(f"**{text}**" if least and name in found and found[name][least] == best else text)
    if last is not None:
        for name, cells in zip(names, table, strict=True):
            cells.append(last(name))
    return table


def plain_table(header: str | Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; a header that is one text is cut at its bars."""
    titles = header.split(" | ") if isinstance(header, str) else header
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |" for cells in lines)


def table(
    found: Result,
    header: str | Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    runs: str,
    spread: str,
    machine: Mapping[str, Any] | None = None,
) -> str:
    """A table, and below it what made it, on which machine, how often, and with which spread."""
    origin = (
        f"Script: `benchmarks/{found.command}`. Machine: {line(dict(machine or found['machine']))}. Runs: {runs}. "
        f"Spread: {spread}. All figures: {found.link}."
    )
    return plain_table(header, rows) + "\n\n" + wrapped(origin)


def wrapped(text: str) -> str:
    """A paragraph, or an item of a list, in lines that fit."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def page(title: str, *parts: str) -> str:
    """Headings and tables as they are, all else wrapped; items of a list follow one another."""
    blocks = [f"# {title}", *(part if part.startswith(("#", "|")) else wrapped(part) for part in parts)]
    text = blocks[0]
    for before, block in itertools.pairwise(blocks):
        text += ("\n" if before.startswith("- ") and block.startswith("- ") else "\n\n") + block
    return text + "\n"
