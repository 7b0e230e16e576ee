"""The table of what became of each scan below a path."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from hilum.cohorts.scans import NO_SCANS
from hilum.errors import HilumError
from hilum.files import check_output, csv_text, write_whole
from hilum.serving.record import WrittenScan

ScanColumns: TypeAlias = Mapping[str, Callable[[WrittenScan], object]]
"""Head of each column, and the cell of a scan in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanTable:
    """The table of a verb.

    Attributes:
        columns: Its columns, among them ``name`` and ``file``.
        path: The file that was asked for; None: none was.
        name: Its name in each folder where none was asked for; empty: it is not written there.
    """

    columns: ScanColumns
    path: Path | None = None
    name: str = ""


def check_scan_table(path: Path, columns: ScanColumns) -> None:
    """Make sure that a table is new, or was written by the same verb.

    Raises:
        HilumError: If another file would be overwritten.
    """
    check_output(path, f"^{','.join(columns)}")


def first_file(one: WrittenScan) -> str:
    """Cell of the column ``file``."""
    return one.files[0] if one.files else ""


def write_scan_table(
    path: Path, found: Sequence[WrittenScan], columns: ScanColumns, *, folder: Path, keep_paths: bool
) -> None:
    """Write a row for each scan, and keep the rows of others whose files are still there.

    Args:
        path: The table.
        found: The scans.
        columns: The columns, among them ``name`` and ``file``.
        folder: Where the files are.
        keep_paths: Whether one more column, ``where``, holds the path below the one that was asked for.

    Raises:
        HilumError: If it cannot be read or written.
    """
    check_scan_table(path, columns)
    shown = dict(columns)
    if keep_paths:
        shown["where"] = lambda one: one.where
    rows = [{head: cell(one) for head, cell in shown.items()} for one in found]
    rows = sorted([*_kept_rows(path, found, folder), *rows], key=lambda row: str(row["name"]))
    cells = ([row.get(head) for head in shown] for row in rows)
    write_whole(path, csv_text([list(shown), *cells]), follow=False)


def _kept_rows(path: Path, found: Sequence[WrittenScan], folder: Path) -> list[dict[str, Any]]:
    """The rows of a table that no scan replaces, and whose files are in a folder.

    Raises:
        HilumError: If the table is damaged.
    """
    if not path.exists():
        return []
    replaced = {name for one in found for name in one.files or (one.name,)}
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            before = list(csv.DictReader(file))
    except csv.Error as exc:
        msg = f"cannot be read: {exc}; remove it, and it is written anew"
        raise HilumError(msg, path=path) from exc
    return [
        row
        for row in before
        if row["file"] and replaced.isdisjoint((row["name"], row["file"])) and (folder / row["file"]).is_file()
    ]


def num_refused(found: Sequence[WrittenScan]) -> int:
    """Number of scans without files; localizers, pages of text and other modalities are not counted."""
    return sum(not one.files and one.code not in NO_SCANS for one in found)


def check_usable(found: Sequence[WrittenScan], where: str = "") -> None:
    """Make sure that files were written of any scan.

    Args:
        found: The scans; at least one.
        where: Where all reasons are listed.

    Raises:
        HilumError: If there are none; it has the reason of the first.
    """
    if not any(one.files for one in found):
        first = next((one for one in found if one.code not in NO_SCANS), found[0])
        which = f"all {len(found)} scans are" if len(found) > 1 else "the only scan is"
        msg = f"{which} refused{where}; {first.name}: {first.reason}"
        raise HilumError(msg, code=first.code or None)


def refused_lines(found: Sequence[WrittenScan], *, keep_paths: bool) -> list[str]:
    """A line for each scan without files, with the reason."""
    return [
        f"refused, {one.name}{f' in {one.where}' if keep_paths and one.where else ''}: {one.reason}"
        for one in found
        if not one.files
    ]


def summary_line(found: Sequence[WrittenScan]) -> str:
    """How many scans were written, were there, and are refused."""
    written, new = sum(bool(one.files) for one in found), sum(bool(one.files) and one.is_new for one in found)
    there = f", {written - new} {'was' if written - new == 1 else 'were'} there" if new < written else ""
    refused = f", {len(found) - written} refused" if written < len(found) else ""
    return f"{written} {'scan' if written == 1 else 'scans'}{there}{refused}"


def as_summary(found: Sequence[WrittenScan], *, keep_paths: bool) -> dict[str, Any]:
    """The same as plain values, for JSON."""
    scans = []
    for one in found:
        record = {name: value for name, value in asdict(one).items() if name not in ("where", "lungs")}
        record["findings"] = [{k: v for k, v in finding.items() if k != "where"} for finding in record["findings"]]
        record |= {"lungs": one.lungs} if one.lungs is not None else {}
        scans.append(record | ({"where": one.where} if keep_paths else {}))
    return {"scans": scans, "num_refused": num_refused(found)}
