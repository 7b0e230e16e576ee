"""Trains a model from a config: reads, splits and prepares the cohort before anything is written, then fits."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from hilum.cohorts.audit import Audit, audit
from hilum.cohorts.copies import join_within_parts
from hilum.cohorts.dataset import SplitCohort
from hilum.cohorts.labels import labels_of
from hilum.cohorts.links import Link, find_leaks, find_links, leakage_note
from hilum.cohorts.prepared import prepare_cohort
from hilum.cohorts.sampling import num_draws
from hilum.cohorts.split_file import Splits
from hilum.cohorts.splits import check_parts, split
from hilum.cohorts.table import Cohort
from hilum.deciding.model_folder import build
from hilum.deciding.tta import views_of
from hilum.errors import CohortError, ConfigError
from hilum.files import user_path
from hilum.modelling.device import pick_device
from hilum.modelling.memory import kept_memory
from hilum.modelling.speed import choose_speed
from hilum.modelling.weights.freezing import freeze
from hilum.modelling.weights.matching import matched_weights
from hilum.planning.advise import choose_loss
from hilum.planning.classes import class_table
from hilum.preparing import Store
from hilum.settings.run import LossConfig, RunConfig, SpeedConfig
from hilum.settings.toml import load, located
from hilum.training.fit import fit
from hilum.training.micro_batches import within_memory_of
from hilum.training.optimizer import fresh_but_frozen
from hilum.training.run_folder import STATE, Run

_log = logging.getLogger("hilum")

_SHOWN = 8
"""Largest number of leaks that a warning lists."""


def train(
    config: RunConfig | str | Path,
    out: str | Path,
    *,
    base: str | Path = ".",
    resume: bool = False,
    allow_leakage: bool = False,
) -> Path:
    """Train a classifier.

    Patients who share a scan, a study or near copies of a scan count as one when the parts are drawn. Then the cohort
    is audited: where the table's own split puts them into several parts, training stops.

    Args:
        config: Settings, or a TOML file.
        out: The run folder; must be new or empty unless a run is resumed.
        base: Folder to which paths in ``config`` are relative if it is not a file.
        resume: Continue the run in ``out`` after its last complete epoch, with its own settings and split.
        allow_leakage: Train even if the table's own split leaks; the model's card says so.

    Returns:
        The model folder, ``out/model``.

    Raises:
        HilumError: If the table, the scans or the settings are not usable; nothing is written then.
    """
    run = Run(out)
    if resume:
        return _resumed(run)
    inputs = [] if isinstance(config, RunConfig) else [user_path(config)]
    config = located(config, base) if isinstance(config, RunConfig) else load(user_path(config))
    run.check_new([*inputs, *filter(None, (config.cohort.table, config.training.weights))])
    _check_settings(config)
    cohort = Cohort.read(config.cohort.table, config.cohort)
    if config.training.weights:
        _check_weights(config, Path(config.training.weights), len(cohort.classes))
    for warning in cohort.warnings:
        _log.warning("%s", warning)
    parts = split(cohort, config.split)  # before any scan is read
    data = _prepared(config, cohort, parts)
    links = find_links(cohort.cases, data.prepared)
    data = replace(data, parts=_final_parts(config, data, links))
    found = audit(cohort, data.prepared, data.parts, links=links)
    for warning in found.warnings:
        _log.warning("%s", warning)
    data = _joined(data, links, is_accepted=_check_leaks(found, cohort.source, allowed=allow_leakage))
    check_parts(data.prepared.cases, data.parts, data.cohort)
    config = _decided(config, data)
    try:
        with run.locked(), kept_memory(config.speed.keep_memory == "on"):
            run.check_new()
            try:
                run.begin(config, cohort, data.prepared, data.parts, found)
                return fit(config, data, run)
            finally:
                run.clear()  # if stopped before the first complete epoch, there is nothing to resume
    except OSError as exc:
        msg = f"the run folder {run.folder} cannot be written: {exc.strerror or exc}"
        raise ConfigError(msg) from exc


def _resumed(run: Run) -> Path:
    """Continue a run."""
    if not (run.checkpoint / STATE).is_file():
        msg = f"{run.folder} cannot be resumed: it holds no last/{STATE}"
        raise ConfigError(msg)
    run.check_own()
    config = run.settings
    _check_settings(config)
    cohort = Cohort.read(run.table, config.cohort)
    for warning in cohort.warnings:
        _log.warning("%s", warning)
    splits = run.splits(cohort)
    changed = {case.case_id for case in cohort.cases} ^ splits.parts.keys()
    if changed:
        msg = (
            f"{cohort.source} must hold the cases that {run.folder} was begun with; {len(changed)} were added or "
            f"removed, such as {min(changed)!r}. Train a new run"
        )
        raise CohortError(msg)
    data = _prepared(config, cohort, splits.parts)
    _check_copies(run, data, splits)
    links = find_links(cohort.cases, data.prepared)
    data = _joined(data, links, is_accepted=_were_allowed(run, find_leaks(links, data.parts)[0]))
    run.check_unchanged(cohort, data.prepared)
    check_parts(data.prepared.cases, data.parts, data.cohort)
    with run.locked(), kept_memory(config.speed.keep_memory == "on"):
        run.remove_temporaries()
        return fit(config, data, run, resume=True)


def _check_settings(config: RunConfig) -> None:
    """Raise a ConfigError, before anything is read, if the settings are not usable."""
    if not config.cohort.table:
        msg = "cohort.table must name the table of cases"
        raise ConfigError(msg)
    pick_device(config.training.device)
    config.check_together()
    views_of(config)


def _prepared(config: RunConfig, cohort: Cohort, parts: dict[str, str]) -> SplitCohort:
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


def _final_parts(config: RunConfig, data: SplitCohort, links: Sequence[Link]) -> dict[str, str]:
    """The parts once linked patients count as one, unless the table's own split puts them apart."""
    table_parts = {case.case_id: case.split for case in data.cohort.cases if case.split is not None}
    linked = [link.cases for link in links]
    cases = join_within_parts(data.cohort.cases, data.prepared.copies, linked, table_parts)
    return data.parts if cases == data.cohort.cases else split(replace(data.cohort, cases=cases), config.split)


