"""Makes a table of cases from a folder of scans with one sub-folder per class, or with labels in a spreadsheet."""

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from hilum.cohorts.scans import Listing, Notes, Scan, scans_among, scans_below
from hilum.cohorts.spreadsheet import read_sheet, sheet_bytes
from hilum.errors import CohortError
from hilum.files import check_output, csv_text, write_whole
from hilum.findings import Finding
from hilum.reading.identity import hashed, hashed_all
from hilum.reading.paths import source_files
from hilum.settings.run import ReadingConfig

Key = Literal["accession", "study-uid", "patient-id"]

_TAG_OF: dict[str, str] = {"accession": "accession", "study-uid": "study", "patient-id": "patient"}
_COLUMNS_OF: dict[str, tuple[str, ...]] = {
    "accession": ("accession", "accessionnumber", "accessionno", "acc"),
    "study-uid": ("studyuid", "studyinstanceuid"),
    "patient-id": ("patientid", "patient", "pid", "mrn"),
}
_WRITTEN = ("case_id", "path", "patient_id", "kernel", "thickness_mm", "manufacturer")
"""Columns of the written table; the labels follow the path."""

_TABLES = (".csv", ".xlsx", ".parquet")
_MAP_MARK = "^case_id,row,path"

_DEFAULT_READING = ReadingConfig()
_SHARED_CASES, _SHARED_SHARE = 10, 0.5
"""A PatientID in at least this many studies, and in more than this share of all, is a default that a program filled in
and identifies nobody (rule of thumb)."""


def from_class_folders(folder: Path, reading: ReadingConfig = _DEFAULT_READING) -> Listing:
    """List the scans below a folder whose sub-folders, or links to folders, are the classes.

    Raises:
        CohortError: If fewer than two sub-folders hold scans.
    """
    _check_folder(folder)
    left_out: list[Finding] = []
    by_class: dict[str, list[Path]] = {}
    for file in source_files(folder, left_out):  # once for all, or a link could bring the scans of one class to another
        name, *rest = file.relative_to(folder).parts
        if rest:
            by_class.setdefault(name, []).append(file)
    notes = Notes()
    notes.refuse(left_out)
    scans: list[Scan] = []
    for name in sorted(by_class):
        scans += [replace(scan, labels=(name,)) for scan in scans_among(by_class[name], folder, reading, notes)]
    if len({scan.labels for scan in scans}) < 2:
        msg = (
            f"{folder} must hold one sub-folder of scans for each of at least two classes, has scans in "
            f"{', '.join(sorted({s.labels[0] for s in scans})) or 'none'}; or give a spreadsheet with --labels"
        )
        raise CohortError(msg)
    return _checked(scans, notes)


def from_spreadsheet(
    folder: Path,
    labels: Path,
    *,
    key: Key,
    columns: tuple[str, ...] = ("label",),
    reading: ReadingConfig = _DEFAULT_READING,
) -> Listing:
    """List the DICOM scans below a folder, with labels from a table without paths, joined by a tag.

    Identifiers of both are hashed before they are compared, so that none leaves the reader.

    Args:
        folder: The scans, at any depth.
        labels: CSV, Excel or Parquet with a column for the key and one for the label, or for each of several labels.
        key: The DICOM tag that joins scans and rows.
        columns: Name of the label column, or of several label columns, which keep their names.
        reading: The policy that decides which scans are usable.

    Raises:
        CohortError: If a column is missing, a key has two labels, or nothing matches.
    """
    _check_folder(folder)
    sheet = read_sheet(labels)
    named = [c for c in sheet.columns if re.sub(r"[^a-z]", "", c.lower()) in _COLUMNS_OF[key]]
    absent = [column for column in columns if column not in sheet.columns]
    if len(named) != 1 or absent:
        wanted = f"a column for {key} (such as {_COLUMNS_OF[key][0]})" if len(named) != 1 else f"a column {absent[0]!r}"
        msg = f"{labels} must have {wanted}, has the columns {', '.join(sheet.columns)}"
        raise CohortError(msg)
    taken = sorted({*columns} & {*_WRITTEN, "series"}) if len(columns) > 1 else []
    if taken:
        msg = f"{labels}: a label must have a name of its own, got {taken[0]!r}, which the table uses itself"
        raise CohortError(msg)
    tag = _TAG_OF[key]
    label_of: dict[str, tuple[tuple[str, ...], int]] = {}
    identifiers = hashed_all(tag, sheet.column(named[0]))
    for number, identifier, *cells in zip(sheet.numbers, identifiers, *map(sheet.column, columns), strict=True):
        label = tuple(cells)
        if not identifier or not any(label):
            continue
        first, earlier = label_of.setdefault(identifier, (label, number))
        if first != label:
            both = f"{_shown(first)} and {_shown(label)}"
            msg = f"{labels}: rows {earlier} and {number} give one {key} the labels {both}"
            raise CohortError(msg)
    notes = Notes()
    found = scans_below(folder, reading, notes)
    keys = [getattr(scan.tags, tag) for scan in found]
    scans = [replace(s, labels=label_of[k][0]) for s, k in zip(found, keys, strict=True) if k in label_of]
    if not scans:
        msg = f"no {key} of the {len(label_of)} in {labels} is that of one of the {len(keys)} scans below {folder}"
        raise CohortError(msg)
    if len(scans) < len(keys):
        notes.add(f"left out, because they have no row in {labels.name}: {len(keys) - len(scans)} of {len(keys)} scans")
    unmatched = [number for k, (_, number) in label_of.items() if k not in set(keys)]
    if unmatched:
        shown = ", ".join(map(str, unmatched[:8])) + (" ..." if len(unmatched) > 8 else "")
        notes.add(f"rows of {labels.name} that match no scan: {len(unmatched)} (row {shown})")
    return replace(_checked(scans, notes), columns=columns if len(columns) > 1 else ("label",))


