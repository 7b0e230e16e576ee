"""Brings every case of a cohort into the store, and lists those that had to be refused."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from hilum.cohorts.table import Case, Cohort
from hilum.config import Recipe
from hilum.errors import CohortError, HilumError
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
    """

    cases: tuple[Case, ...]
    samples: tuple[Path, ...]
    refusals: tuple[Refusal, ...]


def prepare_cohort(
    cohort: Cohort, recipe: Recipe, store: Store, *, npy_range: str = "unit", max_refused: float = 1.0
) -> PreparedCohort:
    """Prepare all cases, on all cores, with a progress bar; samples already in the store are only checked.

    A case that cannot be read or prepared is refused and left out.

    Raises:
        CohortError: If more than the share ``max_refused`` of the cases is refused, or all are.
    """
    work = partial(_prepare_case, recipe=recipe, store=store, npy_range=npy_range)
    cases, samples, refusals = [], [], []
    for case, result in tqdm(
        zip(cohort.cases, _in_parallel(work, cohort.cases), strict=True),
        "preparing",
        total=len(cohort.cases),
        unit="case",
        disable=None,
        leave=False,
    ):
        if isinstance(result, Path):
            cases.append(case)
            samples.append(result)
        else:
            refusals.append(Refusal(case_id=case.case_id, row=case.row, reason=result))
    if not cases or len(refusals) > max_refused * len(cohort.cases):
        first = refusals[0]
        msg = (
            f"{cohort.source}: {len(refusals)} of {len(cohort.cases)} cases are refused, allowed are {max_refused:.0%} "
            f"(cohort.max_refused); the first, row {first.row}: {first.reason}"
        )
        raise CohortError(msg)
    return PreparedCohort(cases=tuple(cases), samples=tuple(samples), refusals=tuple(refusals))


def write_refusals(path: Path, refusals: tuple[Refusal, ...]) -> None:
    """List the refused cases as ``case_id,row,reason``; without any, the file is removed."""
    if not refusals:
        path.unlink(missing_ok=True)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("case_id", "row", "reason"))
        table.writerows((r.case_id, r.row, r.reason) for r in refusals)


def _prepare_case(case: Case, recipe: Recipe, store: Store, npy_range: str) -> Path | str:
    """Where the case's sample lies, or why there is none."""
    try:
        return store.ensure(case.path, recipe, point_mm=case.point_mm, series=case.series, npy_range=npy_range)
    except HilumError as exc:
        return str(exc)


def _in_parallel(work: "partial[Path | str]", cases: tuple[Case, ...]) -> Iterator[Path | str]:
    """The results in the order of the cases: a process for each core, or threads where there are few cases.

    joblib's processes do not import the caller's script again, which so needs no ``if __name__ == "__main__"``.
    """
    few = len(cases) <= _FEW
    cases = tuple(replace(case, path=case.path.absolute()) for case in cases)  # a process may have another folder
    with parallel_config("threading") if few else parallel_config("loky", inner_max_num_threads=1):
        yield from Parallel(n_jobs=_cores(), return_as="generator")(delayed(work)(case) for case in cases)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
