"""A table of cases to a cohort: where each scan lies, what its label is and which patient it belongs to."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path

from hilum.cohorts.names import derive_case_ids, group_patients, normal_path
from hilum.cohorts.spreadsheet import Row, Sheet, plain, read_sheet
from hilum.config import CohortConfig, ColumnsConfig
from hilum.errors import CohortError

PARTS = ("train", "val", "test")

_MOST_CLASSES = 50
"""More distinct labels than this are measurements or names, not classes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the table.

    Attributes:
        case_id: Unique in the cohort.
        path: Where the scan lies.
        label: Index of its class; None if it is not known.
        patient_id: Cases with the same one may never be in different parts. Never written to any output.
        point_mm: LPS mm (x, y, z); None if the table has none.
        split: Its part as the table demands: train, val or test; None if the table does not say.
        series: Which series of the path, where it holds several; else empty.
        mask: A mask of the lungs in a file; None if the table names none.
        soft_label: Probability of the second class; None if the table does not say.
        groups: All other columns, for figures by subgroup.
        row: Where it stands in the table; the header is row 1.
    """

    case_id: str
    path: Path
    label: int | None
    patient_id: str = field(repr=False)
    point_mm: tuple[float, float, float] | None = None
    split: str | None = None
    series: str = ""
    mask: Path | None = None
    soft_label: float | None = None
    groups: dict[str, str] = field(default_factory=dict)
    row: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """The cases of one table.

    Attributes:
        cases: In the order of the table.
        classes: Names in the order of the model's outputs.
        source: The table.
        warnings: Sentences that a user must see.
    """

    cases: tuple[Case, ...]
    classes: tuple[str, ...]
    source: Path
    warnings: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: str | Path, config: CohortConfig | None = None, *, labelled: bool = True) -> "Cohort":
        """Read a table of cases.

        Columns are found by the names in ``config.columns``; ``path`` must be there and, if labelled, ``label``.
        Without ``case_id`` the paths name the cases. Without ``patient_id`` each file is its own patient, and so is
        each case whose id is a placeholder such as ANONYMOUS. Every other column becomes a subgroup.

        Args:
            path: CSV, TSV, Excel (.xlsx) or Parquet; its paths are relative to its folder.
            config: Columns, classes, and what to do without a label.
            labelled: False: labels, soft labels and splits are not read.

        Raises:
            CohortError: If the file or any of its cells is not usable; the text names the row and the column.
        """
        path, config = Path(path), config or CohortConfig()
        sheet = read_sheet(path)
        try:
            return cls._from_sheet(sheet, path, config, labelled)
        except CohortError as exc:
            msg = f"{path}: {exc}"
            raise CohortError(msg) from exc

    @classmethod
    def _from_sheet(cls, sheet: Sheet, source: Path, config: CohortConfig, labelled: bool) -> "Cohort":
        columns = config.columns
        _check_columns(sheet, columns, labelled)
        warnings: list[str] = []
        rows = _labelled_rows(sheet, config, warnings) if labelled else sheet.rows
        classes = _classes(rows, config) if labelled else tuple(map(plain, config.classes))
        series = [row.cells.get(columns.series, "") for row in rows]
        files = [normal_path(_filled(row, columns.path), source.parent) for row in rows]
        files = [f"{file}@{one}" if one else file for file, one in zip(files, series, strict=True)]
        points = [_point(row, columns) for row in rows]
        patients = group_patients(rows, columns.patient_id, files, warnings)
        case_ids = _case_ids(rows, columns, files, points, warnings)
        known = {getattr(columns, f.name) for f in fields(columns)}
        cases = tuple(
            Case(
                case_id=case_id,
                path=source.parent / row.cells[columns.path],
                label=_label(row, columns.label, classes) if labelled else None,
                patient_id=patient,
                point_mm=point,
                split=_part(row, columns.split) if labelled else None,
                series=row.cells.get(columns.series, ""),
                mask=source.parent / row.cells[columns.mask] if row.cells.get(columns.mask) else None,
                soft_label=_share(row, columns.soft_label) if labelled else None,
                groups={name: cell for name, cell in row.cells.items() if name not in known},
                row=row.number,
            )
            for row, case_id, patient, point in zip(rows, case_ids, patients, points, strict=True)
        )
        _check_parts(cases)
        return cls(cases=cases, classes=classes, source=source, warnings=tuple(warnings))


def _wrong(row: Row, column: str, must: str) -> CohortError:
    return CohortError(f"row {row.number}, column {column!r} must be {must}, got {row.cells[column]!r}")


def _check_columns(sheet: Sheet, columns: ColumnsConfig, labelled: bool) -> None:
    """A required column, and any that the user named, must be there."""
    unread = set() if labelled else {"label", "soft_label", "split"}
    for f in fields(columns):
        name = getattr(columns, f.name)
        required = f.name in ("path", "label") or name != f.default
        if required and f.name not in unread and name not in sheet.columns:
            msg = (
                f"there must be a column {name!r} for {f.name}, got the columns {', '.join(sheet.columns)}; "
                f"name the right one with columns.{f.name}"
            )
            raise CohortError(msg)


def _filled(row: Row, column: str) -> str:
    if not row.cells[column]:
        raise _wrong(row, column, "filled")
    return row.cells[column]


def _labelled_rows(sheet: Sheet, config: CohortConfig, warnings: list[str]) -> tuple[Row, ...]:
    column = config.columns.label
    empty = [row for row in sheet.rows if not row.cells[column]]
    if not empty:
        return sheet.rows
    if config.unlabelled == "error":
        msg = (
            f"row {empty[0].number}, column {column!r} must be filled, got an empty cell ({len(empty)} of "
            f"{len(sheet.rows)} rows have none); fill it, or leave such rows out with unlabelled = 'drop'"
        )
        raise CohortError(msg)
    if len(empty) == len(sheet.rows):
        msg = f"column {column!r} must hold labels, got {len(empty)} empty cells"
        raise CohortError(msg)
    warnings.append(f"{len(empty)} of {len(sheet.rows)} rows have no label and are left out")
    return tuple(row for row in sheet.rows if row.cells[column])


def _classes(rows: tuple[Row, ...], config: CohortConfig) -> tuple[str, ...]:
    """The names given, or the sorted labels of the table: by value if all are numbers."""
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


def _label(row: Row, column: str, classes: tuple[str, ...]) -> int:
    name = plain(row.cells[column])
    if name not in classes:
        raise _wrong(row, column, f"one of {', '.join(classes)}")
    return classes.index(name)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _point(row: Row, columns: ColumnsConfig) -> tuple[float, float, float] | None:
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


def _share(row: Row, column: str) -> float | None:
    if not row.cells.get(column):
        return None
    value = _number(row.cells[column])
    if value is None or not 0 <= value <= 1:
        raise _wrong(row, column, "a number from 0 to 1")
    return value


def _part(row: Row, column: str) -> str | None:
    part = row.cells.get(column, "").lower()
    if part and part not in PARTS:
        raise _wrong(row, column, f"one of {', '.join(PARTS)}, or empty")
    return part or None


def _case_ids(
    rows: tuple[Row, ...],
    columns: ColumnsConfig,
    files: list[str],
    points: list[tuple[float, float, float] | None],
    warnings: list[str],
) -> list[str]:
    if columns.case_id in rows[0].cells:
        ids = [_filled(row, columns.case_id) for row in rows]
        what = f"column {columns.case_id!r} must differ between rows"
    else:
        ids = derive_case_ids(files, points)
        what = f"without a column {columns.case_id!r}, column {columns.path!r} must differ between rows"
        warnings.append(f"there is no column {columns.case_id!r}: the cases are named after their paths")
    first: dict[str, int] = {}
    for row, case_id in zip(rows, ids, strict=True):
        earlier = first.setdefault(case_id, row.number)
        if earlier != row.number:
            msg = f"{what}, got {case_id!r} in rows {earlier} and {row.number}"
            raise CohortError(msg)
    return ids


def _check_parts(cases: tuple[Case, ...]) -> None:
    """No patient may be in two parts; said by rows, since ids go to no output."""
    rows: dict[str, dict[str, int]] = {}
    for case in cases:
        if case.split is not None:
            rows.setdefault(case.patient_id, {}).setdefault(case.split, case.row)
    for parts in rows.values():
        if len(parts) > 1:
            where = " and ".join(f"row {row} ({part})" for part, row in parts.items())
            msg = f"all rows of a patient must be in one split, got one patient in {where}"
            raise CohortError(msg)
