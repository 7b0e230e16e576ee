"""Audits a cohort before training and judging: leaks between parts, tags that give the label away, odd values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from hilum.cohorts.cells import is_missing, number_in
from hilum.cohorts.copies import name_cases
from hilum.cohorts.giveaways import Giveaway, find_giveaways
from hilum.cohorts.links import KnownCases, Link, find_leaks, find_links, find_links_to, warn_of_links
from hilum.cohorts.prepared import PreparedCohort
from hilum.cohorts.table import Case, Cohort

AUDIT_FORMAT = 1

AUDIT_MARK = r'^\{\s*"format": \d+,\s*"num_cases": \d+,\s*"leaks"'
"""Pattern at the beginning of an audit's JSON."""

_TELLING = 0.6
"""Lower end of the interval of an AUC from which a tag is warned of. Random tags of two to eight levels were warned of
in 1.3 % of simulated tables with 20 patients of each class, and in 0.2 % with 20 and 46 (200 tables each)."""

_UNLIKELY = 0.01
"""Largest p-value of a difference in refusals that is warned of: a table has one such test, or one for each label."""

_EXTREME_SDS = 10.0
"""Robust standard deviations from the median beyond which a number is extreme: more than any skewed measure of patients
has, and less than a slip of the decimal point."""

_MAD_SD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""

