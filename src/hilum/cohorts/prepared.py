"""Prepares every case of a cohort into the store, and lists the refused ones."""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hilum.cohorts.copies import Copies, find_copies
from hilum.cohorts.prepare_case import Done, Task, find_case, prepare_case
from hilum.cohorts.table import Case, Cohort
from hilum.cohorts.worker_limit import worker_limit
from hilum.errors import CohortError, HilumError, StoreError
from hilum.files import check_output, csv_text, write_whole
from hilum.preparing import Store
from hilum.settings.run import Recipe
from hilum.volume import SourceScan, Tags
from hilum.working.stop import Stop
from hilum.working.tasks import Failed, run_tasks

_FEW = 16
"""Up to this many cases threads are faster, for processes take time to start (rule of thumb)."""

_log = logging.getLogger("hilum")

OPPOSED = "opposed-copy"
"""Code of the refusal of a scan that occurs twice with different labels."""

REFUSALS_MARK = "^case_id,row,reason"
"""Pattern at the beginning of a list of refused cases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A case that cannot be used, with the reason, and its code where there is one."""

    case_id: str
    row: int
    reason: str
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCohort:
    """The usable cases of a cohort, with their samples on disk.

    Attributes:
        cases: In the order of the table.
        samples: File in the store of each case.
        refusals: The refused cases.
        findings: Number of cases with a finding, by its code.
        num_there: Number of samples that were in the store already.
        scans: Digest of the scan's HU by case id, including cases refused as copies.
        copies: Cases that share their scan.
        sources: The whole scan by case id, where its sample tells.
        tags: Acquisition tags by case id.
    """

    cases: tuple[Case, ...]
    samples: tuple[Path, ...]
    refusals: tuple[Refusal, ...]
    findings: dict[str, int] = field(default_factory=dict)
    num_there: int = 0
    scans: Mapping[str, str] = field(default_factory=dict)
    copies: Copies = field(default_factory=Copies)
    sources: Mapping[str, SourceScan] = field(default_factory=dict)
    tags: Mapping[str, Tags] = field(default_factory=dict)

    @property
    def notes(self) -> str:
        """The findings in one line; empty where there are none."""
        return ", ".join(f"{code} in {number} cases" for code, number in sorted(self.findings.items()))


def prepare_cohort(
    cohort: Cohort,
    recipe: Recipe,
    store: Store,
    *,
    max_refused: float = 1.0,
    workers: int = 0,
    listed: Path | None = None,
) -> PreparedCohort:
    """Prepare all cases on all cores, with a progress bar; samples already in the store are only checked.

    A case is refused if it cannot be read or prepared, or if its scan occurs again in the table with another label. On
    Ctrl-C and other signals to end, the scans in progress are finished first: all finished samples are kept, and the
    next call continues from there. If the store is bounded, the longest unused samples are removed at the end.

    Args:
        cohort: The cases.
        recipe: The model's input.
        store: The store of the samples.
        max_refused: Largest share of the cases that may be refused.
        workers: Scans at once, if memory allows; 0: one for each core.
        listed: CSV file for the list of refused cases; None: not written.

    Raises:
        CohortError: If more than the share ``max_refused`` of the cases, or all of them, are refused.
        StoreError: If a sample cannot be written.
        ConfigError: If the cohort does not fit within the bound of the store.
    """
    if listed is not None:
        check_output(listed, REFUSALS_MARK)
    store.require_room(len(cohort.cases), recipe)
    store.sweep()
    workers, limited = worker_limit([case.path for case in cohort.cases], workers)
    if limited:
        _log.warning("%s", limited)
    results = _prepare_all(cohort, recipe, store, workers)
    done = {case.case_id: one for case, one in zip(cohort.cases, results, strict=True) if isinstance(one, Done)}
    scans = {case_id: one.scan for case_id, one in done.items()}
    usable = (case for case in cohort.cases if case.case_id in done)
    copies = find_copies(usable, scans, at_points=recipe.region == "point")
    opposed = copies.reasons
    cases, samples, refusals = [], [], []
    findings: Counter[str] = Counter()
    for case, result in zip(cohort.cases, results, strict=True):
        if isinstance(result, Failed):
            reason, code = _reason(result.error, cohort.source), getattr(result.error, "code", None) or ""
            refusals.append(Refusal(case_id=case.case_id, row=case.row, reason=reason, code=code))
        elif case.case_id in opposed:
            reason = opposed[case.case_id]
            refusals.append(Refusal(case_id=case.case_id, row=case.row, reason=reason, code=OPPOSED))
        else:
            cases.append(case)
            samples.append(result.file)
            findings.update(result.codes)
    store.trim(keep=samples)
    if listed is not None:
        write_refusals(listed, tuple(refusals))
    check_refusals(cohort.source, len(cohort.cases), refusals, max_refused)
    return PreparedCohort(
        cases=tuple(cases),
        samples=tuple(samples),
        refusals=tuple(refusals),
        findings=dict(findings),
        num_there=sum(not done[case.case_id].made for case in cases),
        scans=scans,
        copies=copies,
        sources={case_id: one.source for case_id, one in done.items() if one.source is not None},
        tags={case_id: one.tags for case_id, one in done.items()},
    )


