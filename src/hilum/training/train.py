"""A config to a run folder: the table is read, split and prepared before anything is written, then the model fitted."""

import logging
import math
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from hilum.cohorts.copies import check_table_split, join_patients
from hilum.cohorts.labels import labels_of
from hilum.cohorts.prepared import PreparedCohort, prepare_cohort, write_refusals
from hilum.cohorts.sampling import num_draws
from hilum.cohorts.splits import check_parts, other_key, read_seen, read_splits, split, write_splits
from hilum.cohorts.table import Case, Cohort
from hilum.deciding.model_folder import build
from hilum.deciding.tta import views_of
from hilum.errors import CohortError, ConfigError
from hilum.modelling.device import pick_device
from hilum.modelling.memory import kept_memory
from hilum.modelling.speed import choose
from hilum.modelling.weights.freezing import freeze
from hilum.modelling.weights.matching import matched_weights
from hilum.planning.advise import choose_loss
from hilum.planning.classes import class_table
from hilum.preparing import Store
from hilum.settings.run import LossConfig, RunConfig, SpeedConfig
from hilum.settings.toml import beside, load, moved, save
from hilum.training.loop import fit
from hilum.training.micro_batches import within_memory_of
from hilum.training.optimizer import fresh_but_frozen
from hilum.training.second_stage import check_head
from hilum.training.state import STATE

_log = logging.getLogger("hilum")


def train(config: RunConfig | str | Path, out: str | Path, *, base: str | Path = ".", resume: bool = False) -> Path:
    """Train a classifier.

    Args:
        config: Settings, or the TOML file that holds them.
        out: The run folder; must be new or empty unless a run is resumed.
        base: Folder to which the settings' paths are relative; that of the file, where there is one.
        resume: Go on after the last whole epoch of the run in ``out``, with that run's own settings and split.

    Returns:
        The model folder, ``out/model``.

    Raises:
        HilumError: If the table, the scans or the settings are not usable; nothing is written then.
    """
    out = Path(out)
    if not isinstance(config, RunConfig):
        base, config = Path(config).parent, load(Path(config))
    if resume:
        if not (out / "last" / STATE).is_file():
            msg = f"{out} cannot be resumed: it holds no last/{STATE}"
            raise ConfigError(msg)
        base, config = out, load(out / "config.toml")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        msg = f"the run folder {out} must be new or empty (or resume the run in it)"
        raise ConfigError(msg)
    if not config.cohort.table:
        msg = "cohort.table must name the table of cases"
        raise ConfigError(msg)
    pick_device(config.training.device)
    config.check_together()
    check_head(config.head)
    views_of(config)
    table, store = beside(base, config.cohort.table), beside(base, config.store)
    weights = beside(base, config.training.weights) if config.training.weights else None
    cohort = Cohort.read(table, config.cohort)
    if weights and not resume:
        _check_weights(config, weights, len(cohort.classes))
    for warning in cohort.warnings:
        _log.warning("%s", warning)
    parts = _parts_of(out, cohort) if resume else split(cohort, config.split)  # before any scan is read
    samples_of = Store(store, config.reading, max_gb=config.store_gb)
    prepared = prepare_cohort(cohort, config.recipe, samples_of, max_refused=config.cohort.max_refused)
    for refusal in prepared.refusals:
        _log.warning("refused, row %d: %s", refusal.row, refusal.reason)
    if prepared.notes:
        _log.info("findings: %s", prepared.notes)
    own, (prepared, cohort) = cohort, _with_patients_joined(prepared, cohort)
    if resume:
        _check_resumed(out, prepared, parts)
    else:
        check_table_split(own.cases, prepared.copies, own.source)
        parts = split(cohort, config.split) if cohort.cases != own.cases else parts
    check_parts(prepared.cases, parts, cohort)
    if resume:
        with kept_memory(config.speed.keep_memory == "on"):
            return fit(config, prepared, parts, cohort, out, resume=True)
    if config.loss.name == "auto":
        config = replace(config, loss=_advised(config, prepared.cases, parts, cohort))
        config.check_together()
    trained_on = labels_of([case for case in prepared.cases if parts[case.case_id] == "train"])
    config = replace(config, speed=_fastest(config, num_draws(trained_on, config.sampling.method), cohort))
    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        save(moved(config, base, out), out / "config.toml")
        write_splits(out / "splits.csv", own, parts, prepared.scans)
        write_refusals(out / "refused.csv", prepared.refusals)
        from_here = replace(config, training=replace(config.training, weights=str(weights or "")))
        with kept_memory(config.speed.keep_memory == "on"):
            return fit(from_here, prepared, parts, cohort, out)
    except OSError as exc:
        msg = f"the run folder {out} cannot be written: {exc.strerror or exc}"
        raise ConfigError(msg) from exc
    finally:
        if not (out / "last").exists():  # stopped before the first epoch was whole: nothing to resume, nothing to keep
            shutil.rmtree(out, ignore_errors=True)
            if not new:
                out.mkdir()


