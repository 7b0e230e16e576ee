"""A CSV, Excel or Parquet file to rows of text, each with the number that a spreadsheet shows."""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hilum.errors import CohortError

SUFFIXES = (".csv", ".tsv", ".xlsx", ".parquet")

_SEPARATORS = (",", ";", "\t")

_WHOLE = re.compile(r"([+-]?\d+)\.0*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a table.

    Attributes:
        number: As a spreadsheet counts: the header is row 1.
        cells: Text by column, without blanks around it; empty where the cell is.
    """

    number: int
    cells: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A table as text.

    Attributes:
        columns: Their names, in order.
        rows: All rows that hold anything.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_sheet(path: Path) -> Sheet:
    """Read a table with every cell as text, so that an id such as 007 stays one.

    The first row is the header; of a workbook the first sheet is read; rows without any text are passed over.
    A CSV file is UTF-8, separated by commas, semicolons or tabs, whichever its header has most of.

    Raises:
        CohortError: If there is no such file, its suffix is unknown, it is not what its suffix says, or it is empty.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        msg = f"{path}: a table must end in {', '.join(SUFFIXES)}, got {path.suffix or 'no suffix'}"
        raise CohortError(msg)
    if not path.is_file():
        msg = f"{path}: {'a table must be a file, got a folder' if path.is_dir() else 'there is no such table'}"
        raise CohortError(msg)
    try:
        header, lines = {".xlsx": _excel, ".parquet": _parquet}.get(suffix, _text)(path)
    except ImportError as exc:
        msg = f"{path}: reading {suffix} tables needs: pip install 'hilum[tables]'"
        raise CohortError(msg) from exc
    except pd.errors.EmptyDataError as exc:
        msg = f"{path}: the table is empty; row 1 must hold the names of the columns"
        raise CohortError(msg) from exc
    except UnicodeDecodeError as exc:
        msg = f"{path}: the table must be text in UTF-8, got other bytes; save it as 'CSV UTF-8'"
        raise CohortError(msg) from exc
    except (OSError, ValueError, KeyError, SyntaxError, zipfile.BadZipFile) as exc:
        msg = f"{path}: the file cannot be read as a {suffix} table: {' '.join(str(exc).split())}"
        raise CohortError(msg) from exc
    return _sheet(path, header, lines)


def _sheet(path: Path, header: list[str], lines: list[list[str]]) -> Sheet:
    """Name the cells; columns without a name may only be empty."""
    names = [name.strip() for name in header]
    if not any(names):
        msg = f"{path}: row 1 must hold the names of the columns, got an empty row"
        raise CohortError(msg)
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        msg = f"{path}: the names of the columns must differ, got {twice[0]!r} {names.count(twice[0])} times"
        raise CohortError(msg)
    rows = []
    for number, line in enumerate(lines, start=2):
        cells = [cell.strip() for cell in line]
        for position, (name, cell) in enumerate(zip(names, cells, strict=True), start=1):
            if cell and not name:
                msg = f"{path}: column {position} must have a name in row 1, since row {number} holds text there"
                raise CohortError(msg)
        if any(cells):
            rows.append(Row(number=number, cells={n: c for n, c in zip(names, cells, strict=True) if n}))
    if not rows:
        msg = f"{path}: the table must hold at least one case below its header, got none"
        raise CohortError(msg)
    return Sheet(columns=tuple(name for name in names if name), rows=tuple(rows))


def _text(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline()
    separator = max(_SEPARATORS, key=first.count)
    frame = pd.read_csv(
        path,
        sep=separator,
        header=None,
        dtype=str,
        keep_default_na=False,
        skip_blank_lines=False,
        encoding="utf-8-sig",
    )
    return _split_header(frame)


def _excel(path: Path) -> tuple[list[str], list[list[str]]]:
    return _split_header(pd.read_excel(path, header=None, dtype=str, na_filter=False, engine="openpyxl"))


def _parquet(path: Path) -> tuple[list[str], list[list[str]]]:
    frame = pd.read_parquet(path, dtype_backend="numpy_nullable")  # keeps integers beside empty cells
    return [str(name) for name in frame.columns], _as_text(frame)


def _split_header(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    lines = _as_text(frame)
    return (lines[0], lines[1:]) if lines else ([], [])


def _as_text(frame: pd.DataFrame) -> list[list[str]]:
    columns = [
        ["" if pd.isna(cell) else str(cell) for cell in frame.iloc[:, k].tolist()] for k in range(frame.shape[1])
    ]
    return [list(line) for line in zip(*columns, strict=True)]


def plain(text: str) -> str:
    """One spelling for 1, 1.0 and 1.; spreadsheets turn the first into the others."""
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text
