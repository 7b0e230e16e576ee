"""Reads and writes splits.csv: the part of each case of a run, its hashed patient and the digest of its scan."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hilum.cohorts.table import PARTS, Case, Cohort
from hilum.errors import CohortError
from hilum.files import csv_text
from hilum.reading.identity import hashed, hashed_all

SPLITS_FORMAT = 3
_HEADER = ("case_id", "split", "patient", "scan_hu", "format")
_OLDER: dict[tuple[str, ...], int] = {
    ("case_id", "split", "patient", "scan"): 1,
    ("case_id", "split", "patient", "scan_hu"): 2,
}
"""1: case ids may be paths, and digests of scans depend on the recipe. 2: digests of scans are hashed with the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedOn:
    """Patients and scans of a model's training and validation parts.

    Attributes:
        patients: Keyed hashes, see ``patient_key``.
        scans: Digests of the scans' HU, or their keyed hashes.
    """

    patients: frozenset[str] = frozenset()
    scans: frozenset[str] = frozenset()

    def has(self, case: Case, digest: str) -> bool:
        """Whether the patient or scan of a case is among them; ``digest`` is that of the scan's HU, or empty."""
        by_scan = digest in self.scans or hashed("scan", digest) in self.scans
        return by_scan or patient_key(case) in self.patients


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Content of a ``splits.csv``, by case id.

    Attributes:
        parts: train, val or test.
        patients: Keyed hash of the patient; missing if the table has no id.
        scans: Digest of the scan's HU, in files of format 2 its keyed hash; missing in format 1.
        format: Format of the file.
    """

    parts: dict[str, str]
    patients: dict[str, str] = field(default_factory=dict)
    scans: dict[str, str] = field(default_factory=dict)
    format: int = SPLITS_FORMAT

    @property
    def text(self) -> str:
        """The text of ``splits.csv`` in the current format, sorted by case."""
        rows = (
            (case_id, part, self.patients.get(case_id, ""), self.scans.get(case_id, ""), SPLITS_FORMAT)
            for case_id, part in sorted(self.parts.items())
        )
        return csv_text([_HEADER, *rows])

    @property
    def trained_on(self) -> TrainedOn:
        """Patients and scans of all parts but test."""
        used = {case_id for case_id, part in self.parts.items() if part != "test"}
        patients, scans = (
            frozenset(by_case[i] for i in used & by_case.keys()) for by_case in (self.patients, self.scans)
        )
        return TrainedOn(patients=patients, scans=scans)


def patient_key(case: Case) -> str:
    """Keyed hash that identifies a patient in all tables of a site; empty without an id."""
    kind, _, identifier = case.patient_id.partition(":")
    return hashed("patient", identifier) if kind == "id" else ""


def splits_text(cohort: Cohort, parts: Mapping[str, str], scans: Mapping[str, str]) -> str:
    """The text of ``splits.csv``: ``case_id,split,patient,scan_hu,format``, sorted by case.

    Patients are keyed hashes. Scans are plain digests of their HU, so that the same scan is recognised without the
    key; the scan cannot be computed from its digest.

    Args:
        cohort: The cases.
        parts: Part of each case.
        scans: Digest of the HU of each case's scan, if known.
    """
    patients = {case.case_id: patient_key(case) for case in cohort.cases}
    return Splits(parts=dict(parts), patients=patients, scans=dict(scans)).text


def extended_splits(splits: Splits, cases: Iterable[Case], scans: Mapping[str, str]) -> Splits:
    """A split with further cases as validation cases; one whose id is taken already gets another.

    Args:
        splits: The split of a run.
        cases: Cases of another table.
        scans: Digest of the HU of each case's scan, if known.
    """
    parts, patients, digests = dict(splits.parts), dict(splits.patients), dict(splits.scans)
    for case in cases:
        name = case.case_id
        while name in parts:
            name = f"{name}-added"
        parts[name] = "val"
        patients[name], digests[name] = patient_key(case), scans.get(case.case_id, "")
    return Splits(parts=parts, patients=patients, scans=digests)


def read_splits(path: Path, *, named_by_path: bool = False) -> Splits:
    """Read a ``splits.csv`` of this or an older version.

    Args:
        path: The file.
        named_by_path: Whether the table has no case ids: in format 1 they are then paths, which are hashed.

    Raises:
        CohortError: If the file is missing, damaged or of a newer format.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *lines = list(csv.reader(file)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        msg = f"the splits cannot be read: {getattr(exc, 'strerror', None) or exc}"
        raise CohortError(msg, path=path) from exc
    version = SPLITS_FORMAT if tuple(header) == _HEADER else _OLDER.get(tuple(header))
    if version is None:
        msg = f"row 1 must be {','.join(_HEADER)}, got {','.join(header)!r}"
        raise CohortError(msg, path=path)
    known: set[str] = set()
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header) or line[1] not in PARTS or line[0] in known:
            msg = f"row {number} must be a new case_id, one of {', '.join(PARTS)}, a patient and a scan, got {line}"
            raise CohortError(msg, path=path)
        if version == SPLITS_FORMAT and line[4] != str(SPLITS_FORMAT):
            got = f"row {number} has {line[4]!r}: use the Hilum that wrote it"
            msg = f"the format must be {SPLITS_FORMAT} or older, {got}"
            raise CohortError(msg, path=path)
        known.add(line[0])
    ids = [line[0] for line in lines]
    if version == 1 and named_by_path:
        ids = hashed_all("case", ids)
    return Splits(
        parts={i: line[1] for i, line in zip(ids, lines, strict=True)},
        patients={i: line[2] for i, line in zip(ids, lines, strict=True) if line[2]},
        scans={i: line[3] for i, line in zip(ids, lines, strict=True) if line[3] and version > 1},
        format=version,
    )
