"""The cohort of a run: read, prepared once, audited, its linked patients joined; and its parts as data sets."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hilum.cohorts.audit import Audit, audit
from hilum.cohorts.cells import PARTS
from hilum.cohorts.copies import join_within_parts
from hilum.cohorts.dataset import CohortDataset, SplitCohort
from hilum.cohorts.links import Link, find_leaks, find_links, leakage_note
from hilum.cohorts.prepared import prepare_cohort
from hilum.cohorts.split_file import Splits
from hilum.cohorts.splits import check_parts, split
from hilum.cohorts.table import Cohort
from hilum.errors import CohortError, ConfigError
from hilum.preparing import Store
from hilum.settings.run import RunConfig
from hilum.settings.toml import settings_of
from hilum.training.run_cases import check_unchanged, splits_of
from hilum.training.run_folder import Run

_log = logging.getLogger("hilum")

_SHOWN = 8
"""Largest number of leaks that a warning lists."""


def read_cohort(config: RunConfig) -> Cohort:
    """Read the table, and log its warnings."""
    cohort = Cohort.read(config.cohort.table, config.cohort)
    for warning in cohort.warnings:
        _log.warning("%s", warning)
    return cohort


def same_cohort(run: Run, config: RunConfig) -> tuple[Cohort, Splits]:
    """Read the table of a run that is resumed, and its split.

    Raises:
        CohortError: If cases were added or removed, or have another patient or part.
    """
    cohort = read_cohort(config)
    splits = splits_of(run, cohort)
    changed = {case.case_id for case in cohort.cases} ^ splits.parts.keys()
    if changed:
        msg = (
            f"{cohort.source} must hold the cases that {run.folder} was begun with; {len(changed)} were added or "
            f"removed, such as {min(changed)!r}. Train a new run"
        )
        raise CohortError(msg)
    return cohort, splits


def prepared(config: RunConfig, cohort: Cohort, parts: dict[str, str]) -> SplitCohort:
    """Prepare the cohort, and log its findings."""
    store = Store(Path(config.store), config.reading, max_gb=config.store_gb)
    prepared = prepare_cohort(cohort, config.recipe, store, max_refused=config.cohort.max_refused)
    for refusal in prepared.refusals:
        _log.warning("refused, row %d: %s", refusal.row, refusal.reason)
    if prepared.notes:
        _log.info("findings: %s", prepared.notes)
    for warning in prepared.copies.warnings:
        _log.warning("%s", warning)
    return SplitCohort(cohort=cohort, prepared=prepared, parts=dict(parts))


def audited_cohort(config: RunConfig, cohort: Cohort, *, allow_leakage: bool) -> tuple[SplitCohort, Audit]:
    """Split the cohort, prepare it and audit it; patients who share a scan, a study or near copies count as one.

    Raises:
        CohortError: If the table's own split leaks and that is not allowed, or a part lacks cases.
    """
    parts = split(cohort, config.split)  # before any scan is read
    data = prepared(config, cohort, parts)
    links = find_links(cohort.cases, data.prepared)
    data = replace(data, parts=final_parts(config, data, links))
    found = audit(cohort, data.prepared, data.parts, links=links)
    for warning in found.warnings:
        _log.warning("%s", warning)
    data = joined(data, links, is_accepted=leaks_accepted(found, cohort.source, allowed=allow_leakage))
    check_parts(data.prepared.cases, data.parts, data.cohort)
    return data, found


def datasets(
    config: RunConfig | str | Path, *, base: str | Path = ".", allow_leakage: bool = False
) -> dict[str, CohortDataset]:
    """The prepared cases of each part as data sets of PyTorch, for training loops other than Hilum's.

    The parts are those that ``train`` would draw, or those of a run; cases that are not in the store yet are prepared.

    Args:
        config: Settings, a TOML file, or a run folder.
        base: Folder to which paths in ``config`` are relative if it is not a file.
        allow_leakage: Go on even if the table's own split leaks.

    Returns:
        ``train``, ``val`` and ``test``. Items are dictionaries that PyTorch's own ``DataLoader`` makes batches of:
        ``hu`` (c, z, y, x) int16, ``target`` (classes,) float32, ``spacing_mm`` (3,), ``name``, and others; see
        ``Sample``.

    Raises:
        HilumError: If the table, the scans or the settings are not usable, or not as they were when the run began; and
            for a run of folds, whose members have parts of their own.
    """
    run = None if isinstance(config, RunConfig) else Run(config)
    settings = settings_of(config, base)
    if run is not None and run.is_of_folds:
        msg = f"data sets are parts of one run, {run.folder} is a run of folds"
        raise ConfigError(msg, hint="name one of its members")
    if run is not None and run.is_begun:
        cohort, splits = same_cohort(run, settings)
        data = prepared(settings, cohort, splits.parts)
        check_unchanged(run, cohort, data.prepared, to="give its data sets")
    else:
        data, _ = audited_cohort(settings, read_cohort(settings), allow_leakage=allow_leakage)
    return {part: data.dataset(part, settings.recipe, seed=settings.training.seed) for part in PARTS}


def final_parts(config: RunConfig, data: SplitCohort, links: Sequence[Link]) -> dict[str, str]:
    """The parts once linked patients count as one, unless the table's own split puts them apart."""
    table_parts = {case.case_id: case.split for case in data.cohort.cases if case.split is not None}
    linked = [link.cases for link in links]
    cases = join_within_parts(data.cohort.cases, data.prepared.copies, linked, table_parts)
    return data.parts if cases == data.cohort.cases else split(replace(data.cohort, cases=cases), config.split)


