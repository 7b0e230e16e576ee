"""Finds cases that share a scan, by its voxels in HU, whatever its file, format, point or patient id."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from hilum.cohorts.table import Case

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


def join_within_parts(
    cases: Sequence[Case], copies: Copies, linked: Iterable[CaseGroup], parts: Mapping[str, str]
) -> tuple[Case, ...]:
    """Join patients as ``join_patients`` does, but never patients of different parts.

    Of patients who would be one and are in several parts, those of each part are joined; those without a part are
    joined with the training ones if there are any, else with those of the first part.

    Args:
        cases: All cases of the table.
        copies: Cases that share their scan.
        linked: Further groups of cases that must be one patient, such as near copies.
        parts: Part of each case by its id, as far as given.
    """
    joined = join_patients(cases, copies, linked)
    root_of = {case.patient_id: one.patient_id for case, one in zip(cases, joined, strict=True)}
    part_of = {case.patient_id: parts[case.case_id] for case in cases if case.case_id in parts}
    given: dict[str, list[str]] = {}
    for patient, root in root_of.items():
        if patient in part_of and part_of[patient] not in given.setdefault(root, []):
            given[root].append(part_of[patient])
    first: dict[tuple[str, str], str] = {}
    patient_of = {}
    for patient, root in root_of.items():
        several = given.get(root, [])
        if len(several) > 1:
            part = part_of.get(patient, "train" if "train" in several else several[0])
            patient_of[patient] = first.setdefault((root, part), patient)
        else:
            patient_of[patient] = root
    return tuple(
        replace(case, patient_id=patient_of[case.patient_id])
        if patient_of[case.patient_id] != case.patient_id
        else case
        for case in cases
    )


def _listed(groups: list[CaseGroup]) -> str:
    shown = "; ".join(name_cases(group) for group in groups[:_SHOWN])
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