def check_refusals(
    source: Path, num_cases: int, refusals: Sequence[Refusal], max_refused: float, setting: str = "cohort.max_refused"
) -> None:
    """Check that not too many cases of a table are refused.

    Args:
        source: The table.
        num_cases: Number of cases in all.
        refusals: The refused cases.
        max_refused: Largest allowed share of refused cases.
        setting: Name of the setting of that share, for the error.

    Raises:
        CohortError: If more than that share, or all, are refused.
    """
    if refusals and (len(refusals) == num_cases or len(refusals) > max_refused * num_cases):
        allowed = f"allowed are {max_refused:.0%} ({setting})" if max_refused < 1 else "at least one must be usable"
        first = refusals[0]
        msg = (
            f"{source}: {len(refusals)} of {num_cases} cases are refused, {allowed}; "
            f"the first, row {first.row}: {first.reason}"
        )
        raise CohortError(msg)


def write_refusals(path: Path, refusals: Sequence[Refusal]) -> None:
    """Write the refused cases as ``case_id,row,reason``; if there are none, remove the list of an earlier call.

    Raises:
        HilumError: If another file would be overwritten.
    """
    check_output(path, REFUSALS_MARK)
    if not refusals:
        path.unlink(missing_ok=True)
        return
    rows = ((one.case_id, one.row, one.reason) for one in refusals)
    write_whole(path, csv_text([("case_id", "row", "reason"), *rows]), follow=False)


def _reason(error: Exception, table: Path) -> str:
    """Reason for refusing a case, with a path relative to the table."""
    if isinstance(error, HilumError):
        return error.text(error.path and os.path.relpath(error.path, table.parent))
    return f"{type(error).__name__}: {error}"[:200]


def _shared(done: Done, known: dict[object, Any]) -> Done:
    """The same with the objects of earlier cases for equal tags and scans: a scan may have a thousand points."""
    source = done.source
    if source is not None and source.digest:
        source = known.setdefault((source.digest, source.spacing_mm), source)
    return replace(done, source=source, tags=known.setdefault(done.tags, done.tags))


def _prepare_all(cohort: Cohort, recipe: Recipe, store: Store, workers: int) -> list[Done | Failed]:
    """Sample or failure of each case, in order; ends the process if a signal requested it.

    Existing samples are looked up first, in threads; processes are started only for the missing ones.
    """
    left = {
        number: Task(
            path=case.path.absolute(),
            point_mm=case.point_mm,
            series=case.series,
            mask=case.mask and case.mask.absolute(),
        )
        for number, case in enumerate(cohort.cases)
    }
    results: dict[int, Done | Failed] = {}
    known: dict[object, Any] = {}
    refused = 0
    stop = Stop()
    with stop.on_signals(), tqdm(total=len(left), desc="preparing", unit="case", disable=None, leave=False) as bar:
        for work in (find_case, prepare_case):
            numbers, threads = list(left), work is find_case or len(left) <= _FEW
            task = partial(work, recipe=recipe, store=store)
            done = run_tasks(task, list(left.values()), workers=workers, threads=threads, stop=stop)
            for number, result in zip(numbers, done, strict=False):  # fewer where a signal asked for an end
                if isinstance(result, Failed) and isinstance(result.error, StoreError):
                    raise result.error
                if isinstance(result, Done) or (isinstance(result, Failed) and work is prepare_case):
                    results[number] = result if isinstance(result, Failed) else _shared(result, known)
                    refused += isinstance(result, Failed)
                    del left[number]
                    bar.set_postfix({"refused": refused}, refresh=False)
                    bar.update()
    if stop.signal:
        store.sweep()
        _log.warning(
            "stopped: %d of %d cases are done and kept, %d of them refused; the same command goes on from there",
            len(results), len(cohort.cases), refused,
        )  # fmt: skip
        stop.end()
    return [results[n] for n in range(len(cohort.cases))]
