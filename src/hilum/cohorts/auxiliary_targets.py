"""Auxiliary targets: further columns that are learned beside the label, and never used in prediction."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from hilum.cohorts.cells import is_missing, number_in
from hilum.cohorts.spreadsheet import Sheet, plain
from hilum.errors import CohortError

_MOST_CLASSES = 50
"""Largest number of distinct texts (rule of thumb): more are names or remarks, not classes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Auxiliary:
    """An auxiliary target.

    Attributes:
        name: The column.
        classes: Its classes, sorted; empty for numbers.
    """

    name: str
    classes: tuple[str, ...] = ()


def auxiliary_targets(sheet: Sheet, columns: tuple[str, ...]) -> tuple[Auxiliary, ...]:
    """The targets in these columns: numbers where all filled cells are numbers, else classes.

    Raises:
        CohortError: If a column has one value only, too many classes, or a text among numbers.
    """
    return tuple(_target(sheet, name) for name in columns)


def _target(sheet: Sheet, name: str) -> Auxiliary:
    values = {plain(text) for text in set(sheet.column(name)) if not is_missing(text)}
    if len(values) < 2:
        msg = f"column {name!r} must hold two values or more to be learned, got {', '.join(values) or 'none'}"
        raise CohortError(msg)
    odd = sorted(text for text in values if number_in(text) is None)
    if not odd:
        return Auxiliary(name=name)
    if 2 * len(odd) < len(values):
        msg = f"column {name!r} must hold numbers alone or classes alone, got {odd[0]!r} among numbers"
        raise CohortError(msg, hint="mend or empty that cell")
    if len(values) > _MOST_CLASSES:
        msg = f"column {name!r} must hold numbers, or at most {_MOST_CLASSES} classes, got {len(values)}"
        raise CohortError(msg)
    filled = [text for text in sheet.column(name) if not is_missing(text)]
    if len(values) > max(2, len(filled) // 2):
        msg = f"column {name!r} must hold classes that cases share, got {len(values)} in {len(filled)} cells"
        raise CohortError(msg)
    return Auxiliary(name=name, classes=tuple(sorted(values)))


def auxiliary_values(sheet: Sheet, targets: tuple[Auxiliary, ...]) -> Iterator[tuple[float, ...]]:
    """The values of each row: numbers, or indices of classes; NaN where the cell is empty."""
    return zip(*([_value(text, one) for text in sheet.column(one.name)] for one in targets), strict=True)


def _value(text: str, target: Auxiliary) -> float:
    if is_missing(text):
        return math.nan
    if target.classes:
        return float(target.classes.index(plain(text)))
    number = number_in(text)
    return math.nan if number is None else number