def write_table(scans: Iterable[Scan], out: Path, columns: tuple[str, ...] = ("label",)) -> Path:
    """Write the table, with paths relative to it, and a map from case ids to scans; returns the path of the map.

    The map also has a digest of each row, by which a table that was edited since is known and not overwritten.

    Case ids are keyed hashes, since they appear in every output and folders are often named after patients. Only the
    owner can read the map. The table holds the paths as well, so it must stay private too.

    Raises:
        HilumError: If either cannot be written.
    """
    scans = list(scans)
    header = [*_WRITTEN[:2], *columns, *_WRITTEN[2:]]
    crowded = any(scan.series for scan in scans)
    table, back = [[*header, "series"] if crowded else header], [["case_id", "row", "path", "digest"]]
    paths = [os.path.relpath(str(scan.path), str(out.parent)) for scan in scans]
    given = Counter(scan.series or scan.tags.series for scan in scans)
    for row, (scan, path) in enumerate(zip(scans, paths, strict=True), start=2):
        tags, own = scan.tags, scan.series or scan.tags.series
        case_id = own if given[own] == 1 and own else hashed("case", f"{path}@{scan.series}" if scan.series else path)
        cells = [
            case_id,
            path,
            *scan.labels,
            tags.patient,
            tags.kernel,
            "" if tags.thickness_mm is None else f"{tags.thickness_mm:g}",
            tags.manufacturer,
        ]
        table.append([*cells, scan.series] if crowded else cells)
        back.append([case_id, str(row), path, _digest(table[0], table[-1])])
    private = map_of(out)
    content = csv_text(table) if out.suffix.lower() == ".csv" else sheet_bytes(table, out.suffix.lower())
    check_table(out)
    write_whole(private, csv_text(back), private=True, follow=False, mark=_MAP_MARK)
    write_whole(out, content)
    return private


def map_of(out: Path) -> Path:
    """Path of the file beside a table that maps case ids to scans."""
    return out.with_name(f"{out.name.removesuffix('.csv')}.map.csv")


def check_table(out: Path, *inputs: Path | None) -> None:
    """Check, before any scan is read, that a table can be written and overwrites only one from ``hilum cohort``.

    Raises:
        HilumError: If the format is unknown, or another file would be overwritten.
    """
    if out.suffix.lower() not in _TABLES:
        msg = f"must be named {', '.join(_TABLES[:-1])} or {_TABLES[-1]}"
        raise CohortError(msg, path=out)
    check_output(out, _is_written_here, inputs=inputs)
    check_output(map_of(out), _MAP_MARK, inputs=inputs)


def _is_written_here(table: Path) -> bool:
    """Whether a table is as ``write_table`` left it, by the digests of its rows in the map beside it."""
    try:
        sheet = read_sheet(table)
        with map_of(table).open(encoding="utf-8", newline="") as file:
            digests = [row.get("digest") for row in csv.DictReader(file)]
    except (CohortError, OSError, ValueError, csv.Error):
        return False
    rows = zip(*(sheet.column(name) for name in sheet.columns), strict=True)
    return digests == [_digest(sheet.columns, row) for row in rows]


def _digest(header: Iterable[str], row: Iterable[str]) -> str:
    cells = "\0".join(cell.strip() for cell in (*header, *row))
    return hashlib.blake2b(cells.encode(), digest_size=8).hexdigest()


def _shown(labels: tuple[str, ...]) -> str:
    return ", ".join(map(repr, labels))


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        msg = f"no folder {folder}"
        raise CohortError(msg)


def _checked(scans: list[Scan], notes: Notes) -> Listing:
    """Report patient ids that identify nobody and remove them, so that they do not join patients in the split."""
    dicom = [scan for scan in scans if scan.tags.series]
    blank = [scan for scan in dicom if not scan.tags.patient]
    if blank:
        notes.add(
            f"{len(blank)} of {len(scans)} scans have a blank or placeholder PatientID (such as ANONYMOUS): "
            "each counts as its own patient"
        )
    studies: dict[str, set[str]] = {}
    for scan in dicom:
        if scan.tags.patient:
            studies.setdefault(scan.tags.patient, set()).add(scan.tags.study)
    shared = {p for p, uids in studies.items() if len(uids) >= _SHARED_CASES and len(uids) > _SHARED_SHARE * len(dicom)}
    notes.lines += [
        f"one PatientID ({patient}) stands in {len(studies[patient])} studies, more than half of all: it names nobody, "
        "and each of these scans counts as its own patient"
        for patient in sorted(shared)
    ]
    if len(dicom) < len(scans):
        without = len(scans) - len(dicom)
        notes.add(f"{without} of {len(scans)} scans have no PatientID: each file counts as its own patient")
    kept = [replace(s, tags=replace(s.tags, patient="")) if s.tags.patient in shared else s for s in scans]
    return notes.listing(kept)
