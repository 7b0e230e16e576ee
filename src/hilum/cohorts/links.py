"""Links cases that must be in one part: of one patient, one study or one scan, and near copies of a scan."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hilum.cohorts.copies import CaseGroup, name_cases
from hilum.cohorts.near_copies import find_near_copies
from hilum.cohorts.prepared import PreparedCohort
from hilum.cohorts.split_file import TrainedOn, patient_key
from hilum.cohorts.table import Case
from hilum.reading.identity import hashed
from hilum.volume import SourceScan

_SHOWN = 8
"""Largest number of links that a warning lists."""

LinkKind: TypeAlias = Literal["patient", "study", "scan", "near copy"]

_WORDS: dict[LinkKind, str] = {
    "patient": "the same patient",
    "study": "the same study, by the tags of its scans,",
    "scan": "the same scan, by its voxels,",
    "near copy": "nearly the same scan",
}

_COUNTED: dict[LinkKind, str] = {
    "patient": "patients",
    "study": "studies",
    "scan": "scans",
    "near copy": "near copies",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Cases that must be in one part.

    Attributes:
        kind: What they share.
        cases: The cases of the table.
        how: For near copies how they differ, and for a link to a run what of it they share.
    """

    kind: LinkKind
    cases: CaseGroup
    how: str = ""

    @property
    def has_several_patients(self) -> bool:
        """Whether the table gives the cases different patients."""
        return len({case.patient_id for case in self.cases}) > 1

    def parts(self, parts: Mapping[str, str]) -> set[str]:
        """The parts in which the cases are."""
        return {parts[case.case_id] for case in self.cases if case.case_id in parts}

    def names(self, parts: Mapping[str, str] | None = None) -> str:
        """The cases, and how they differ."""
        return name_cases(self.cases, parts) + (f" ({self.how})" if self.how else "")

    def sentence(self, where: str, parts: Mapping[str, str] | None = None) -> str:
        """What is shared, where, and by which cases."""
        return f"{_WORDS[self.kind]} {where}: {self.names(parts)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCases:
    """What is known of the cases that trained or validated a model.

    Attributes:
        trained_on: Their patients and scans.
        sources: Their whole scans by case id; empty if the run holds no signatures.
        studies: Keyed hashes of their studies.
        unchecked: Why patients cannot be recognised; empty if they can.
        notes: Sentences on what cannot be compared, and why.
    """

    trained_on: TrainedOn
    sources: Mapping[str, SourceScan]
    studies: frozenset[str] = frozenset()
    unchecked: str = ""
    notes: tuple[str, ...] = ()


def find_links(cases: Iterable[Case], prepared: PreparedCohort) -> tuple[Link, ...]:
    """Link the cases of one table; a link of scans, studies or near copies names cases of several patients only.

    Args:
        cases: Cases of the table.
        prepared: The cohort, with tags and scans of the cases.
    """
    cases = list(cases)
    by_id = {case.case_id: case for case in cases}
    tags = prepared.tags
    links = [*_shared("patient", cases, lambda case: case.patient_id)]
    links += _shared("study", cases, lambda case: tags[case.case_id].study if case.case_id in tags else "")
    links += _shared("scan", cases, lambda case: prepared.scans.get(case.case_id, ""))
    sources = {case_id: source for case_id, source in prepared.sources.items() if case_id in by_id}
    for pair in find_near_copies(sources):
        links.append(Link(kind="near copy", cases=(by_id[pair.first], by_id[pair.second]), how=pair.how))
    return tuple(link for link in links if link.kind == "patient" or link.has_several_patients)


def warn_of_links(links: Sequence[Link]) -> Iterator[str]:
    """A sentence for studies, and one for near copies, that stand under several patients; copies have their own."""
    kinds: tuple[LinkKind, ...] = ("study", "near copy")
    for kind in kinds:
        names = [link.names() for link in links if link.kind == kind]
        if names:
            more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
            shown = "; ".join([*names[:_SHOWN], *more])
            yield f"{_WORDS[kind]} stands under several patients, which must be one: {shown}"


def leakage_note(links: Iterable[Link], *, accepted: bool = True, where: str = "between the parts") -> str:
    """A sentence on leaks, without ids of cases, for the card of a model.

    Args:
        links: The leaks.
        accepted: Whether somebody allowed them; else they were found too late, in a run of an older version.
        where: Where they are.
    """
    counts = Counter(link.kind for link in links)
    shared = ", ".join(f"{_COUNTED[kind]}: {number}" for kind, number in sorted(counts.items()))
    if accepted:
        return f"leaks {where} were allowed ({shared})"
    return f"there are leaks {where}, found after training began ({shared})"


def find_leaks(links: Iterable[Link], parts: Mapping[str, str]) -> tuple[tuple[Link, ...], tuple[str, ...]]:
    """The links between parts, and a sentence for each, which names its cases."""
    apart = tuple(link for link in links if len(link.parts(parts)) > 1)
    return apart, tuple(link.sentence("is in several parts", parts) for link in apart)


def find_links_to(known: KnownCases, cases: Iterable[Case], prepared: PreparedCohort) -> tuple[Link, ...]:
    """Link cases of a table to those that trained or validated a model; a case is linked once, by the surest sign.

    Args:
        known: The cases of the model.
        cases: Cases of the table that did not train it.
        prepared: The cohort, with tags and scans of the cases.
    """
    groups: dict[LinkKind, list[Case]] = {"patient": [], "study": [], "scan": []}
    left = {}
    for case in cases:
        digest = prepared.scans.get(case.case_id, "")
        tags = prepared.tags.get(case.case_id)
        if patient_key(case) in known.trained_on.patients - {""}:
            groups["patient"].append(case)
        elif digest and known.trained_on.scans & {digest, hashed("scan", digest)}:
            groups["scan"].append(case)
        elif tags is not None and tags.study in known.studies - {""}:
            groups["study"].append(case)
        else:
            left[case.case_id] = case
    links = [Link(kind=kind, cases=tuple(group)) for kind, group in groups.items() if group]
    sources = {case_id: prepared.sources[case_id] for case_id in left if case_id in prepared.sources}
    pairs = {sources[pair.first].digest: pair for pair in reversed(find_near_copies(sources, known.sources))}
    for case_id, source in sources.items():  # each case of a scan, such as its points
        if source.digest in pairs:
            pair = pairs[source.digest]
            how = f"as {pair.second!r} of the run, {pair.how}"
            links.append(Link(kind="near copy", cases=(left[case_id],), how=how))
    return tuple(links)


def _shared(kind: LinkKind, cases: Iterable[Case], value: Callable[[Case], str]) -> list[Link]:
    """A link for each value that several cases share."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        if value(case):
            groups.setdefault(value(case), []).append(case)
    return [Link(kind=kind, cases=tuple(group)) for group in groups.values() if len(group) > 1]
