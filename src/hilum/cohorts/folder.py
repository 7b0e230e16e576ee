"""A folder of scans, one sub-folder for each class or a hospital's spreadsheet beside it, to a table of cases."""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hilum.cohorts.spreadsheet import read_sheet
from hilum.config import ReadingConfig
from hilum.errors import CohortError
from hilum.files import write_whole
from hilum.findings import refusals
from hilum.reading import find_series, has_archive_name, hashed_all, image_suffix, opened, source_files
from hilum.volume import Tags

Key = Literal["accession", "study-uid", "patient-id"]

_TAG_OF: dict[str, str] = {"accession": "accession", "study-uid": "study", "patient-id": "patient"}
_COLUMNS_OF: dict[str, tuple[str, ...]] = {
    "accession": ("accession", "accessionnumber", "accessionno", "acc"),
    "study-uid": ("studyuid", "studyinstanceuid"),
    "patient-id": ("patientid", "patient", "pid", "mrn"),
}
_WRITTEN = ("case_id", "path", "patient_id", "kernel", "thickness_mm", "manufacturer")
"""Columns of the table that is written; the labels come after the path."""

_AS_USUAL = ReadingConfig()
_SHARED_CASES, _SHARED_SHARE = 10, 0.5
"""An id that this many studies and this share of all have names nobody: it was filled in by a machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One scan found in a folder.

    Attributes:
        path: Its folder or file.
        series: Hash of its series, where the folder holds several; else empty.
        tags: Of a DICOM series; empty for other formats.
        labels: Its class, or a cell for each finding, once they are known.
    """

    path: Path
    series: str
    tags: Tags
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Scans with labels, and sentences on what was left out and why.

    Attributes:
        scans: In the order of their paths.
        notes: The sentences.
        columns: Names of the labels' columns: label, or one for each finding.
    """

    scans: tuple[Scan, ...]
    notes: tuple[str, ...]
    columns: tuple[str, ...] = ("label",)


def from_class_folders(folder: Path, reading: ReadingConfig = _AS_USUAL) -> Listing:
    """The scans below a folder whose sub-folders are the classes.

    Raises:
        CohortError: If fewer than two sub-folders hold scans.
    """
    _check_folder(folder)
    scans: list[Scan] = []
    notes: list[str] = []
    for part in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        listing = find_scans(part, reading)
        scans += [replace(scan, labels=(part.name,)) for scan in listing.scans]
        notes += listing.notes
    if len({scan.labels for scan in scans}) < 2:
        msg = (
            f"{folder} must hold one sub-folder of scans for each of at least two classes, has scans in "
            f"{', '.join(sorted({s.labels[0] for s in scans})) or 'none'}; or give a spreadsheet with --labels"
        )
        raise CohortError(msg)
    return _checked(scans, notes)


def from_spreadsheet(
    folder: Path, labels: Path, *, key: Key, columns: tuple[str, ...] = ("label",), reading: ReadingConfig = _AS_USUAL
) -> Listing:
    """The DICOM scans below a folder, with labels from a table without paths, joined by a tag.

    Both sides are hashed before they are compared, so that no identifier leaves the reader.

    Args:
        folder: The scans, at any depth.
        labels: CSV, Excel or Parquet with a column for the key and one for the label, or one for each finding.
        key: Which tag joins them.
        columns: Name of the label's column, or of those of the findings, which keep their names.
        reading: Which scans are usable.

    Raises:
        CohortError: If a column is missing, a key has two labels, or nothing matches.
    """
    _check_folder(folder)
    sheet = read_sheet(labels)
    found = [c for c in sheet.columns if re.sub(r"[^a-z]", "", c.lower()) in _COLUMNS_OF[key]]
    absent = [column for column in columns if column not in sheet.columns]
    if len(found) != 1 or absent:
        wanted = f"a column for {key} (such as {_COLUMNS_OF[key][0]})" if len(found) != 1 else f"a column {absent[0]!r}"
        msg = f"{labels} must have {wanted}, has the columns {', '.join(sheet.columns)}"
        raise CohortError(msg)
    taken = sorted({*columns} & {*_WRITTEN, "series"}) if len(columns) > 1 else []
    if taken:
        msg = f"{labels}: a finding must have a name of its own, got {taken[0]!r}, which the table uses itself"
        raise CohortError(msg)
    tag = _TAG_OF[key]
    label_of: dict[str, tuple[tuple[str, ...], int]] = {}
    identifiers = hashed_all(tag, sheet.column(found[0]))
    for number, identifier, *cells in zip(sheet.numbers, identifiers, *map(sheet.column, columns), strict=True):
        label = tuple(cells)
        if not identifier or not any(label):
            continue
        first, earlier = label_of.setdefault(identifier, (label, number))
        if first != label:
            both = f"{_shown(first)} and {_shown(label)}"
            msg = f"{labels}: rows {earlier} and {number} give one {key} the labels {both}"
            raise CohortError(msg)
    listing = find_scans(folder, reading)
    keys = [getattr(scan.tags, tag) for scan in listing.scans]
    scans = [replace(s, labels=label_of[k][0]) for s, k in zip(listing.scans, keys, strict=True) if k in label_of]
    if not scans:
        msg = f"no {key} of the {len(label_of)} in {labels} is that of one of the {len(keys)} scans below {folder}"
        raise CohortError(msg)
    notes = list(listing.notes)
    if len(scans) < len(keys):
        notes.append(f"left out, for want of a row in {labels.name}: {len(keys) - len(scans)} of {len(keys)} scans")
    unmatched = [number for k, (_, number) in label_of.items() if k not in set(keys)]
    if unmatched:
        shown = ", ".join(map(str, unmatched[:8])) + (" ..." if len(unmatched) > 8 else "")
        notes.append(f"rows of {labels.name} that match no scan: {len(unmatched)} (row {shown})")
    return replace(_checked(scans, notes), columns=columns if len(columns) > 1 else ("label",))


def find_scans(folder: Path, reading: ReadingConfig = _AS_USUAL) -> Listing:
    """Every usable scan below a folder; of several reconstructions of one acquisition the one with the most slices.

    An archive is a folder of its own: its scans have the archive's path.
    """
    files = source_files(folder)
    archives = [file for file in files if has_archive_name(file.name)]
    found, notes = _found([file for file in files if file not in set(archives)], None, reading)
    for archive in archives:
        with opened(archive, reading) as tree:
            inside, problems = _found(tree.files, archive, reading)
        found += inside
        notes += [f"{archive.name}: {f.message}" for f in tree.findings] + problems
    usable: dict[str, list[_Found]] = {}
    for one in found:
        usable.setdefault(one.scan.tags.acquisition or one.scan.series or str(one.scan.path), []).append(one)
    scans = []
    for group in usable.values():
        best = max(group, key=lambda one: (one.num_slices, one.scan.tags.kernel))
        if len(group) > 1:
            kernels = ", ".join(sorted({one.scan.tags.kernel or "unnamed" for one in group}))
            notes.append(
                f"{len(group)} reconstructions of one acquisition (kernels {kernels}) count once: {best.summary}"
            )
        scans.append(best.scan)
    return Listing(scans=tuple(sorted(scans, key=lambda s: (str(s.path), s.series))), notes=tuple(notes))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A scan with how many slices it has and one line about it; images are not counted."""

    scan: Scan
    num_slices: int = 0
    summary: str = ""


