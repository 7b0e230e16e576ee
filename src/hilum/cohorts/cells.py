"""Converts columns of a table to labels, points, shares and parts, and checks each cell."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from hilum.cohorts.spreadsheet import Sheet, plain
from hilum.errors import CohortError
from hilum.settings.run import CohortConfig, ColumnsConfig
from hilum.volume import Triple

PARTS = ("train", "val", "test")

NO_RESULT: Literal["no-result"] = "no-result"
UNDECIDED: Literal["undecided"] = "undecided"
"""What is written instead of a decision; no class may be named so."""

NOTHING, AND = "no finding", " + "
"""The decision of a multi-label model if no label is called, and the separator between called labels."""

EMPTY_CELLS = ("", "na", "n/a", "nan", "null")
"""Texts that programs write into empty cells; a class may have such a name only if cohort.classes lists it."""

_SIZES = frozenset(("diameter", "size", "volume", "length"))
"""Words by which the name of a column ends if it holds a size."""

_QUALIFIERS = frozenset(
    ("mm", "cm", "um", "ml", "cc", "l", "px", "pixels", "voxels", "in", "max", "min", "mean", "median")
)
"""Words that may stand behind them, as may numbers and brackets: units, and which of several sizes."""

_INNER_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")

_HEAVIEST = 1e4
"""Largest weight of a case (rule of thumb): a larger one is a typing error and would swamp all others in the loss."""

_MOST_CLASSES = 50
"""Largest number of distinct labels (rule of thumb): more are measurements or names, not classes."""

Value = TypeVar("Value")


def is_missing(cell: str) -> bool:
    """Whether a cell is empty, or holds a text that programs write into empty cells, in whatever case."""
    return cell.strip().casefold() in EMPTY_CELLS


def number_in(cell: str) -> float | None:
    """The finite number in a cell; None if it is missing or holds something else, such as ``12_3`` or ``inf``."""
    return None if is_missing(cell) or "_" in cell else _number(cell)


def is_size(name: str) -> bool:
    """Whether a column holds a size, by its name: it ends with a word for a size, units and numbers aside.

    Words are divided by capitals, digits and whatever is no letter: ``diameter``, ``nodule_volume_mm3``,
    ``LongestDiameter``, ``Size (mm)``, but not ``resized``, ``volume_id`` or ``length_of_stay``.
    """
    letters = "".join(sign if sign.isalpha() else " " for sign in _INNER_CAPITAL.sub(" ", name))
    words = letters.casefold().split()
    while words and words[-1] in _QUALIFIERS:
        words.pop()
    return bool(words) and words[-1] in _SIZES


def class_names(sheet: Sheet, config: CohortConfig) -> tuple[str, ...]:
    """The configured class names, or the sorted labels of the table (by value if all are numbers), or label columns.

    Raises:
        CohortError: If a name is not allowed, or the labels of the table are unclear.
    """
    names = _class_names(sheet, config)
    taken = names_of_none(names)
    if taken:
        msg = f"a class must not be named {NO_RESULT!r} or {UNDECIDED!r}, which are no decisions, got {taken[0]!r}"
        raise CohortError(msg)
    return names


def names_of_none(names: Sequence[str]) -> list[str]:
    """The names among those of classes that would read as no decision."""
    return [name for name in names if name in (NO_RESULT, UNDECIDED) or f"{UNDECIDED}: " in name]


def _class_names(sheet: Sheet, config: CohortConfig) -> tuple[str, ...]:
    if config.columns.labels:
        if config.classes and len(config.classes) != len(config.columns.labels):
            must = f"as many names as columns.labels, {len(config.columns.labels)}"
            msg = f"cohort.classes must be empty or {must}, got {len(config.classes)}"
            raise CohortError(msg)
        names = config.classes or config.columns.labels
        unclear = [name for name in names if name == NOTHING or AND in name]
        if unclear:
            msg = f"a label must not be named {NOTHING!r} or hold {AND!r}, as decisions do, got {unclear[0]!r}"
            raise CohortError(msg)
        return names
    if config.classes:
        return tuple(map(plain, config.classes))
    column = config.columns.label
    labels = {plain(text) for text in set(sheet.column(column)) if not _is_blank(text, config)}
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


def labelled_rows(sheet: Sheet, config: CohortConfig, warnings: list[str]) -> Sheet:
    """The rows whose labels are filled, or that may train by their soft label; a warning counts the others."""
    columns = config.columns.labels or (config.columns.label,)
    lacking: dict[int, str] = {}  # the first column without a label, by the row
    for column in columns:
        texts = sheet.column(column)
        blank = {text for text in set(texts) if _is_blank(text, config)}
        for number, text in zip(sheet.numbers, texts, strict=True) if blank else ():
            if text in blank:
                lacking.setdefault(number, column)
    if config.unlabelled == "train":
        lacking = _without_soft_label(sheet, config, lacking, warnings)
    if not lacking:
        return sheet
    first = min(lacking)
    column = lacking[first]
    if config.unlabelled == "error":
        cell = sheet.column(column)[list(sheet.numbers).index(first)]
        msg = (
            f"row {first}, column {column!r} must be filled, got {repr(cell) if cell else 'an empty cell'} "
            f"({len(lacking)} of {len(sheet)} rows have none); fill it, or leave such rows out with unlabelled = 'drop'"
        )
        raise CohortError(msg)
    if len(lacking) == len(sheet):
        msg = f"column {column!r} must hold labels, got {len(lacking)} cells without"
        raise CohortError(msg)
    warnings.append(f"{len(lacking)} of {len(sheet)} rows have no label and are left out")
    return sheet.without(lacking)


def _without_soft_label(
    sheet: Sheet, config: CohortConfig, lacking: dict[int, str], warnings: list[str]
) -> dict[int, str]:
    """The rows without a label that have no soft label either.

    Raises:
        CohortError: If there is no column of soft labels.
    """
    column = config.columns.soft_label
    if column not in sheet.cells:
        msg = f"with unlabelled = 'train' there must be a column {column!r} of soft labels, by which such rows train"
        raise CohortError(msg)
    soft = dict(zip(sheet.numbers, sheet.column(column), strict=True))
    left = {number: name for number, name in lacking.items() if is_missing(soft[number])}
    if len(left) < len(lacking):
        warnings.append(
            f"{len(lacking) - len(left)} of {len(sheet)} rows have no label but a soft one: they only train, and are "
            "never judged"
        )
    return left


def labels_in(sheet: Sheet, config: CohortConfig, classes: tuple[str, ...]) -> list[int | None]:
    """Class index of each row, None where it has a soft label alone."""

    def label(text: str) -> int | None:
        return None if _is_blank(text, config) else classes.index(plain(text))

    return _converted(sheet, config.columns.label, label, f"one of {', '.join(classes)}")


def _is_blank(text: str, config: CohortConfig) -> bool:
    return is_missing(text) and text not in config.classes


def presence_in(sheet: Sheet, column: str) -> list[float]:
    """Presence of a label in each row: 1 or 0, true or false, or a share between."""
    known = {"true": 1.0, "false": 0.0}

    def presence(text: str) -> float:
        return known[text.lower()] if text.lower() in known else _share(text)

    return _converted(sheet, column, presence, "1 where the label is present, 0 where not, or a share between")


def shares_in(sheet: Sheet, column: str) -> list[float | None]:
    """Probability in each row, None where the cell is empty."""
    return _converted(sheet, column, lambda text: _share(text) if text else None, "a number from 0 to 1")


def weights_in(sheet: Sheet, column: str) -> list[float]:
    """Weight of each case, 1 where the cell is empty."""

    def weight(text: str) -> float:
        value = _finite(text) if text else 1.0
        if not 0 < value <= _HEAVIEST:
            raise ValueError(text)
        return value

    return _converted(sheet, column, weight, f"a positive number up to {_HEAVIEST:g}, or empty for 1")


def parts_in(sheet: Sheet, column: str) -> list[str | None]:
    """Part of the split in each row, None where the cell is empty."""

    def part(text: str) -> str | None:
        return PARTS[PARTS.index(text.lower())] if text else None

    return _converted(sheet, column, part, f"one of {', '.join(PARTS)}, or empty")


def points_in(sheet: Sheet, columns: ColumnsConfig) -> list[Triple | None]:
    """Point of each row, LPS mm (x, y, z), None where the cells are empty."""
    names = (columns.x_mm, columns.y_mm, columns.z_mm)
    if not any(name in sheet.cells for name in names):
        return [None] * len(sheet)
    points: list[Triple | None] = []
    for number, *cells in zip(sheet.numbers, *map(sheet.column, names), strict=True):
        try:
            x, y, z = map(float, cells)
        except ValueError:
            _check_empty(number, names, cells)
            points.append(None)
            continue
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
            _check_empty(number, names, cells)
        points.append((x, y, z))
    return points


def _check_empty(number: int, names: tuple[str, str, str], cells: list[str]) -> None:
    """Raise a CohortError unless all three cells of a row without a point are empty."""
    given = [name for name, cell in zip(names, cells, strict=True) if cell]
    if not given:
        return
    if len(given) < 3:
        msg = f"row {number} must give all of {', '.join(names)} or none of them, got only {', '.join(given)}"
        raise CohortError(msg)
    name, cell = next((name, cell) for name, cell in zip(names, cells, strict=True) if _number(cell) is None)
    raise _wrong(number, name, cell, "a number in mm")


def filled(sheet: Sheet, column: str) -> list[str]:
    """The texts of a column that must be filled in every row."""
    texts = sheet.column(column)
    if not all(texts):
        raise _wrong(sheet.numbers[texts.index("")], column, "", "filled")
    return texts


def _converted(sheet: Sheet, column: str, convert: Callable[[str], Value], must: str) -> list[Value]:
    """Convert the cells of a column, each distinct text once.

    Raises:
        CohortError: If a text cannot be converted (ValueError); it names the first such row, and the column.
    """
    texts = sheet.column(column)
    values: dict[str, Value] = {}
    for text in dict.fromkeys(texts):
        try:
            values[text] = convert(text)
        except ValueError as exc:
            raise _wrong(sheet.numbers[texts.index(text)], column, text, must) from exc
    return [values[text] for text in texts]


def _wrong(number: int, column: str, cell: str, must: str) -> CohortError:
    return CohortError(f"row {number}, column {column!r} must be {must}, got {cell!r}")


def _share(text: str) -> float:
    value = _finite(text)
    if not 0 <= value <= 1:
        raise ValueError(text)
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _number(text: str) -> float | None:
    try:
        return _finite(text)
    except ValueError:
        return None
