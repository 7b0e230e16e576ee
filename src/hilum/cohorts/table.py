"""A table of cases to a cohort: where each scan lies, what its label is and which patient it belongs to."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from hilum.cohorts.cells import (
    PARTS as PARTS,
)
from hilum.cohorts.cells import (
    class_names,
    filled,
    label_of,
    labelled_rows,
    part_of,
    point_of,
    presence_of,
    share_of,
    weight_of,
)
from hilum.cohorts.names import derive_case_ids, group_patients, normal_path
from hilum.cohorts.spreadsheet import Row, Sheet, plain, read_sheet
from hilum.config import CohortConfig, ColumnsConfig
from hilum.errors import CohortError

PRESENT = 0.5
"""Share of the readers from which on a finding counts as present."""

Side = tuple[int, bool]
"""A class, or a finding and whether it is present: of each a part of the cohort must have cases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the table.

    Attributes:
        case_id: Unique in the cohort.
        path: Where the scan lies.
        label: Index of its class; None if it is not known, or where the classes do not exclude one another.
        present: Of a multi-label cohort how present each finding is, 0 to 1; else empty.
        patient_id: Cases with the same one may never be in different parts. Never written to any output.
        point_mm: LPS mm (x, y, z); None if the table has none.
        split: Its part as the table demands: train, val or test; None if the table does not say.
        series: Which series of the path, where it holds several; else empty.
        mask: A mask of the lungs in a file; None if the table names none.
        soft_label: Probability of the second class; None if the table does not say.
        weight: How much it counts in the loss.
        groups: All other columns, for figures by subgroup.
        row: Where it stands in the table; the header is row 1.
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
    groups: dict[str, str] = field(default_factory=dict)
    row: int = 0

    @property
    def is_labelled(self) -> bool:
        """Whether its class, or its findings, are known."""
        return self.label is not None or bool(self.present)

    @property
    def sides(self) -> frozenset["Side"]:
        """What it is a case of: its class, or each finding, present or absent; a finding is present from 0.5 on."""
        if self.label is not None:
            return frozenset({(self.label, True)})
        return frozenset((k, share >= PRESENT) for k, share in enumerate(self.present))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """The cases of one table.

    Attributes:
        cases: In the order of the table.
        classes: Names in the order of the model's outputs.
        multi_label: Whether the classes are findings that do not exclude one another.
        source: The table.
        warnings: Sentences that a user must see.
    """

    cases: tuple[Case, ...]
    classes: tuple[str, ...]
    multi_label: bool = False
    source: Path
    warnings: tuple[str, ...] = ()

    @property
    def sides(self) -> tuple[Side, ...]:
        """Of what there must be cases: each class; of findings, present ones and absent ones."""
        return tuple((k, side) for k in range(len(self.classes)) for side in ((True, False)[: 1 + self.multi_label]))

    def name_of(self, side: Side) -> str:
        """A class, or a finding and how it is, in words."""
        name = self.classes[side[0]]
        return f"{name!r}" + (f", {'present' if side[1] else 'absent'}" if self.multi_label else "")

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
        rows = labelled_rows(sheet, config, warnings) if labelled else sheet.rows
        many = bool(columns.labels)
        classes = class_names(rows, config) if labelled else tuple(map(plain, config.classes))
        series = [row.cells.get(columns.series, "") for row in rows]
        files = [normal_path(filled(row, columns.path), source.parent) for row in rows]
        files = [f"{file}@{one}" if one else file for file, one in zip(files, series, strict=True)]
        points = [point_of(row, columns) for row in rows]
        patients = group_patients(rows, columns.patient_id, files, warnings)
        case_ids = _case_ids(rows, columns, files, points, warnings)
        known = {name for f in fields(columns) for name in _names(columns, f.name)}
        cases = tuple(
            Case(
                case_id=case_id,
                path=source.parent / row.cells[columns.path],
                label=label_of(row, columns.label, classes) if labelled and not many else None,
                present=tuple(presence_of(row, name) for name in columns.labels) if labelled else (),
                patient_id=patient,
                point_mm=point,
                split=part_of(row, columns.split) if labelled else None,
                series=row.cells.get(columns.series, ""),
                mask=source.parent / row.cells[columns.mask] if row.cells.get(columns.mask) else None,
                soft_label=share_of(row, columns.soft_label) if labelled and not many else None,
                weight=weight_of(row, columns.case_weight) if labelled else 1.0,
                groups={name: cell for name, cell in row.cells.items() if name not in known},
                row=row.number,
            )
            for row, case_id, patient, point in zip(rows, case_ids, patients, points, strict=True)
        )
        _check_parts(cases)
        return cls(cases=cases, classes=classes, multi_label=many, source=source, warnings=tuple(warnings))


def _check_columns(sheet: Sheet, columns: ColumnsConfig, labelled: bool) -> None:
    """A required column, and any that the user named, must be there."""
    unread = set() if labelled else {"label", "labels", "soft_label", "split", "case_weight"}
    if columns.labels:
        unread |= {"label", "soft_label"}
    for f in fields(columns):
        required = f.name in ("path", "label") or getattr(columns, f.name) != f.default
        for name in _names(columns, f.name):
            if required and f.name not in unread and name not in sheet.columns:
                msg = (
                    f"there must be a column {name!r} for {f.name}, got the columns {', '.join(sheet.columns)}; "
                    f"name the right one with columns.{f.name}"
                )
                raise CohortError(msg)


def _names(columns: ColumnsConfig, what: str) -> tuple[str, ...]:
    """The columns that hold something: one, or as many as there are findings."""
    name: str | tuple[str, ...] = getattr(columns, what)
    return (name,) if isinstance(name, str) else name


def _case_ids(
    rows: tuple[Row, ...],
    columns: ColumnsConfig,
    files: list[str],
    points: list[tuple[float, float, float] | None],
    warnings: list[str],
) -> list[str]:
    if columns.case_id in rows[0].cells:
        ids = [filled(row, columns.case_id) for row in rows]
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
