"""Brings every case of a cohort into the store, and lists those that had to be refused."""

import csv
import io
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tqdm import tqdm

from hilum.cohorts.copies import Copies, find_copies
from hilum.cohorts.prepare_case import Done, Task, find_case, prepare_case
from hilum.cohorts.table import Case, Cohort
from hilum.cohorts.worker_limit import worker_limit
from hilum.errors import CohortError, HilumError
from hilum.files import check_output, write_whole
from hilum.preparing import Store
from hilum.settings.run import Recipe
from hilum.working.processes import Stop, at_once

_FEW = 16
"""Up to this many cases threads are quicker than starting processes."""

_log = logging.getLogger("hilum")

REFUSALS_MARK = "^case_id,row,reason"
"""How a list of refused cases begins."""


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
        num_there: Samples that were in the store already.
        scans: Digest of the HU of each case's scan by its id, also of those refused as copies.
        copies: Cases that share their scan.
    """

    cases: tuple[Case, ...]
    samples: tuple[Path, ...]
    refusals: tuple[Refusal, ...]
    findings: dict[str, int] = field(default_factory=dict)
    num_there: int = 0
    scans: Mapping[str, str] = field(default_factory=dict)
    copies: Copies = field(default_factory=Copies)

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
    """Prepare all cases, on all cores, with a progress bar; samples already in the store are only checked.

    A case that cannot be read or prepared is refused and left out, and so is one whose scan stands in the table again
    with another label. On Ctrl-C and other signals to end, the scans under way are finished first: all that is done is
    kept, and the next call goes on from there. Samples that were not used for longest are removed at the end where the
    store is bounded.

    Args:
        cohort: The cases.
        recipe: The model's input.
        store: Where the samples lie.
        max_refused: Largest share of the cases that may be refused.
        workers: Scans at once, where memory allows; 0: one for each core.
        listed: Where the refused are listed, however many they are.

    Raises:
        CohortError: If more than the share ``max_refused`` of the cases is refused, or all are.
        StoreError: If a sample cannot be written.
        ConfigError: If the cohort does not fit within the bound of the store.
    """
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
        if isinstance(result, HilumError):
            reason = result.told(result.path and os.path.relpath(result.path, cohort.source.parent))
            refusals.append(Refusal(case_id=case.case_id, row=case.row, reason=reason))
        elif case.case_id in opposed:
            refusals.append(Refusal(case_id=case.case_id, row=case.row, reason=opposed[case.case_id]))
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
    )


def check_refusals(
    source: Path, num_cases: int, refusals: Sequence[Refusal], max_refused: float, setting: str = "cohort.max_refused"
) -> None:
    """Make sure that not too many cases of a table are refused.

    Args:
        source: The table.
        num_cases: How many cases were asked for.
        refusals: Those that cannot be used.
        max_refused: Largest share of them that is allowed.
        setting: What sets that share, for the error.

    Raises:
        CohortError: If more are refused, or all.
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
    """List the refused cases as ``case_id,row,reason``; without any, the list of an earlier call is removed.

    Raises:
        HilumError: If another file would be lost.
    """
    check_output(path, REFUSALS_MARK)
    if not refusals:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("case_id", "row", "reason"))
    table.writerows((r.case_id, r.row, r.reason) for r in refusals)
    write_whole(path, text.getvalue(), follow=False)


def _prepare_all(cohort: Cohort, recipe: Recipe, store: Store, workers: int) -> list[Done | HilumError]:
    """What became of each case, in their order; ends the process where a signal asked for it.

    Samples that are there are checked first, in threads; only what is missing then is worth starting processes for.
    """
    left = {
        n: Task(
            number=n,
            path=case.path.absolute(),
            point_mm=case.point_mm,
            series=case.series,
            mask=case.mask and case.mask.absolute(),
        )
        for n, case in enumerate(cohort.cases)
    }
    results: dict[int, Done | HilumError] = {}
    refused = 0
    stop = Stop()
    with stop.on_signals(), tqdm(total=len(left), desc="preparing", unit="case", disable=None, leave=False) as bar:
        for work in (find_case, prepare_case):
            items = list(left.values())
            threads = work is find_case or len(items) <= _FEW
            for number, result in at_once(partial(work, recipe=recipe, store=store), items, workers, stop, threads):
                if result is not None:
                    results[number] = result
                    refused += isinstance(result, HilumError)
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