def _with_patients_joined(prepared: PreparedCohort, cohort: Cohort) -> tuple[PreparedCohort, Cohort]:
    """Both, with patients that share a scan as one; said in warnings."""
    for warning in prepared.copies.warnings:
        _log.warning("%s", warning)
    cases, left = (join_patients(some, prepared.copies) for some in (cohort.cases, prepared.cases))
    return replace(prepared, cases=left), replace(cohort, cases=cases)


def _check_resumed(out: Path, prepared: PreparedCohort, parts: dict[str, str]) -> None:
    """A run keeps its split. One of an older Hilum, which did not look for copies, must go on with the cases it had.

    Raises:
        CohortError: If not.
    """
    if prepared.copies.opposed and not read_seen(out / "splits.csv").scans_known:
        first = prepared.copies.opposed[0][0]
        msg = (
            f"{out} cannot be resumed: an older Hilum began it with cases that are refused now; {first.case_id!r}: "
            f"{prepared.copies.reasons[first.case_id]}. Train a new run"
        )
        raise CohortError(msg)
    apart = [group for group in prepared.copies.shared if len({parts[case.case_id] for case in group}) > 1]
    if apart:
        _log.warning(
            "warning: the split of this run was drawn before copies were looked for, and stays: the scan of %r is in "
            "several parts (such scans: %d)", apart[0][0].case_id, len(apart)
        )  # fmt: skip


def _advised(config: RunConfig, cases: tuple[Case, ...], parts: dict[str, str], cohort: Cohort) -> LossConfig:
    """The loss that auto stands for, by the patients who train and by no others."""
    training = tuple(case for case in cases if parts[case.case_id] == "train")
    choice = choose_loss(class_table(replace(cohort, cases=training)), config)
    _log.info("loss: %s", choice.reason)
    return choice.loss


def _fastest(config: RunConfig, num_cases: int, cohort: Cohort) -> SpeedConfig:
    """The way of computing that the run will use for so many draws in an epoch, and go on with when it is resumed."""
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
        chosen = choose(network, shape, config.speed, pick_device(settings.device), expected_steps=steps)
    _log.info("%s", chosen.line)
    return chosen.speed


def _check_weights(config: RunConfig, weights: Path, num_classes: int) -> None:
    """Raise before any scan is prepared if the weights do not fit, or parts would be frozen that they do not bring.

    Raises:
        CheckpointError: If they do not fit.
        ConfigError: If a frozen tensor is not among them.
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


def _parts_of(out: Path, cohort: Cohort) -> dict[str, str]:
    """The split of the run that is resumed; never drawn anew, or cases would change sides.

    Raises:
        CohortError: If the table's cases are no longer those of the run.
    """
    parts = read_splits(out / "splits.csv", named_by_path=cohort.named_by_path)
    changed = {case.case_id for case in cohort.cases} ^ set(parts)
    if changed and cohort.named_by_path and not set(parts) & {case.case_id for case in cohort.cases}:
        raise CohortError(other_key(out))
    if changed:
        msg = (
            f"{cohort.source} must hold the cases that {out} was begun with; {len(changed)} were added or removed, "
            f"such as {min(changed)!r}. Train a new run"
        )
        raise CohortError(msg)
    return parts
