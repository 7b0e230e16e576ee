"""Reads a CSV, Excel or Parquet file as columns of text, with row numbers as a spreadsheet shows them."""

import io
import re
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hilum.errors import CohortError

if TYPE_CHECKING:  # pandas takes 0.25 s to import, and predicting one scan needs no table
    import pandas as pd

SUFFIXES = (".csv", ".tsv", ".xlsx", ".parquet")

_SEPARATORS = (",", ";", "\t")

_WHOLE = re.compile(r"([+-]?\d+)\.0*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A table as columns of text; equal texts of a column are one object, to save memory.

    Attributes:
        cells: For each column the text of each row, without blanks around it.
        numbers: Number of each row, as a spreadsheet counts: the header is row 1.
        padded: For each column the numbers of the rows whose text had blanks around it.
    """

    cells: dict[str, list[str]]
    numbers: Sequence[int]
    padded: dict[str, frozenset[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(self.cells)

    def column(self, name: str) -> list[str]:
        """The text of each row; all empty if there is no such column."""
        return self.cells[name] if name in self.cells else [""] * len(self)

    def without(self, rows: Collection[int]) -> "Sheet":
        """The table without the rows of these numbers."""
        kept = [place for place, number in enumerate(self.numbers) if number not in rows]
        cells = {name: [column[place] for place in kept] for name, column in self.cells.items()}
        return Sheet(cells=cells, numbers=[self.numbers[place] for place in kept], padded=self.padded)


def read_sheet(path: Path) -> Sheet:
    """Read a table with every cell as text, so that an id such as 007 keeps its zeros.

    The first row is the header; the first sheet of a workbook is read; rows without any text are skipped. A CSV file
    is UTF-8, separated by the most frequent of comma, semicolon and tab in its header.

    Raises:
        CohortError: If the file is missing, empty, of an unknown suffix or not of the format of its suffix.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        msg = f"{path}: a table must end in {', '.join(SUFFIXES)}, got {path.suffix or 'no suffix'}"
        raise CohortError(msg)
    if not path.is_file():
        msg = f"{path}: {'a table must be a file, got a folder' if path.is_dir() else 'there is no such table'}"
        raise CohortError(msg)
    try:
        header, columns = {".xlsx": _excel, ".parquet": _parquet}.get(suffix, _text)(path)
        return _sheet(path, header, columns)
    except ImportError as exc:
        msg = f"{path}: reading {suffix} tables needs: pip install 'hilum[tables]'"
        raise CohortError(msg) from exc
    except UnicodeDecodeError as exc:
        msg = f"{path}: the table must be text in UTF-8, got other bytes; save it as 'CSV UTF-8'"
        raise CohortError(msg) from exc
    except (OSError, ValueError, KeyError, SyntaxError, zipfile.BadZipFile) as exc:
        msg = f"{path}: the file cannot be read as a {suffix} table: {' '.join(str(exc).split())}"
        raise CohortError(msg) from exc


def _sheet(path: Path, header: list[str], columns: Iterable[list[str]]) -> Sheet:
    """Make a sheet from a header and columns; a column without a name must be empty."""
    names = [name.strip() for name in header]
    if not any(names):
        msg = f"{path}: row 1 must hold the names of the columns, got an empty row"
        raise CohortError(msg)
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        msg = f"{path}: the names of the columns must differ, got {twice[0]!r} {names.count(twice[0])} times"
        raise CohortError(msg)
    cells: dict[str, list[str]] = {}
    padded: dict[str, frozenset[int]] = {}
    empty: list[int] | None = None  # places of rows in which no column so far holds text
    count = 0
    for position, (name, raw) in enumerate(zip(names, columns, strict=True), start=1):
        shared: dict[str, str] = {}
        column = [shared.setdefault(text, text) for text in map(str.strip, raw)]
        count = len(column)
        if not name and any(column):
            number = next(number for number, text in enumerate(column, start=2) if text)
            msg = f"{path}: column {position} must have a name in row 1, since row {number} holds text there"
            raise CohortError(msg)
        empty = [place for place in (range(count) if empty is None else empty) if not column[place]]
        if name:
            cells[name] = column
            padded[name] = _padded(raw, column)
    sheet = Sheet(cells=cells, numbers=range(2, count + 2), padded=padded)
    if empty:
        sheet = sheet.without({place + 2 for place in empty})
    if not sheet.numbers:
        msg = f"{path}: the table must hold at least one case below its header, got none"
        raise CohortError(msg)
    return sheet


def _padded(raw: list[str], column: list[str]) -> frozenset[int]:
    """The numbers of the rows whose text had blanks around it."""
    if sum(map(len, raw)) == sum(map(len, column)):
        return frozenset()
    return frozenset(number for number, (a, b) in enumerate(zip(raw, column, strict=True), 2) if len(a) > len(b))


def _text(path: Path) -> tuple[list[str], Iterator[list[str]]]:
    import pandas as pd

    with path.open(encoding="utf-8-sig") as file:
        first = file.readline()
    separator = max(_SEPARATORS, key=first.count)
    try:
        frame = pd.read_csv(
            path,
            sep=separator,
            header=None,
            dtype=object,  # half the time and memory of pandas' string type
            keep_default_na=False,
            skip_blank_lines=False,
            encoding="utf-8-sig",
        )
    except pd.errors.EmptyDataError as exc:
        msg = f"{path}: the table is empty; row 1 must hold the names of the columns"
        raise CohortError(msg) from exc
    return _split_header(frame)


def _excel(path: Path) -> tuple[list[str], Iterator[list[str]]]:
    import pandas as pd

    return _split_header(pd.read_excel(path, header=None, dtype=str, na_filter=False, engine="openpyxl"))


def _parquet(path: Path) -> tuple[list[str], Iterator[list[str]]]:
    import pandas as pd

    frame = pd.read_parquet(path, dtype_backend="numpy_nullable")  # keeps integers beside empty cells
    return [str(name) for name in frame.columns], _columns(frame)


def _split_header(frame: "pd.DataFrame") -> tuple[list[str], Iterator[list[str]]]:
    if frame.empty:
        return [], iter(())
    return [_as_text(cell) for cell in frame.iloc[0].tolist()], _columns(frame.iloc[1:])


def _columns(frame: "pd.DataFrame") -> Iterator[list[str]]:
    for place in range(frame.shape[1]):
        yield [cell if type(cell) is str else _as_text(cell) for cell in frame.iloc[:, place].tolist()]


def _as_text(cell: Any) -> str:
    import pandas as pd

    return "" if pd.isna(cell) else str(cell)


def plain(text: str) -> str:
    """Spell whole numbers without a decimal point: spreadsheets turn 1 into 1.0 or 1."""
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def sheet_bytes(rows: Sequence[Sequence[str]], suffix: str) -> bytes:
    """Content of an Excel or Parquet file with these texts; the first row is the header.

    Raises:
        CohortError: If the library for it is missing.
    """
    import pandas as pd

    frame, content = pd.DataFrame(list(rows[1:]), columns=list(rows[0]), dtype=object), io.BytesIO()
    try:
        if suffix == ".xlsx":
            frame.to_excel(content, index=False, engine="openpyxl")
        else:
            frame.to_parquet(content, index=False)
    except ImportError as exc:
        msg = f"writing {suffix} tables needs: pip install 'hilum[tables]'"
        raise CohortError(msg) from exc
    return content.getvalue()
