"""Finds cases that share a scan, by its voxels in HU, whatever its file, format, point or patient id."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from hilum.cohorts.table import Case
from hilum.errors import CohortError

_SHOWN = 8
"""Largest number of groups, and of cases of a group, that a message lists."""

CaseGroup: TypeAlias = tuple[Case, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Cases that share their scan.

    Attributes:
        opposed: Groups with the same scan and point but different labels, of which at least one is wrong.
        alike: Other groups with the same scan, at the same point or under several patients.
        shared: All cases of each scan that has several patient ids, which must be one patient.
    """

    opposed: tuple[CaseGroup, ...] = ()
    alike: tuple[CaseGroup, ...] = ()
    shared: tuple[CaseGroup, ...] = ()

    @property
    def reasons(self) -> dict[str, str]:
        """Reason for refusing a case, by its id."""
        return {
            case.case_id: f"the same scan, by its voxels, as {name_cases(c for c in group if c is not case)}, "
            "with another label"
            for group in self.opposed
            for case in group
        }

    @property
    def warnings(self) -> list[str]:
        """Sentences that name the cases that share a scan."""
        across = [group for group in self.alike if len({case.patient_id for case in group}) > 1]
        within = [group for group in self.alike if len({case.patient_id for case in group}) == 1]
        warnings = []
        if across:
            warnings.append(
                f"the same scan, by its voxels, stands under several patients: {_listed(across)}; these count as one "
                "patient"
            )
        if within:
            warnings.append(f"the same scan, by its voxels, is several cases of one patient: {_listed(within)}")
        return warnings


def find_copies(cases: Iterable[Case], scans: Mapping[str, str], *, at_points: bool) -> Copies:
    """Find cases whose scans have the same voxels.

    Several points of one scan under one patient are not copies, and their labels may differ.

    Args:
        cases: In the order in which messages list them.
        scans: Digest of each case's scan by its id, or a keyed hash of it; cases without one are ignored.
        at_points: Whether the region of the recipe is a point; else the whole scan has one label.
    """
    by_scan: dict[str, list[Case]] = {}
    for case in cases:
        if scans.get(case.case_id):
            by_scan.setdefault(scans[case.case_id], []).append(case)
    opposed: list[CaseGroup] = []
    alike: list[CaseGroup] = []
    shared: list[CaseGroup] = []
    for group in by_scan.values():
        if len({case.patient_id for case in group}) > 1:
            shared.append(tuple(group))
        by_point: dict[tuple[float, ...], list[Case]] = {}
        for case in group:
            by_point.setdefault(_place(case, at_points), []).append(case)
        wrong = [tuple(same) for same in by_point.values() if len({c.sides for c in same if c.is_labelled}) > 1]
        opposed += wrong
        refused = {case.case_id for one in wrong for case in one}
        left = tuple(case for case in group if case.case_id not in refused)
        if len({_place(case, at_points) for case in left}) < len(left) or len({case.patient_id for case in left}) > 1:
            alike.append(left)
    return Copies(opposed=tuple(opposed), alike=tuple(alike), shared=tuple(shared))


def _place(case: Case, at_points: bool) -> tuple[float, ...]:
    """The point of a case, to a tenth of a mm; empty for a whole scan."""
    return tuple(round(v, 1) for v in case.point_mm) if at_points and case.point_mm else ()


def join_patients(cases: Iterable[Case], copies: Copies, linked: Iterable[CaseGroup] = ()) -> tuple[Case, ...]:
    """Give all patients that share a scan, directly or through others, the same patient id.

    Args:
        cases: The cases.
        copies: Cases that share their scan.
        linked: Further groups of cases that must be one patient, such as near copies.
    """
    parent: dict[str, str] = {}

    def root(patient: str) -> str:
        while patient in parent:
            patient = parent[patient]
        return patient

    for group in (*copies.shared, *linked):
        first = root(group[0].patient_id)
        for case in group[1:]:
            other = root(case.patient_id)
            if other != first:
                parent[other] = first
    if not parent:
        return tuple(cases)
    return tuple(replace(c, patient_id=root(c.patient_id)) if c.patient_id in parent else c for c in cases)


def split_apart(cases: Sequence[Case], copies: Copies, linked: Iterable[CaseGroup] = ()) -> list[CaseGroup]:
    """Groups that share a scan, or are linked otherwise, and that the table's own split puts into several parts.

    Args:
        cases: All cases of the table.
        copies: Cases that share their scan.
        linked: Further groups of cases that must be one patient, such as near copies.
    """
    linked = list(linked)
    parts: dict[str, set[str]] = {}
    patient_of = {case.case_id: case.patient_id for case in join_patients(cases, copies, linked)}
    for case in cases:
        if case.split is not None:
            parts.setdefault(patient_of[case.case_id], set()).add(case.split)
    return [group for group in (*copies.shared, *linked) if len(parts.get(patient_of[group[0].case_id], ())) > 1]


def check_table_split(cases: Sequence[Case], copies: Copies, source: Path) -> None:
    """Check that the table's own split puts all copies of a scan into one part.

    Raises:
        CohortError: If it does not; the text names the cases.
    """
    groups = split_apart(cases, copies)
    if groups:
        msg = (
            f"{source}: the same scan, by its voxels, must be in one split, got {_listed(groups, with_split=True)}; "
            "change the split column, or remove the copies"
        )
        raise CohortError(msg, hint="--allow-leakage trains all the same")


def _listed(groups: list[CaseGroup], *, with_split: bool = False) -> str:
    shown = "; ".join(
        name_cases(group, {c.case_id: c.split for c in group if with_split and c.split}) for group in groups[:_SHOWN]
    )
    return shown + (f"; and {len(groups) - _SHOWN} more scans" if len(groups) > _SHOWN else "")


def name_cases(group: Iterable[Case], parts: Mapping[str, str] | None = None) -> str:
    """Ids and rows of cases, with their parts if given; of many, the first ones and their number."""
    cases = list(group)
    parts = parts or {}
    names = [
        f"{c.case_id!r} (row {c.row}{f', {parts[c.case_id]}' if c.case_id in parts else ''})" for c in cases[:_SHOWN]
    ]
    more = [f"{len(cases) - _SHOWN} more"] if len(cases) > _SHOWN else []
    return " and ".join([*names, *more])
