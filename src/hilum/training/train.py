"""Trains a model from a config: reads, splits and prepares the cohort before anything is written, then fits."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from hilum.cohorts.audit import Audit, audit
from hilum.cohorts.copies import check_table_split, join_patients, name_cases, split_apart
from hilum.cohorts.dataset import SplitCohort
from hilum.cohorts.labels import labels_of
from hilum.cohorts.links import Link, find_links, leakage_note
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


def train(
    config: RunConfig | str | Path,
    out: str | Path,
    *,
    base: str | Path = ".",
    resume: bool = False,
    allow_leakage: bool = False,
) -> Path:
    """Train a classifier.

    The cohort is audited first. Patients who share a scan, a study or near copies of a scan count as one; where the
    table's own split puts them into several parts, training stops.

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
    data, found = _audited(data, allow_leakage=allow_leakage)
    if data.cohort.cases != cohort.cases:
        data = replace(data, parts=split(data.cohort, config.split))
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
    data = _rejoined(_prepared(config, cohort, splits.parts))
    _check_copies(run, data, splits)
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


def _audited(data: SplitCohort, *, allow_leakage: bool) -> tuple[SplitCohort, Audit]:
    """Audit the cohort, log the warnings, and join linked patients unless the table's own split puts them apart.

    Raises:
        CohortError: If it does, and leaks are not allowed.
    """
    table_parts = {case.case_id: case.split for case in data.cohort.cases if case.split is not None}
    found = audit(data.cohort, data.prepared, table_parts)
    for warning in found.warnings:
        _log.warning("%s", warning)
    linked = [link.cases for link in found.links]
    leaks = found.leaks or tuple(
        f"cases that must be one patient are in several parts: {name_cases(group, table_parts)}"
        for group in split_apart(data.cohort.cases, data.prepared.copies, linked)  # through other cases
    )
    if not leaks:
        return _joined(data, found.links), found
    if not allow_leakage:
        check_table_split(data.cohort.cases, data.prepared.copies, data.cohort.source)
        more = f" (and {len(leaks) - 1} more leaks)" if len(leaks) > 1 else ""
        msg = f"{data.cohort.source}: the table's own split leaks: {leaks[0]}{more}"
        raise CohortError(msg, hint="change the split column, or give --allow-leakage; hilum audit lists all")
    _log.warning("leaks are allowed, and patients stay as they are: %s", "; ".join(leaks))
    return replace(data, leakage=leakage_note(found.leaking)), found


def _rejoined(data: SplitCohort) -> SplitCohort:
    """Join the patients of a resumed run, which keeps its split, and note the leaks that it was begun with."""
    links = find_links(data.cohort.cases, data.prepared)
    apart = [link for link in links if len(link.parts(data.parts)) > 1]
    if not apart:
        return _joined(data, links)
    return replace(data, leakage=leakage_note(apart))


def _joined(data: SplitCohort, links: Sequence[Link]) -> SplitCohort:
    """Give patients who share a scan, a study or near copies of a scan the same id."""
    copies, linked = data.prepared.copies, [link.cases for link in links]
    cases, left = (join_patients(some, copies, linked) for some in (data.cohort.cases, data.prepared.cases))
    return replace(data, cohort=replace(data.cohort, cases=cases), prepared=replace(data.prepared, cases=left))


def _check_copies(run: Run, data: SplitCohort, splits: Splits) -> None:
    """Check copies in a resumed run, which keeps its split; older versions did not look for copies.

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
    apart = [group for group in copies.shared if len({data.parts[case.case_id] for case in group}) > 1]
    if apart:
        _log.warning(
            "warning: the split of this run was drawn before copies were looked for, and stays: the scan of %r is in "
            "several parts (such scans: %d)", apart[0][0].case_id, len(apart)
        )  # fmt: skip


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
