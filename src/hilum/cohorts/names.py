"""Names of cases from their paths, and patients from ids that may be placeholders."""

import posixpath
from collections import Counter
from pathlib import Path, PurePath

from hilum.cohorts.spreadsheet import Row, plain
from hilum.errors import CohortError
from hilum.reading import is_placeholder

_SCANS = """
.nii.gz .tar.gz .tar.bz2 .tar.xz .hdr.gz .seg.nrrd .nii .hdr .nrrd .nhdr .mha .mhd .npy .npz .dcm .dicom .ima .zip
.tar .tgz
"""

_SUFFIXES = tuple(_SCANS.split())

_MOST_ROWS = 8


def normal_path(text: str, folder: Path) -> str:
    """A path as the table has it, spelt one way and relative to the table where it can be, for comparing files."""
    path = PurePath(text)
    for root in (folder, folder.absolute()):
        if path.is_absolute() and path.is_relative_to(root):
            path = path.relative_to(root)
    return posixpath.normpath(path.as_posix())


def derive_case_ids(files: list[str], points: list[tuple[float, float, float] | None]) -> list[str]:
    """A name for each case: its relative path without suffix; with suffix or point where that is not enough.

    The names do not depend on the order of the table, and equal files at equal points get equal names.
    """
    short = [_without_suffix(file) for file in files]
    owners: dict[str, set[str]] = {}
    for name, file in zip(short, files, strict=True):
        owners.setdefault(name, set()).add(file)
    names = [name if len(owners[name]) == 1 else _inside(file) for name, file in zip(short, files, strict=True)]
    times = Counter(names)
    return [
        name if times[name] == 1 or point is None else name + "@" + "_".join(f"{v:.10g}" for v in point)
        for name, point in zip(names, points, strict=True)
    ]


def _inside(file: str) -> str:
    return "/".join(part for part in file.split("/") if part not in ("", ".", ".."))


def _without_suffix(file: str) -> str:
    name = _inside(file)
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix) and not name.lower().endswith("/" + suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def group_patients(rows: tuple[Row, ...], column: str, files: list[str], warnings: list[str]) -> list[str]:
    """The patient of each row. A row without a usable id belongs to its file's patient, or else to its file alone.

    Raises:
        CohortError: If one file is said to belong to two patients.
    """
    if column not in rows[0].cells:
        warnings.append(
            f"there is no column {column!r}: each file counts as its own patient, so that scans of one patient may be "
            "in different parts"
        )
        return [f"file:{file}" for file in files]
    given = [plain(row.cells[column]) for row in rows]
    placeholders = _placeholders(given)
    owner: dict[str, tuple[str, int]] = {}
    for row, file, patient in zip(rows, files, given, strict=True):
        if patient in placeholders:
            continue
        first, number = owner.setdefault(file, (patient, row.number))
        if first != patient:
            msg = f"a file must belong to one patient, got two for the same file in rows {number} and {row.number}"
            raise CohortError(msg)
    unknown: dict[str, list[int]] = {}
    for row, patient in zip(rows, given, strict=True):
        if patient in placeholders:
            unknown.setdefault(patient, []).append(row.number)
    warnings.extend(
        f"column {column!r} is {f'{text!r}' if text else 'empty'} in {_rows(numbers)}: that names nobody, so each of "
        "these files counts as its own patient"
        for text, numbers in unknown.items()
    )
    groups = []
    for patient, file in zip(given, files, strict=True):
        name = patient if patient not in placeholders else owner.get(file, ("", 0))[0]
        groups.append(f"id:{name}" if name else f"file:{file}")
    return groups


def _placeholders(given: list[str]) -> set[str]:
    """Those of the ids that name nobody; zero names somebody where the patients are counted from zero."""
    counted = any(text.isdecimal() and int(text) == 1 for text in given)
    return {text for text in given if is_placeholder(text) and not (counted and text.isdecimal() and int(text) == 0)}


def _rows(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:_MOST_ROWS]))
    more = f" and {len(numbers) - _MOST_ROWS} more" if len(numbers) > _MOST_ROWS else ""
    return f"{'row' if len(numbers) == 1 else 'rows'} {shown}{more}"
