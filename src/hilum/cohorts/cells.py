"""Rows and cells of a table to labels, points, shares and parts, each checked."""

import math

from hilum.cohorts.spreadsheet import Row, Sheet, plain
from hilum.config import CohortConfig, ColumnsConfig
from hilum.errors import CohortError

PARTS = ("train", "val", "test")

NOTHING, AND = "no finding", " + "
"""How decisions say that no finding is called, and join those that are."""

_NO_LABEL = ("", "na", "n/a", "nan", "null")
"""What programs write into a cell that they have nothing for; a class may be named so only in cohort.classes."""

_HEAVIEST = 1e4
"""A case that counts more than this is a slip of the pen; a sum of losses would lose all others."""

_MOST_CLASSES = 50
"""More distinct labels than this are measurements or names, not classes."""


def class_names(rows: tuple[Row, ...], config: CohortConfig) -> tuple[str, ...]:
    """The names given, or the sorted labels of the table: by value if all are numbers; or the columns of findings."""
    if config.columns.labels:
        if config.classes and len(config.classes) != len(config.columns.labels):
            must = f"as many names as columns.labels, {len(config.columns.labels)}"
            msg = f"cohort.classes must be empty or {must}, got {len(config.classes)}"
            raise CohortError(msg)
        names = config.classes or config.columns.labels
        unclear = [name for name in names if name == NOTHING or AND in name]
        if unclear:
            msg = f"a finding must not be named {NOTHING!r} or hold {AND!r}, as decisions do, got {unclear[0]!r}"
            raise CohortError(msg)
        return names
    if config.classes:
        return tuple(map(plain, config.classes))
    column = config.columns.label
    labels = {plain(row.cells[column]) for row in rows}
    if len(labels) > _MOST_CLASSES:
        msg = f"column {column!r} must hold at most {_MOST_CLASSES} different labels, got {len(labels)}"
        raise CohortError(msg)
    folded: dict[str, str] = {}
    for label in sorted(labels):
        if folded.setdefault(label.casefold(), label) != label:
            msg = f"column {column!r} must spell each label one way, got {folded[label.casefold()]!r} and {label!r}"
            raise CohortError(msg)
    values = {label: _number(label) for label in labels}
    numeric = all(value is not None for value in values.values())
    return tuple(sorted(labels, key=lambda label: (values[label] or 0.0, label) if numeric else (0.0, label)))


def labelled_rows(sheet: Sheet, config: CohortConfig, warnings: list[str]) -> tuple[Row, ...]:
    """The rows that have their label, or all of their findings; a warning counts the others."""
    columns = config.columns.labels or (config.columns.label,)

    def lacks(row: Row, column: str) -> bool:
        return row.cells[column].lower() in _NO_LABEL and row.cells[column] not in config.classes

    empty = [row for row in sheet.rows if any(lacks(row, column) for column in columns)]
    if not empty:
        return sheet.rows
    column = next(column for column in columns if lacks(empty[0], column))
    if config.unlabelled == "error":
        msg = (
            f"row {empty[0].number}, column {column!r} must be filled, got "
            f"{repr(empty[0].cells[column]) if empty[0].cells[column] else 'an empty cell'} ({len(empty)} of "
            f"{len(sheet.rows)} rows have none); fill it, or leave such rows out with unlabelled = 'drop'"
        )
        raise CohortError(msg)
    if len(empty) == len(sheet.rows):
        msg = f"column {column!r} must hold labels, got {len(empty)} cells without"
        raise CohortError(msg)
    warnings.append(f"{len(empty)} of {len(sheet.rows)} rows have no label and are left out")
    left_out = {row.number for row in empty}
    return tuple(row for row in sheet.rows if row.number not in left_out)


def label_of(row: Row, column: str, classes: tuple[str, ...]) -> int:
    """The place of the row's label among the classes."""
    name = plain(row.cells[column])
    if name not in classes:
        raise _wrong(row, column, f"one of {', '.join(classes)}")
    return classes.index(name)


def presence_of(row: Row, column: str) -> float:
    """1 or 0, true or false, or a share between."""
    words = {"true": 1.0, "false": 0.0}
    value = words.get(row.cells[column].lower(), _number(row.cells[column]))
    if value is None or not 0 <= value <= 1:
        raise _wrong(row, column, "1 where the finding is present, 0 where not, or a share between")
    return value


def share_of(row: Row, column: str) -> float | None:
    """A probability, None where the cell is empty."""
    if not row.cells.get(column):
        return None
    value = _number(row.cells[column])
    if value is None or not 0 <= value <= 1:
        raise _wrong(row, column, "a number from 0 to 1")
    return value


def weight_of(row: Row, column: str) -> float:
    """How much the case counts, 1 where the cell is empty."""
    if not row.cells.get(column):
        return 1.0
    value = _number(row.cells[column])
    if value is None or not 0 < value <= _HEAVIEST:
        raise _wrong(row, column, f"a positive number up to {_HEAVIEST:g}, or empty for 1")
    return value


def part_of(row: Row, column: str) -> str | None:
    """The part of the split, None where the cell is empty."""
    part = row.cells.get(column, "").lower()
    if part and part not in PARTS:
        raise _wrong(row, column, f"one of {', '.join(PARTS)}, or empty")
    return part or None


def point_of(row: Row, columns: ColumnsConfig) -> tuple[float, float, float] | None:
    """LPS mm (x, y, z), None where the cells are empty."""
    names = [name for name in (columns.x_mm, columns.y_mm, columns.z_mm) if row.cells.get(name)]
    if not names:
        return None
    if len(names) < 3:
        msg = (
            f"row {row.number} must give all of {columns.x_mm}, {columns.y_mm}, {columns.z_mm} or none of them, "
            f"got only {', '.join(names)}"
        )
        raise CohortError(msg)
    values = []
    for name in names:
        value = _number(row.cells[name])
        if value is None:
            raise _wrong(row, name, "a number in mm")
        values.append(value)
    return values[0], values[1], values[2]


def filled(row: Row, column: str) -> str:
    """The cell's text, which must not be empty."""
    if not row.cells[column]:
        raise _wrong(row, column, "filled")
    return row.cells[column]


def _wrong(row: Row, column: str, must: str) -> CohortError:
    return CohortError(f"row {row.number}, column {column!r} must be {must}, got {row.cells[column]!r}")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
