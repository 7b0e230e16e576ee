"""Reads a table of cases as a cohort: path, label, patient and further columns of each case."""

import gc
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import repeat
from pathlib import Path
from typing import Any

from hilum.cohorts.auxiliary_targets import Auxiliary, auxiliary_targets, auxiliary_values
from hilum.cohorts.cells import (
    PARTS as PARTS,
)
from hilum.cohorts.cells import (
    class_names,
    filled,
    labelled_rows,
    labels_in,
    parts_in,
    points_in,
    presence_in,
    shares_in,
    weights_in,
)
from hilum.cohorts.names import derive_names, group_patients, normal_paths, with_point
from hilum.cohorts.spreadsheet import Sheet, plain, read_sheet
from hilum.errors import CohortError
from hilum.files import user_path
from hilum.pages import notebook_card
from hilum.reading.identity import hashed_all
from hilum.settings.run import CohortConfig, ColumnsConfig
from hilum.volume import Triple

PRESENT = 0.5
"""Smallest share of readers at which a label of a multi-label cohort counts as present."""

_OF_TRAINING = ("label", "labels", "soft_label", "num_readers", "auxiliary", "split", "case_weight")
"""Columns that are not read for prediction."""

Side = tuple[int, bool]
"""A class and True; or a label of several and whether it is present. Each part of a split must have cases of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the table.

    Attributes:
        case_id: Unique in the cohort; without such a column, a keyed hash of the path (and point).
        path: Path of the scan.
        label: Index of its class; None if unknown, as where readers tie, or in a multi-label cohort.
        present: In a multi-label cohort the presence of each label, 0 to 1; else empty.
        patient_id: Cases with the same id are never in different parts. Never written to any output.
        point_mm: LPS mm (x, y, z); None if the table has none.
        split: train, val or test, if the table has a split; else None.
        series: The series to read, if the path holds several; else empty.
        mask: File of a lung mask; None if the table has none.
        soft_label: Probability of the second class; None if the table has none.
        weight: Weight in the loss, times the number of readers if columns.num_readers is given.
        auxiliary: Values of the auxiliary targets: numbers, or indices of classes; NaN where a cell is empty.
        groups: All other columns, for figures by subgroup.
        row: Row number in the table; the header is row 1.
        path_name: The path from which a hashed case id was made; else empty. Never written to any output.
    """

    case_id: str
    path: Path
    label: int | None
    present: tuple[float, ...] = ()
    patient_id: str = field(repr=False)
    point_mm: tuple[float, float, float] | None = None
    split: str | None = None
    series: str = ""
    mask: Path | None = None
    soft_label: float | None = None
    weight: float = 1.0
    auxiliary: tuple[float, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    row: int = 0
    path_name: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """Key of its random numbers and its place in a split; independent of the site's key. Never written."""
        return with_point(self.path_name, self.point_mm) if self.path_name else self.case_id

    @property
    def is_labelled(self) -> bool:
        """Whether its class or labels are known."""
        return self.label is not None or bool(self.present)

    @property
    def sides(self) -> frozenset["Side"]:
        """Its class, or for several labels each label with whether it is present (from 0.5 on)."""
        if self.label is not None:
            return frozenset({(self.label, True)})
        return frozenset((k, share >= PRESENT) for k, share in enumerate(self.present))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """The cases of one table.

    Attributes:
        cases: In the order of the table.
        classes: Names in the order of the model's outputs.
        multi_label: Whether the classes are labels that do not exclude one another.
        source: Path of the table.
        warnings: Warnings to show to the user.
        named_by_path: Whether the table has no case ids, so that they are keyed hashes of the paths.
        num_unlabelled: Number of rows that were left out because they have no label.
        auxiliary: The auxiliary targets.
    """

    cases: tuple[Case, ...]
    classes: tuple[str, ...]
    multi_label: bool = False
    source: Path
    warnings: tuple[str, ...] = ()
    named_by_path: bool = False
    num_unlabelled: int = 0
    auxiliary: tuple[Auxiliary, ...] = ()

    @property
    def labelled(self) -> tuple[Case, ...]:
        """The cases whose class or labels are known; the others have soft labels alone, and only train."""
        return tuple(case for case in self.cases if case.is_labelled)

    @property
    def sides(self) -> tuple[Side, ...]:
        """All sides that need cases: each class; for several labels, each label present and absent."""
        states = (True, False) if self.multi_label else (True,)
        return tuple((k, state) for k in range(len(self.classes)) for state in states)

    def name_of(self, side: Side) -> str:
        """Name of a class, or of a label with present or absent."""
        name = self.classes[side[0]]
        return f"{name!r}" + (f", {'present' if side[1] else 'absent'}" if self.multi_label else "")

    def _repr_html_(self) -> str:
        """Cases and patients of each class or label, the columns and the warnings, for notebooks; no ids, no paths."""
        rows = []
        for side in self.sides:
            own = [case for case in self.cases if side in case.sides]
            name = self.classes[side[0]] + ("" if not self.multi_label else ", present" if side[1] else ", absent")
            rows.append([name, str(len(own)), str(len({case.patient_id for case in own}))])
        facts = []
        if self.num_unlabelled:
            facts.append(f"{self.num_unlabelled} further rows have no label and are left out")
        columns = list(self.cases[0].groups) if self.cases else []
        if columns:
            facts.append(f"further columns: {', '.join(columns)}")
        num_patients = len({case.patient_id for case in self.cases})
        cases, patients = (
            f"{n} {what}{'s' * (n != 1)}" for n, what in ((len(self.cases), "case"), (num_patients, "patient"))
        )
        title = f"Cohort of {cases} of {patients}"
        header = ["label" if self.multi_label else "class", "cases", "patients"]
        return notebook_card(title, facts=[*facts, *self.warnings], tables=[(header, rows)] if rows else ())

    @classmethod
    def read(cls, path: str | Path, config: CohortConfig | None = None, *, labelled: bool = True) -> "Cohort":
        """Read a table of cases.

        Columns are found by the names in ``config.columns``; ``path`` and, if labelled, ``label`` are required.
        Without ``case_id`` the ids are keyed hashes of the paths. Without ``patient_id`` each file is its own patient,
        as is each file whose id is a placeholder such as ANONYMOUS. Every other column becomes a subgroup.

        Args:
            path: CSV, TSV, Excel (.xlsx) or Parquet; its paths are relative to its folder.
            config: Columns, classes, and how to treat rows without a label.
            labelled: False: labels, soft labels and splits are not read.

        Raises:
            CohortError: If the file or any of its cells is not usable; the text names the row and the column.
        """
        path, config = user_path(path), config or CohortConfig()
        if not path.name:
            msg = "cohort.table must name the table of cases"
            raise CohortError(msg)
        sheet = [read_sheet(path)]
        try:
            with _without_garbage_collection():
                return cls._from_sheet(sheet.pop(), path, config, labelled)  # popped, so that its text can be freed
        except CohortError as exc:
            raise CohortError(exc.message, path=path, code=exc.code, hint=exc.hint) from exc

    @classmethod
    def _from_sheet(cls, sheet: Sheet, source: Path, config: CohortConfig, labelled: bool) -> "Cohort":
        columns = config.columns
        _check_columns(sheet, columns, labelled)
        warnings: list[str] = []
        num_rows = len(sheet)
        sheet = labelled_rows(sheet, config, warnings) if labelled else sheet
        num_unlabelled = num_rows - len(sheet)
        many = bool(columns.labels)
        classes = class_names(sheet, config) if labelled else tuple(map(plain, config.classes))
        count, folder = len(sheet), source.parent
        paths, series = filled(sheet, columns.path), sheet.column(columns.series)
        files = normal_paths(paths, folder)
        if any(series):
            files = [f"{file}@{one}" if one else file for file, one in zip(files, series, strict=True)]
        points = points_in(sheet, columns)
        for name in (columns.x_mm, columns.y_mm, columns.z_mm):  # their text takes more memory than the points
            sheet.cells.pop(name, None)
        patients = group_patients(sheet, columns.patient_id, files, warnings)
        case_ids, names = _case_ids(sheet, columns, files, points, warnings)
        labels = sheet if labelled else Sheet(cells={}, numbers=sheet.numbers)
        auxiliary = auxiliary_targets(sheet, columns.auxiliary) if labelled else ()
        by_field: dict[str, Iterable[Any]] = {
            "case_id": case_ids,
            "path": _below(folder, paths),
            "label": repeat(None, count),
            "present": repeat((), count),
            "patient_id": patients,
            "point_mm": points,
            "split": _given(labels, columns.split, parts_in, None),
            "series": series,
            "mask": _below(folder, sheet.column(columns.mask)),
            "soft_label": repeat(None, count) if many else _given(labels, columns.soft_label, shares_in, None),
            "weight": _weights(labels, columns),
            "auxiliary": auxiliary_values(labels, auxiliary) if auxiliary else repeat((), count),
            "groups": _groups(sheet, columns),
            "row": sheet.numbers,
            "path_name": names,
        }
        if labelled and many:
            by_field["present"] = zip(*(presence_in(sheet, name) for name in columns.labels), strict=True)
        elif labelled:
            by_field["label"] = labels_in(sheet, config, classes)
        del sheet, labels, paths, files  # the text of a large table takes as much memory as its cases
        cases = tuple(Case(**dict(zip(by_field, row, strict=True))) for row in zip(*by_field.values(), strict=True))
        _check_parts(cases)
        return cls(
            cases=cases,
            classes=classes,
            multi_label=many,
            source=source,
            warnings=tuple(warnings),
            named_by_path=any(names),
            num_unlabelled=num_unlabelled,
            auxiliary=auxiliary,
        )


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Switch the garbage collector off: it would traverse all new cases again and again and free nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _given(sheet: Sheet, column: str, read: Callable[[Sheet, str], Iterable[Any]], otherwise: Any) -> Iterable[Any]:
    """Values of a column; a default for every row if there is no such column."""
    return read(sheet, column) if column in sheet.cells else repeat(otherwise, len(sheet))


def _weights(sheet: Sheet, columns: ColumnsConfig) -> Iterable[float]:
    """Weight of each row, times its number of readers: the likelihood of their votes is binomial."""
    weights = _given(sheet, columns.case_weight, weights_in, 1.0)
    if not columns.num_readers or columns.num_readers not in sheet.cells:
        return weights
    if columns.soft_label not in sheet.cells:
        msg = f"with columns.num_readers there must be a column {columns.soft_label!r}: the share of these readers"
        raise CohortError(msg)
    return map(operator.mul, weights, weights_in(sheet, columns.num_readers))


def _below(folder: Path, texts: list[str]) -> list[Any]:
    """Paths relative to the table's folder, one object for each distinct text; None for an empty one."""
    paths = {text: folder / user_path(text) if text else None for text in set(texts)}
    return [paths[text] for text in texts]


def _groups(sheet: Sheet, columns: ColumnsConfig) -> Iterable[Mapping[str, str]]:
    """For each row the cells of all other columns; equal ones are one object."""
    learned = ("num_readers", "auxiliary")  # these describe cases too, such as a diameter
    known = {name for f in fields(columns) if f.name not in learned for name in _names(columns, f.name)}
    others = [name for name in sheet.columns if name not in known]
    if not others:
        return [{}] * len(sheet)
    shared: dict[tuple[str, ...], Mapping[str, str]] = {}
    return (
        shared.get(cells) or shared.setdefault(cells, dict(zip(others, cells, strict=True)))
        for cells in zip(*map(sheet.column, others), strict=True)
    )


def _check_columns(sheet: Sheet, columns: ColumnsConfig, labelled: bool) -> None:
    """Raise a CohortError if a required column, or one that the user named, is missing."""
    unread = set() if labelled else set(_OF_TRAINING)
    if columns.labels:
        unread |= {"label", "soft_label"}
    for f in fields(columns):
        required = f.name in ("path", "label") or getattr(columns, f.name) != f.default
        for name in filter(None, _names(columns, f.name)):
            if required and f.name not in unread and name not in sheet.columns:
                msg = (
                    f"there must be a column {name!r} for {f.name}, got the columns {', '.join(sheet.columns)}; "
                    f"name the right one with columns.{f.name}"
                )
                raise CohortError(msg)


def _names(columns: ColumnsConfig, what: str) -> tuple[str, ...]:
    """Column names of a setting: one, or one for each label."""
    name: str | tuple[str, ...] = getattr(columns, what)
    return (name,) if isinstance(name, str) else name


def _case_ids(
    sheet: Sheet, columns: ColumnsConfig, files: list[str], points: list[Triple | None], warnings: list[str]
) -> tuple[list[str], list[str]]:
    """Id of each case, and its path name if the id is a keyed hash of it."""
    names = [""] * len(sheet)
    if columns.case_id in sheet.cells:
        ids = filled(sheet, columns.case_id)
        what = f"column {columns.case_id!r} must differ between rows"
    else:
        names = derive_names(files, points)
        ids = hashed_all("case", map(with_point, names, points))
        what = f"without a column {columns.case_id!r}, column {columns.path!r} must differ between rows"
        warnings.append(
            f"there is no column {columns.case_id!r}: the cases are named by keyed hashes of their paths; lists of "
            "cases also give the row"
        )
    if len(set(ids)) < len(ids):
        first: dict[str, int] = {}
        for number, case_id in zip(sheet.numbers, ids, strict=True):
            earlier = first.setdefault(case_id, number)
            if earlier != number:
                got = "one text twice," if names[0] else f"{case_id!r}"  # a path may hold a name
                msg = f"{what}, got {got} in rows {earlier} and {number}"
                raise CohortError(msg)
    return ids, names


def _check_parts(cases: tuple[Case, ...]) -> None:
    """Raise a CohortError if a patient is in two parts; it names rows, since ids appear in no output."""
    rows: dict[str, dict[str, int]] = {}
    for case in cases:
        if case.split is not None:
            rows.setdefault(case.patient_id, {}).setdefault(case.split, case.row)
    for parts in rows.values():
        if len(parts) > 1:
            where = " and ".join(f"row {row} ({part})" for part, row in parts.items())
            msg = f"all rows of a patient must be in one split, got one patient in {where}"
            raise CohortError(msg)