_NUMERIC = 0.9
"""Smallest share of the filled cells of a column of numbers that are numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedByClass:
    """Whether a class, or a label, was refused more often than the rest.

    Attributes:
        target: Name of the label; empty for classes that exclude one another.
        refused: Refused cases by class.
        used: Usable cases by class.
        p: p-value of Fisher's test for two classes, else of the chi-square test; None if there is none.
        reason: Reason why there is no p-value.
    """

    target: str
    refused: Mapping[str, int]
    used: Mapping[str, int]
    p: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnValues:
    """Missing and extreme values of a column of the table.

    Attributes:
        column: Its name.
        missing: Share of empty cells.
        extreme: Numbers far from the median, by case id.
    """

    column: str
    missing: float
    extreme: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What an audit found.

    Attributes:
        num_cases: Cases of the table.
        links: Cases of the table that must be in one part.
        leaking: Links between parts, or to the training and validation cases of a run.
        leaks: A sentence for each of them, which names the cases.
        warnings: Sentences on what may mislead a model or its figures.
        giveaways: How well technical tags, sizes and an HU histogram alone tell each class.
        refused: How often the classes were refused.
        values: Columns of the table with missing or extreme values.
        notes: What could not be compared.
    """

    num_cases: int
    links: tuple[Link, ...] = ()
    leaking: tuple[Link, ...] = ()
    leaks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    giveaways: tuple[Giveaway, ...] = ()
    refused: tuple[RefusedByClass, ...] = ()
    values: tuple[ColumnValues, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The audit as plain JSON values."""
        return {
            "format": AUDIT_FORMAT,
            "num_cases": self.num_cases,
            "leaks": [
                {"kind": link.kind, "cases": [case.case_id for case in link.cases], "sentence": sentence}
                for link, sentence in zip(self.leaking, self.leaks, strict=True)
            ],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "giveaways": [asdict(one) for one in self.giveaways],
            "refused": [asdict(one) for one in self.refused],
            "values": [asdict(one) for one in self.values],
        }


def audit(
    cohort: Cohort,
    prepared: PreparedCohort,
    parts: Mapping[str, str] | None = None,
    *,
    known: KnownCases | None = None,
    links: Sequence[Link] | None = None,
) -> Audit:
    """Audit a table of cases whose scans have been prepared.

    Args:
        cohort: The table, before linked patients are joined.
        prepared: Its prepared cases.
        parts: Part of each case by its id, as far as known.
        known: Training and validation cases of a run, with which all other cases are compared.
        links: What ``find_links`` finds, if it has been called.
    """
    parts = parts or {}
    links = tuple(find_links(cohort.cases, prepared) if links is None else links)
    leaking, leaks = find_leaks(links, parts)
    notes = _notes_on_parts(cohort.cases, parts) if known is None else list(known.notes)
    if known is not None:
        unseen = [case for case in cohort.cases if parts.get(case.case_id, "test") == "test"]
        to_run = find_links_to(known, unseen, prepared)
        leaking += to_run
        leaks += tuple(link.sentence("trained or validated the model") for link in to_run)
    giveaways = find_giveaways(cohort, prepared, linked=[link.cases for link in links])
    refused = refused_by_class(cohort, prepared)
    values = odd_values(cohort.cases)
    return Audit(
        num_cases=len(cohort.cases),
        links=links,
        leaking=leaking,
        leaks=leaks,
        warnings=(
            *warn_of_links(links),
            *(_warn_of_tag(one) for one in giveaways if one.is_technical and (one.low or 0) > _TELLING),
            *(_warn_of_refused(one) for one in refused if one.p is not None and one.p < _UNLIKELY),
            *(_warn_of_values(one, cohort.cases) for one in values if one.extreme),
        ),
        giveaways=giveaways,
        refused=refused,
        values=values,
        notes=tuple(notes),
    )


def _notes_on_parts(cases: Sequence[Case], parts: Mapping[str, str]) -> list[str]:
    """A sentence if there are no parts between which cases could leak, or some cases are in none."""
    if len({parts[case.case_id] for case in cases if case.case_id in parts}) < 2:
        return ["there are no several parts between which cases could leak: scans are compared for copies only"]
    left = [case for case in cases if case.case_id not in parts]
    return [f"cases without a part, which may leak into any: {name_cases(left)}"] if left else []


def _warn_of_tag(one: Giveaway) -> str:
    return (
        f"{one.tag} alone tells {one.target!r}: cross-validated AUC {one.auc:.2f} ({one.low:.2f} to {one.high:.2f}); a "
        "model may learn it instead of the disease"
    )


def _warn_of_refused(one: RefusedByClass) -> str:
    counts = ", ".join(
        f"{number} of {number + one.used[name]} of {name!r}" for name, number in sorted(one.refused.items())
    )
    among = f" of {one.target!r}" if one.target else ""
    return f"scans were refused more often in one class{among} than in others: {counts} (p = {one.p:.2g})"


def _warn_of_values(one: ColumnValues, cases: Sequence[Case]) -> str:
    named = name_cases(case for case in cases if case.case_id in one.extreme)
    return f"column {one.column!r} has values far from all others: {named}"


def refused_by_class(cohort: Cohort, prepared: PreparedCohort) -> tuple[RefusedByClass, ...]:
    """Count the refused and the usable cases of each class, or of each label present and absent, and compare them."""
    refused = {one.case_id for one in prepared.refusals}
    labelled = [case for case in cohort.cases if case.is_labelled]
    if cohort.multi_label:
        groups = [
            (name, {word: [c for c in labelled if (k, state) in c.sides] for word, state in _STATES.items()})
            for k, name in enumerate(cohort.classes)
        ]
    else:
        classes = {name: [c for c in labelled if c.label == k] for k, name in enumerate(cohort.classes)}
        groups = [("", classes)]
    return tuple(_compared(target, by_class, refused) for target, by_class in groups)


_STATES = {"absent": False, "present": True}


def _compared(target: str, by_class: Mapping[str, Sequence[Case]], refused: set[str]) -> RefusedByClass:
    gone = {name: sum(case.case_id in refused for case in cases) for name, cases in by_class.items()}
    used = {name: len(cases) - gone[name] for name, cases in by_class.items()}
    counts = np.array([[gone[name], used[name]] for name in by_class if by_class[name]])
    if not sum(gone.values()):
        return RefusedByClass(target=target, refused=gone, used=used, reason="no case was refused")
    if len(counts) < 2 or not counts[:, 1].any():
        return RefusedByClass(target=target, refused=gone, used=used, reason="there is one class, or no usable case")
    p = stats.fisher_exact(counts).pvalue if len(counts) == 2 else stats.chi2_contingency(counts).pvalue
    return RefusedByClass(target=target, refused=gone, used=used, p=float(p))


def odd_values(cases: Sequence[Case]) -> tuple[ColumnValues, ...]:
    """Columns with missing cells, or with numbers far from the median in robust standard deviations."""
    found = []
    for column in cases[0].groups if cases else ():
        cells = {case.case_id: case.groups.get(column, "") for case in cases}
        filled = {case_id: cell for case_id, cell in cells.items() if not is_missing(cell)}
        missing = (len(cells) - len(filled)) / len(cells)
        extreme = _extreme(filled)
        if missing or extreme:
            found.append(ColumnValues(column=column, missing=missing, extreme=extreme))
    return tuple(found)


def _extreme(cells: Mapping[str, str]) -> dict[str, float]:
    numbers = {case_id: number for case_id, cell in cells.items() if (number := number_in(cell)) is not None}
    if not numbers or len(numbers) < _NUMERIC * len(cells):
        return {}
    values = np.array(list(numbers.values()))
    middle = np.median(values)
    spread = _MAD_SD * np.median(np.abs(values - middle))
    if spread == 0:  # most values are equal, so that any other would be extreme
        return {}
    return {case_id: number for case_id, number in numbers.items() if abs(number - middle) > _EXTREME_SDS * spread}