def _found(files: Sequence[Path], archive: Path | None, reading: ReadingConfig) -> tuple[list[_Found], list[str]]:
    """The usable scans among files, those of an archive if it is given, and why others are left out."""
    series, unreadable = find_series(files, reading)
    notes = [f"{f.where}: {f.message}" for f in unreadable]
    crowded = Counter(path for one in series for path in {f.path.parent for f in one.frames})
    found = []
    for one in series:
        refused = refusals(one.findings)
        if refused:
            notes.append(f"series {one.summary} is left out: {refused[0].message}")
            continue
        parents = {f.path.parent for f in one.frames}
        if archive is not None:
            home, alone = archive, len(series) == 1
        elif len({f.path for f in one.frames}) == 1:
            home, alone = one.frames[0].path, one.part == 0
        else:
            home = Path(os.path.commonpath(sorted(parents)))
            alone = len(parents) == 1 and crowded[home] == 1
        scan = Scan(path=home, series="" if alone else one.name, tags=one.tags)
        found.append(_Found(scan=scan, num_slices=len(one.frames), summary=one.summary))
    dicom = {f.path for one in series for f in one.frames}
    images = [f for f in files if (image_suffix(f) and f not in dicom) or f.suffix.lower() == ".npy"]
    if archive is None:
        found += [_Found(scan=Scan(path=image, series="", tags=Tags())) for image in images]
    elif len(images) == 1 and not series:
        found.append(_Found(scan=Scan(path=archive, series="", tags=Tags())))
    elif images:
        notes.append(f"{archive.name}: an archive of several scans must hold DICOM only; images in it: {len(images)}")
    return found, notes


def write_table(scans: Iterable[Scan], out: Path, columns: tuple[str, ...] = ("label",)) -> None:
    """Write the table, its paths relative to it; it is there as a whole or not at all.

    Case ids go to every output, so they are hashes or numbers: folders are often named after patients.
    """
    scans = list(scans)
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    header = [*_WRITTEN[:2], *columns, *_WRITTEN[2:]]
    crowded = any(scan.series for scan in scans)
    table.writerow([*header, "series"] if crowded else header)
    for number, scan in enumerate(scans, 1):
        tags = scan.tags
        row = [
            scan.series or tags.series or f"scan-{number:04d}",
            os.path.relpath(str(scan.path), str(out.parent)),
            *scan.labels,
            tags.patient,
            tags.kernel,
            "" if tags.thickness_mm is None else f"{tags.thickness_mm:g}",
            tags.manufacturer,
        ]
        table.writerow([*row, scan.series] if crowded else row)
    write_whole(out, text.getvalue())


def _shown(labels: tuple[str, ...]) -> str:
    return ", ".join(map(repr, labels))


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        msg = f"no folder {folder}"
        raise CohortError(msg)


def _checked(scans: list[Scan], notes: list[str]) -> Listing:
    """Patient ids that name nobody are named and taken out, so that they are not used to split."""
    dicom = [scan for scan in scans if scan.tags.series]
    blank = [scan for scan in dicom if not scan.tags.patient]
    if blank:
        notes.append(
            f"{len(blank)} of {len(scans)} scans have a blank or placeholder PatientID (such as ANONYMOUS): "
            "each counts as its own patient"
        )
    studies: dict[str, set[str]] = {}
    for scan in dicom:
        if scan.tags.patient:
            studies.setdefault(scan.tags.patient, set()).add(scan.tags.study)
    shared = {p for p, of in studies.items() if len(of) >= _SHARED_CASES and len(of) > _SHARED_SHARE * len(dicom)}
    notes += [
        f"one PatientID ({patient}) stands in {len(studies[patient])} studies, more than half of all: it names nobody, "
        "and each of these scans counts as its own patient"
        for patient in sorted(shared)
    ]
    if len(dicom) < len(scans):
        without = len(scans) - len(dicom)
        notes.append(f"{without} of {len(scans)} scans have no PatientID: each file counts as its own patient")
    kept = [replace(s, tags=replace(s.tags, patient="")) if s.tags.patient in shared else s for s in scans]
    return Listing(scans=tuple(kept), notes=tuple(notes))
