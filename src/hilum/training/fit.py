"""The training loop, in the order of events."""

import logging
import math
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from hilum.cohorts.dataset import CohortDataset, SplitCohort
from hilum.deciding.model_folder import build
from hilum.errors import TrainingError
from hilum.modelling.augmenting.augment import Augment
from hilum.modelling.device import pick_device
from hilum.modelling.input import model_input
from hilum.modelling.losses.make import make_loss
from hilum.modelling.measures import NoduleMeasures
from hilum.modelling.resnet import ResNet3D
from hilum.modelling.speed import apply_speed
from hilum.modelling.weights.freezing import freeze
from hilum.modelling.weights.matching import load_weights
from hilum.randomness import torch_seed
from hilum.settings.run import RunConfig, TrainingConfig
from hilum.training.auxiliary import AuxiliaryHead, WithAuxiliary
from hilum.training.epoch import Learner, run_epoch, sampled_shares, validate
from hilum.training.finish import finish
from hilum.training.kept_weights import KeptWeights, plain_batches
from hilum.training.optimizer import make_optimizer
from hilum.training.part_loader import PartLoader
from hilum.training.run_folder import Run
from hilum.training.saver import Saver
from hilum.training.schedule import Schedule
from hilum.training.state import TrainingState
from hilum.training.tracking import Tracker

_log = logging.getLogger("hilum")


def fit(config: RunConfig, data: SplitCohort, run: Run, *, resume: bool = False) -> Path:
    """Train a model and write the run folder; returns the model folder.

    Args:
        config: All settings, with absolute paths.
        data: The cases and their parts.
        run: The run, whose checkpoint is written after each epoch.
        resume: Continue from the checkpoint.

    Raises:
        TrainingError: If the loss or the gradient is not finite; that step is not taken. Also if the validation loss of
            the kept epoch is not finite; no model is written then.
        CohortError: If a class has no training case.
        ResourceError: If memory does not suffice.
    """
    settings = config.training
    train = PartLoader(data.dataset("train", config.recipe, seed=settings.seed), config, seed=settings.seed)
    val = PartLoader(data.dataset("val", config.recipe), config)
    network, began = network_of_run(config, len(data.cohort.classes), load=not resume)
    fabric = fabric_of(pick_device(settings.device), config.speed.precision)
    network.to(fabric.device)  # before the optimizer, whose restored state goes to the device of the weights
    head = _auxiliary_head(data, network, train.dataset, settings.seed)
    if head is not None:
        head.to(fabric.device)
    if network.measures is not None and not resume:
        _fit_measures(network.measures, train.dataset, config, fabric.device)
    num_batches = train.batches.num_batches
    schedule = Schedule(settings, make_optimizer(settings, network, fabric.device, head), num_batches)
    kept = KeptWeights(network, config, train.dataset, num_batches)
    state = TrainingState(kept, schedule, head, train.dataset)
    state.progress.began = began
    if resume:
        state.restore(run.checkpoint)
    tracker = Tracker(run.folder, state.progress.rows, settings.epochs)
    whole = network if head is None else WithAuxiliary(network, head)
    model, _ = fabric.setup(_compiled(whole, config), schedule.optimizer)
    learner = Learner(
        config=config,
        fabric=fabric,
        model=model,
        kept_model=fabric.setup_module(_compiled(kept.network, config)),
        auxiliary=head,
        augment=Augment(config.augment, config.recipe, seed=settings.seed),
        loss=make_loss(config, train.dataset.labels[train.dataset.is_labelled], data.cohort.classes).to(fabric.device),
        tracker=tracker,
    )
    shares = sampled_shares(train, val, settings.epochs)

    saver = Saver(state, run, settings.checkpoint_minutes)
    with saver.on_signals():
        while state.progress.epoch < settings.epochs:
            if settings.stop_patience and state.stalled >= settings.stop_patience:
                _log.info("stopped: no better %s in validation for %d epochs", settings.keep_by, state.stalled)
                break
            trained = run_epoch(learner, train, state, saver)
            lr = schedule.lr
            kept.after_epoch()
            validated, _ = validate(learner, val, weights=shares, saver=saver)
            tracker.write(state.progress.epoch + 1, lr, trained, validated)
            state.after_epoch(validated, settings.keep_by)
            saver.after_epoch()
            _log.info("epoch %d of %d: %s", state.progress.epoch, settings.epochs, tracker.line())

    _check_kept(state, settings)
    return finish(learner, state, data, train, val, run)


def _check_kept(state: TrainingState, settings: TrainingConfig) -> None:
    """Check the epoch whose weights become the model.

    Raises:
        TrainingError: If it has no finite validation loss, or no epoch has one.
    """
    losses = [float(row["val_loss"]) for row in state.progress.rows]
    kept = state.kept_epoch(settings.keep)
    if kept and math.isfinite(losses[kept - 1]):
        return
    where = f"in epoch {kept}, which training.keep = {settings.keep!r} keeps" if kept else "in every epoch"
    weights = " and at the running statistics of training.weights" if settings.weights else ""
    msg = (
        f"the validation loss must be finite, is {losses[kept - 1]} {where}; no model is written. Lower training.lr, "
        f"or look at the validation scans{weights}"
    )
    raise TrainingError(msg)


def _fit_measures(measures: NoduleMeasures, train: CohortDataset, config: RunConfig, device: torch.device) -> None:
    """Standardise measures by training cases."""
    batches = plain_batches(train, config, device)
    measures.fit(torch.cat([measures.measured(model_input(hu, config.recipe.windows)) for hu in batches]))


def _compiled(model: nn.Module, config: RunConfig) -> Any:
    return torch.compile(model, dynamic=False) if config.speed.compile == "on" else model


def _auxiliary_head(data: SplitCohort, network: ResNet3D, train: CohortDataset, seed: int) -> AuxiliaryHead | None:
    """The head of the auxiliary targets before its first step; None: there are none."""
    targets = data.cohort.auxiliary
    if not targets:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "auxiliary"))
        return AuxiliaryHead(targets, network.num_features, train.auxiliary)


def fabric_of(device: torch.device, precision: str) -> Fabric:
    """Lightning Fabric for one device and ``speed.precision``."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it repeats Hilum's own log
    devices = [device.index] if device.index is not None else 1
    return Fabric(accelerator=device.type, devices=devices, precision="bf16-mixed" if precision == "bf16" else None)


def network_of_run(config: RunConfig, num_classes: int, *, load: bool) -> tuple[ResNet3D, dict[str, Any]]:
    """The network of a run before its first step, and the card's entry about initial weights from a file."""
    settings = config.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(settings.seed, "weights"))
        network = build(config.model, config.recipe, num_classes)
    network.checkpointing = settings.checkpointing
    began: dict[str, Any] = {}
    if load and settings.weights:
        report = load_weights(network, settings.weights)
        _log.info("%s", report)
        began = {"weights": report.counts}
    freeze(network, settings.freeze)
    apply_speed(network, config.speed)
    return network, began