def leaks_accepted(found: Audit, source: Path, *, allowed: bool) -> bool:
    """Whether there are leaks, which are allowed.

    Raises:
        CohortError: If there are, and they are not.
    """
    if found.leaks and not allowed:
        more = f" (and {len(found.leaks) - 1} more leaks)" if len(found.leaks) > 1 else ""
        msg = f"{source}: the table's own split leaks: {found.leaks[0]}{more}"
        raise CohortError(msg, hint="change the split column, or give --allow-leakage; hilum audit lists all")
    return bool(found.leaks)


def were_allowed(run: Run, leaking: Sequence[Link]) -> bool:
    """Whether the audit with which a run was begun has these leaks: then they were allowed."""
    known = [(one["kind"], one["cases"]) for one in (run.audit or {}).get("leaks", [])]
    return all((link.kind, [case.case_id for case in link.cases]) in known for link in leaking)


def joined(data: SplitCohort, links: Sequence[Link], *, is_accepted: bool) -> SplitCohort:
    """Give linked patients of each part the same id, and note and log the leaks between parts.

    A run, resumed or not, comes to the same cases and the same sentence.

    Args:
        data: The cohort with its final parts.
        links: Its links, before patients are joined.
        is_accepted: Whether the run was begun with leaks that were allowed.
    """
    cases = join_within_parts(data.cohort.cases, data.prepared.copies, [link.cases for link in links], data.parts)
    by_id = {case.case_id: case for case in cases}
    left = tuple(replace(one, patient_id=by_id[one.case_id].patient_id) for one in data.prepared.cases)
    leaking, leaks = find_leaks(links, data.parts)
    if leaks:
        how = "leaks are allowed" if is_accepted else "the split of this run, begun by an older Hilum, leaks, and stays"
        more = [f"and {len(leaks) - _SHOWN} more leaks"] if len(leaks) > _SHOWN else []
        _log.warning("warning: %s: %s", how, "; ".join([*leaks[:_SHOWN], *more]))
    return replace(
        data,
        cohort=replace(data.cohort, cases=cases),
        prepared=replace(data.prepared, cases=left),
        leakage=leakage_note(leaking, accepted=is_accepted) if leaks else "",
    )


def check_copies(run: Run, data: SplitCohort, splits: Splits) -> None:
    """Check copies in a resumed run; older versions did not look for them.

    Raises:
        CohortError: If cases that the run began with are refused now.
    """
    copies = data.prepared.copies
    if copies.opposed and splits.format == 1:
        first = copies.opposed[0][0].case_id
        msg = (
            f"{run.folder} cannot be resumed: an older Hilum began it with cases that are refused now; {first!r}: "
            f"{copies.reasons[first]}. Train a new run"
        )
        raise CohortError(msg)
