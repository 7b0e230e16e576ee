"""Who was judged: the flow of the table's rows to the judged cases, and the parts of a cohort side by side."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hilum.cohorts.prepared import PreparedCohort, Refusal
from hilum.cohorts.table import PRESENT, Case
from hilum.judging.candidates import Candidates
from hilum.judging.subgroups import CaseColumn, columns_of


def cohort_flow(
    candidates: Candidates, unseen: PreparedCohort, refused: Sequence[Refusal], seen: Sequence[Refusal]
) -> dict[str, Any]:
    """The flow from the table's rows to the judged cases, and the table of its parts."""
    whole, parts = candidates.whole, dict(candidates.parts)
    left_out = {one.case_id for one in (*refused, *seen)} | candidates.refused_before
    idle = {case.case_id for case in whole.cases if not case.is_labelled and parts.get(case.case_id) != "train"}
    left_out |= idle  # with a soft label alone, only to be trained on
    judged = {case.case_id for case in unseen.cases}
    parts = {case_id: part for case_id, part in parts.items() if case_id not in left_out}
    if candidates.splits is None:
        parts = dict.fromkeys(judged, "judged")
    return {
        "num_rows": len(whole.cases) + whole.num_unlabelled,
        "num_unlabelled": whole.num_unlabelled,
        "num_other_parts": len(whole.cases) - len(candidates.cohort.cases) - len(candidates.refused),
        "num_seen": len(seen),
        "refused_by_code": _refused_by_code(refused),
        "num_judged": len(judged),
        "table_one": table_one(whole.cases, parts, whole.classes),
    }


def _refused_by_code(refused: Sequence[Refusal]) -> dict[str, int]:
    """Number of refused cases by the code of the reason, the most frequent first."""
    return dict(Counter(one.code or "cannot be read or prepared" for one in refused).most_common())


def table_one(cases: Sequence[Case], parts: Mapping[str, str], classes: tuple[str, ...]) -> dict[str, Any]:
    """Cases, patients, classes and columns of each part of a cohort.

    Args:
        cases: All cases, with their columns.
        parts: Part of each case; cases without one are left out.
        classes: Names of the classes or labels.

    Returns:
        ``parts`` with their counts, and ``columns``: of each group of a column its number of cases in each part; of a
        measurement its median and quartiles in each part.
    """
    known = [case for case in cases if case.case_id in parts]
    part_of = np.array([parts[case.case_id] for case in known])
    names = [part for part in ("train", "val", "test", "judged") if part in set(parts.values())]
    rows: dict[str, np.ndarray] = {part: part_of == part for part in names}
    counts = {}
    for part in names:
        inside = [case for case, one in zip(known, rows[part], strict=True) if one]
        by_class = {name: sum(_has(case, k) for case in inside) for k, name in enumerate(classes)}
        counts[part] = {
            "num_cases": len(inside),
            "num_patients": len({case.patient_id for case in inside}),
            "by_class": by_class,
        }
    cells = {name: [case.groups.get(name, "") for case in known] for name in (known[0].groups if known else {})}
    columns, _ = columns_of(cells)
    return {"parts": counts, "columns": {one.name: _by_part(one, rows) for one in columns}}


def _has(case: Case, output: int) -> bool:
    return case.present[output] >= PRESENT if case.present else case.label == output


def _by_part(column: CaseColumn, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Median and quartiles of a measurement, or the counts of the groups, by part."""
    if column.numbers is None:
        return {
            group: {part: int((inside & column.rows(group)).sum()) for part, inside in rows.items()}
            for group in column.order
        }
    summary = {}
    for part, inside in rows.items():
        numbers = column.numbers[inside]
        numbers = numbers[np.isfinite(numbers)]
        summary[part] = np.quantile(numbers, (0.25, 0.5, 0.75)).tolist() if len(numbers) else None
    missing = {part: int(np.isnan(column.numbers[inside]).sum()) for part, inside in rows.items()}
    return {"quartiles": summary, "missing": missing}