def _check_leaks(found: Audit, source: Path, *, allowed: bool) -> bool:
    """Whether there are leaks, which are allowed.

    Raises:
        CohortError: If there are, and they are not.
    """
    if found.leaks and not allowed:
        more = f" (and {len(found.leaks) - 1} more leaks)" if len(found.leaks) > 1 else ""
        msg = f"{source}: the table's own split leaks: {found.leaks[0]}{more}"
        raise CohortError(msg, hint="change the split column, or give --allow-leakage; hilum audit lists all")
    return bool(found.leaks)


def _were_allowed(run: Run, leaking: Sequence[Link]) -> bool:
    """Whether the audit with which a run was begun has these leaks: then they were allowed."""
    known = [(one["kind"], one["cases"]) for one in (run.audit or {}).get("leaks", [])]
    return all((link.kind, [case.case_id for case in link.cases]) in known for link in leaking)


def _joined(data: SplitCohort, links: Sequence[Link], *, is_accepted: bool) -> SplitCohort:
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


def _check_copies(run: Run, data: SplitCohort, splits: Splits) -> None:
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


def _decided(config: RunConfig, data: SplitCohort) -> RunConfig:
    """Resolve the settings ``auto`` of loss and speed."""
    if config.loss.name == "auto":
        config = replace(config, loss=_advised(config, data))
        config.check_together()
    labels = labels_of(data.cases("train"))
    return replace(config, speed=_fastest(config, num_draws(labels, config.sampling.method), data.cohort))


def _advised(config: RunConfig, data: SplitCohort) -> LossConfig:
    """The advised loss, from the training cases only."""
    choice = choose_loss(class_table(replace(data.cohort, cases=data.cases("train"))), config)
    _log.info("loss: %s", choice.reason)
    return choice.loss


def _fastest(config: RunConfig, num_cases: int, cohort: Cohort) -> SpeedConfig:
    """The fastest speed settings for this number of draws in an epoch; a resumed run keeps them."""
    settings = config.training
    with torch.random.fork_rng(devices=[]):
        network = build(config.model, config.recipe, len(cohort.classes))
    network.checkpointing = settings.checkpointing
    freeze(network, settings.freeze)
    batch = min(settings.batch_size, num_cases)
    if settings.micro_batch >= batch:
        _log.warning("training.micro_batch = %d cuts nothing: a batch is of %d cases", settings.micro_batch, batch)
    shape = (config.at_once(batch), config.recipe.num_channels, *config.recipe.size)
    steps = settings.epochs * math.ceil(num_cases / settings.batch_size)
    with within_memory_of("training", config, num_cases):
        chosen = choose_speed(network, shape, config.speed, pick_device(settings.device), expected_steps=steps)
    _log.info("%s", chosen.line)
    return chosen.speed


def _check_weights(config: RunConfig, weights: Path, num_classes: int) -> None:
    """Check, before any scan is prepared, that initial weights fit and include all frozen tensors.

    Raises:
        CheckpointError: If they do not fit.
        ConfigError: If a frozen tensor is missing.
    """
    with torch.device("meta"):
        network = build(config.model, config.recipe, num_classes)
    _, report = matched_weights(network, weights)
    fresh = fresh_but_frozen(network, config.training.freeze, report)
    if fresh:
        msg = (
            f"training.freeze = {config.training.freeze} would freeze {fresh[0]}, which {weights} does not bring "
            f"({len(fresh)} such tensors)"
        )
        raise ConfigError(msg)
