"""Finds the same scan under several cases, by its voxels in HU, whatever its file, format, point or patient id."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from hilum.cohorts.table import Case
from hilum.errors import CohortError

_SHOWN = 8
"""At most this many groups, and this many cases of each, stand in one line."""

CaseGroup: TypeAlias = tuple[Case, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Cases that share their scan.

    Attributes:
        opposed: Groups of one scan and one point whose labels differ: at least one of them is wrong.
        alike: Groups of one scan without those, which stand at one point, or belong to several patients.
        shared: All cases of each scan that stands under several patients: these are one.
    """

    opposed: tuple[CaseGroup, ...] = ()
    alike: tuple[CaseGroup, ...] = ()
    shared: tuple[CaseGroup, ...] = ()

    @property
    def reasons(self) -> dict[str, str]:
        """Why a case is refused, by its id."""
        return {
            case.case_id: f"the same scan, by its voxels, as {_named(c for c in group if c is not case)}, "
            "with another label"
            for group in self.opposed
            for case in group
        }

    @property
    def warnings(self) -> list[str]:
        """Sentences that name the cases that share a scan."""
        across = [group for group in self.alike if len({case.patient_id for case in group}) > 1]
        within = [group for group in self.alike if len({case.patient_id for case in group}) == 1]
        said = []
        if across:
            said.append(
                f"the same scan, by its voxels, stands under several patients: {_listed(across)}; these count as one "
                "patient"
            )
        if within:
            said.append(f"the same scan, by its voxels, is several cases of one patient: {_listed(within)}")
        return said


def find_copies(cases: Iterable[Case], scans: Mapping[str, str], *, at_points: bool) -> Copies:
    """Cases whose scans have the same voxels.

    Several points of one scan under one patient are no copies, nor have their labels to agree.

    Args:
        cases: In the order in which they are named.
        scans: Digest of each case's scan by its id, or a keyed hash of it; those without one are passed over.
        at_points: Whether the recipe looks at a case's point alone; else its whole scan has one label.
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
        wrong = [tuple(here) for here in by_point.values() if len({c.sides for c in here if c.is_labelled}) > 1]
        opposed += wrong
        refused = {case.case_id for one in wrong for case in one}
        left = tuple(case for case in group if case.case_id not in refused)
        if len({_place(case, at_points) for case in left}) < len(left) or len({case.patient_id for case in left}) > 1:
            alike.append(left)
    return Copies(opposed=tuple(opposed), alike=tuple(alike), shared=tuple(shared))


def _place(case: Case, at_points: bool) -> tuple[float, ...]:
    """What of its scan a case is: a point, to a tenth of a mm, or all of it."""
    return tuple(round(v, 1) for v in case.point_mm) if at_points and case.point_mm else ()


def join_patients(cases: Iterable[Case], copies: Copies) -> tuple[Case, ...]:
    """The cases, with one patient id for all patients that share a scan, directly or through others."""
    leader: dict[str, str] = {}

    def of(patient: str) -> str:
        while patient in leader:
            patient = leader[patient]
        return patient

    for group in copies.shared:
        first = of(group[0].patient_id)
        for case in group[1:]:
            other = of(case.patient_id)
            if other != first:
                leader[other] = first
    if not leader:
        return tuple(cases)
    return tuple(replace(c, patient_id=of(c.patient_id)) if c.patient_id in leader else c for c in cases)


def check_table_split(cases: Sequence[Case], copies: Copies, source: Path) -> None:
    """Make sure that the table's own split puts no copy of a scan into another part.

    Raises:
        CohortError: If it does; the text names the cases.
    """
    parts: dict[str, set[str]] = {}
    patient_of = {case.case_id: case.patient_id for case in join_patients(cases, copies)}
    for case in cases:
        if case.split is not None:
            parts.setdefault(patient_of[case.case_id], set()).add(case.split)
    groups = [group for group in copies.shared if len(parts.get(patient_of[group[0].case_id], ())) > 1]
    if groups:
        msg = (
            f"{source}: the same scan, by its voxels, must be in one split, got {_listed(groups, with_split=True)}; "
            "change the split column, or remove the copies"
        )
        raise CohortError(msg)


def _listed(groups: list[CaseGroup], *, with_split: bool = False) -> str:
    shown = "; ".join(_named(group, with_split=with_split) for group in groups[:_SHOWN])
    return shown + (f"; and {len(groups) - _SHOWN} more scans" if len(groups) > _SHOWN else "")


def _named(group: Iterable[Case], *, with_split: bool = False) -> str:
    cases = list(group)
    names = [f"{c.case_id!r} (row {c.row}{f', {c.split}' if with_split and c.split else ''})" for c in cases[:_SHOWN]]
    more = [f"{len(cases) - _SHOWN} more"] if len(cases) > _SHOWN else []
    return " and ".join([*names, *more])
