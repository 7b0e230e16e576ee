"""Brings every case of a cohort into the store, and lists those that had to be refused."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from hilum.cohorts.table import Case, Cohort
from hilum.config import Recipe
from hilum.errors import CohortError, HilumError
from hilum.files import cores, write_whole
from hilum.preparing import Store

_FEW = 16
"""Up to this many cases threads are quicker than starting processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A case that cannot be used, and why."""

    case_id: str
    row: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCohort:
    """The cases that can be used, with their samples on disk.

    Attributes:
        cases: In the order of the table.
        samples: For each of them, its file in the store.
        refusals: The cases left out.
        findings: How many of the cases have a finding of each code.
    """

    cases: tuple[Case, ...]
    samples: tuple[Path, ...]
    refusals: tuple[Refusal, ...]
    findings: dict[str, int] = field(default_factory=dict)

    @property
    def notes(self) -> str:
        """The findings in one line; empty where there are none."""
        return ", ".join(f"{code} in {number} cases" for code, number in sorted(self.findings.items()))


def prepare_cohort(cohort: Cohort, recipe: Recipe, store: Store, *, max_refused: float = 1.0) -> PreparedCohort:
    """Prepare all cases, on all cores, with a progress bar; samples already in the store are only checked.

    A case that cannot be read or prepared is refused and left out.

    Raises:
        CohortError: If more than the share ``max_refused`` of the cases is refused, or all are.
    """
    cases, samples, refusals = [], [], []
    findings: Counter[str] = Counter()
    for case, result in tqdm(
        zip(cohort.cases, _in_parallel(partial(_prepare_case, recipe=recipe, store=store), cohort.cases), strict=True),
        "preparing",
        total=len(cohort.cases),
        unit="case",
        disable=None,
        leave=False,
    ):
        if isinstance(result, str):
            reason = result
            for path in (case.path, case.mask):
                if path is not None:
                    reason = reason.replace(str(path.absolute()), os.path.relpath(path, cohort.source.parent))
            refusals.append(Refusal(case_id=case.case_id, row=case.row, reason=reason))
        else:
            cases.append(case)
            samples.append(result[0])
            findings.update(result[1])
    if not cases or len(refusals) > max_refused * len(cohort.cases):
        allowed = "at least one must be usable" if max_refused >= 1 else f"allowed are {max_refused:.0%}"
        first = refusals[0]
        msg = (
            f"{cohort.source}: {len(refusals)} of {len(cohort.cases)} cases are refused, {allowed} "
            f"(cohort.max_refused); the first, row {first.row}: {first.reason}"
        )
        raise CohortError(msg)
    return PreparedCohort(cases=tuple(cases), samples=tuple(samples), refusals=tuple(refusals), findings=dict(findings))


def write_refusals(path: Path, refusals: tuple[Refusal, ...]) -> None:
    """List the refused cases as ``case_id,row,reason``; without any, the file is removed."""
    if not refusals:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("case_id", "row", "reason"))
    table.writerows((r.case_id, r.row, r.reason) for r in refusals)
    write_whole(path, text.getvalue())


def _prepare_case(case: Case, recipe: Recipe, store: Store) -> tuple[Path, set[str]] | str:
    """Where the case's sample lies and the codes of its findings; or why there is none."""
    try:
        file, sample = store.fetch(case.path, recipe, point_mm=case.point_mm, series=case.series, mask=case.mask)
        return file, {finding.code for finding in sample.findings}
    except (HilumError, OSError, MemoryError) as exc:
        return str(exc) if isinstance(exc, HilumError) else f"{type(exc).__name__}: {exc}"[:200]


def _in_parallel(
    work: "partial[tuple[Path, set[str]] | str]", cases: tuple[Case, ...]
) -> Iterator[tuple[Path, set[str]] | str]:
    """The results in the order of the cases: a process for each core, or threads where there are few cases.

    joblib's processes do not import the caller's script again, which so needs no ``if __name__ == "__main__"``.
    """
    few = len(cases) <= _FEW
    cases = tuple(  # a process may have another folder
        replace(case, path=case.path.absolute(), mask=case.mask and case.mask.absolute()) for case in cases
    )
    with parallel_config("threading") if few else parallel_config("loky", inner_max_num_threads=1):
        yield from Parallel(n_jobs=cores(), return_as="generator")(delayed(work)(case) for case in cases)
