"""Derives names of cases from their paths, and groups cases by patient ids, which may be placeholders."""

import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath

from hilum.cohorts.spreadsheet import Sheet, plain
from hilum.errors import CohortError
from hilum.files import user_path
from hilum.reading.identity import is_placeholder
from hilum.volume import Triple

_SCANS = """
.nii.gz .tar.gz .tar.bz2 .tar.xz .hdr.gz .seg.nrrd .nii .hdr .nrrd .nhdr .mha .mhd .npy .npz .dcm .dicom .ima .zip
.tar .tgz
"""

_SUFFIXES = tuple(_SCANS.split())

_MOST_ROWS = 8
"""Largest number of rows, or of groups of rows, that a warning lists."""


def normal_paths(texts: list[str], folder: Path) -> list[str]:
    """Normalise the table's paths, relative to the table where possible, so that files can be compared."""
    spelt = {text: _normal_path(text, folder) for text in set(texts)}
    return [spelt[text] for text in texts]


def _normal_path(text: str, folder: Path) -> str:
    path: PurePath = user_path(text)
    for root in (folder, folder.absolute()):
        if path.is_absolute() and path.is_relative_to(root):
            path = path.relative_to(root)
    return posixpath.normpath(path.as_posix())


def derive_names(files: list[str], points: Iterable[Triple | None]) -> list[str]:
    """A name for each case: its relative path without suffix; with suffix or point if that is not unique.

    The names do not depend on the order of the table, and equal files at equal points get equal names. Folders and
    files are often named after patients, so only keyed hashes of the names are ever written. A name that ends in ``@``
    is completed by ``with_point`` later: half a million points in a thousand files then need a thousand strings.
    """
    short = {file: _without_suffix(file) for file in set(files)}
    owners = Counter(short.values())
    alone = {file: name if owners[name] == 1 else _inside(file) for file, name in short.items()}
    times = Counter(alone[file] for file in files)
    several = {file: f"{name}@" for file, name in alone.items() if times[name] > 1}
    return [
        alone[file] if point is None or file not in several else several[file]
        for file, point in zip(files, points, strict=True)
    ]


def with_point(name: str, point: Triple | None) -> str:
    """Complete the name of a case by its point, if it ends in ``@``."""
    if point is None or not name.endswith("@"):
        return name
    x, y, z = point
    return f"{name}{x:.10g}_{y:.10g}_{z:.10g}"


def _inside(file: str) -> str:
    return "/".join(part for part in file.split("/") if part not in ("", ".", ".."))


def _without_suffix(file: str) -> str:
    name = _inside(file)
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix) and not name.lower().endswith("/" + suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def group_patients(sheet: Sheet, column: str, files: list[str], warnings: list[str]) -> list[str]:
    """Group key of the patient of each row; a row without a usable id takes that of its file, or the file itself.

    Raises:
        CohortError: If one file has two patient ids.
    """
    if column not in sheet.cells:
        warnings.append(
            f"there is no column {column!r}: each file counts as its own patient, so that scans of one patient may be "
            "in different parts"
        )
        alone = {file: f"file:{file}" for file in set(files)}
        return [alone[file] for file in files]
    spelt = {text: plain(text) for text in set(sheet.cells[column])}
    given = [spelt[text] for text in sheet.cells[column]]
    placeholders = _placeholders(set(given))
    owner: dict[str, tuple[str, int]] = {}
    for number, file, patient in zip(sheet.numbers, files, given, strict=True):
        if patient in placeholders:
            continue
        first, earlier = owner.get(file) or owner.setdefault(file, (patient, number))
        if first != patient:
            msg = f"a file must belong to one patient, got two for the same file in rows {earlier} and {number}"
            raise CohortError(msg)
    unknown: dict[str, list[int]] = {}
    for number, patient in zip(sheet.numbers, given, strict=True) if placeholders else ():
        if patient in placeholders:
            unknown.setdefault(patient, []).append(number)
    warnings.extend(
        f"column {column!r} is {f'{text!r}' if text else 'empty'} in {_rows(numbers)}: that names nobody, so each of "
        "these files counts as its own patient"
        for text, numbers in unknown.items()
    )
    warnings.extend(_spelling_warnings(sheet, column, given, placeholders))
    named = {patient: f"id:{patient}" for patient in set(given) - placeholders}
    groups = []
    for patient, file in zip(given, files, strict=True):
        name = patient if patient not in placeholders else owner.get(file, ("", 0))[0]
        groups.append(named[name] if name else f"file:{file}")
    return groups


def _spelling_warnings(sheet: Sheet, column: str, given: list[str], placeholders: set[str]) -> Iterable[str]:
    """Warnings on ids that may be spellings of one id; they name rows, since ids appear in no output."""
    first: dict[tuple[str, str, bool], int] = {}  # the first row of each spelling
    padded = sheet.padded.get(column, frozenset())
    for number, text, patient in zip(sheet.numbers, sheet.cells[column], given, strict=True):
        first.setdefault((patient, text, number in padded), number)
    alike: dict[str, dict[str, list[int]]] = {}
    for (patient, _, _), number in first.items():
        if patient not in placeholders:
            alike.setdefault(_folded(patient), {}).setdefault(patient, []).append(number)
    several = [[min(rows) for rows in ids.values()] for ids in alike.values() if len(ids) > 1]
    if several:
        yield (
            f"column {column!r} may spell one patient in several ways (leading zeros, upper and lower case), which "
            f"count as different patients: {_groups(several)}. Spell them one way if they are one"
        )
    merged = [rows for ids in alike.values() for rows in ids.values() if len(rows) > 1]
    if merged:
        yield (
            f"column {column!r} spells an id in several ways (blanks around it, 7.0 for 7); they count as one patient: "
            f"{_groups(merged)}"
        )


def _folded(patient: str) -> str:
    """An id in one case, without blanks and leading zeros."""
    text = "".join(unicodedata.normalize("NFKC", patient).casefold().split())
    return text.lstrip("+0") or "0" if text.lstrip("+").isdecimal() else text


def _groups(groups: list[list[int]]) -> str:
    shown = "; ".join(_rows(sorted(rows)) for rows in groups[:_MOST_ROWS])
    return shown + (f"; and {len(groups) - _MOST_ROWS} more" if len(groups) > _MOST_ROWS else "")


def _placeholders(given: set[str]) -> set[str]:
    """The placeholder ids; 0 is not one if the table also has a patient 1."""
    counted = any(text.isdecimal() and int(text) == 1 for text in given)
    return {text for text in given if is_placeholder(text) and not (counted and text.isdecimal() and int(text) == 0)}


def _rows(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:_MOST_ROWS]))
    more = f" and {len(numbers) - _MOST_ROWS} more" if len(numbers) > _MOST_ROWS else ""
    return f"{'row' if len(numbers) == 1 else 'rows'} {shown}{more}"
