"""Settings of a run: checked before anything is read, and what they leave open decided before the first step."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import torch

from hilum.cohorts.dataset import SplitCohort
from hilum.cohorts.labels import labels_of
from hilum.cohorts.sampling import num_draws
from hilum.cohorts.table import Cohort
from hilum.deciding.model_folder import build
from hilum.deciding.tta import views_of
from hilum.errors import ConfigError
from hilum.modelling.device import pick_device
from hilum.modelling.speed import choose_speed
from hilum.modelling.weights.freezing import freeze
from hilum.modelling.weights.matching import matched_weights
from hilum.planning.advise import choose_loss
from hilum.planning.classes import class_table
from hilum.settings.run import LossConfig, RunConfig, SpeedConfig
from hilum.training.micro_batches import within_memory_of
from hilum.training.optimizer import fresh_but_frozen

_log = logging.getLogger("hilum")


def check_settings(config: RunConfig) -> None:
    """Raise a ConfigError, before anything is read, if the settings are not usable."""
    if not config.cohort.table:
        msg = "cohort.table must name the table of cases"
        raise ConfigError(msg)
    pick_device(config.training.device)
    config.check_together()
    views_of(config)


def check_abstaining(config: RunConfig, cohort: Cohort, *, is_of_folds: bool) -> None:
    """Raise a ConfigError, before any scan is prepared, if the model could never abstain as it is asked to."""
    if config.decision.abstain == "sets" and not is_of_folds:
        msg = "decision.abstain = sets needs cases that did not choose the epoch, and a single run has none"
        raise ConfigError(msg, hint="train with --folds, or fit sets later: hilum recalibrate")
    if config.decision.abstain == "band" and len(cohort.classes) > 2 and not cohort.multi_label:
        msg = f"decision.abstain must be none or sets for {len(cohort.classes)} classes, a band lies around a threshold"
        raise ConfigError(msg)


def check_weights(config: RunConfig, weights: Path, num_classes: int) -> None:
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


def decided(config: RunConfig, data: SplitCohort) -> RunConfig:
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
    if chosen.speed != config.speed:
        _log.info("%s", chosen.line)
    return chosen.speed
