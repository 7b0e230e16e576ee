"""The training loop, in the order of events."""

import logging
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from hilum.cohorts.batches import DrawnBatches, EpochBatches
from hilum.cohorts.dataset import CohortDataset, Sample, to_float
from hilum.cohorts.prepared import PreparedCohort
from hilum.cohorts.sampling import Decks, drawn_by
from hilum.cohorts.table import Cohort
from hilum.deciding.calibration import Trained
from hilum.deciding.inference import case_logits
from hilum.deciding.model_folder import build, save_model
from hilum.deciding.tta import Views, views_of
from hilum.errors import TrainingError
from hilum.modelling.augmenting.augment import Augment
from hilum.modelling.device import pick_device
from hilum.modelling.input import model_input
from hilum.modelling.losses.base import Loss
from hilum.modelling.losses.make import make_loss
from hilum.modelling.resnet import ResNet3D
from hilum.modelling.speed import EXACT, apply_speed, for_prediction
from hilum.modelling.weights.freezing import freeze, train_what_learns
from hilum.modelling.weights.matching import load_weights
from hilum.randomness import torch_seed
from hilum.settings.run import RunConfig, TrainingConfig
from hilum.training.card import model_card
from hilum.training.epoch_metrics import Outcome, Seen
from hilum.training.micro_batches import micro_batches, within_memory_of
from hilum.training.optimizer import make_optimizer
from hilum.training.schedule import Schedule
from hilum.training.second_stage import retrain_head
from hilum.training.state import load_checkpoint, save_checkpoint
from hilum.training.tracking import Tracker

_log = logging.getLogger("hilum")


def fit(
    config: RunConfig,
    prepared: PreparedCohort,
    parts: dict[str, str],
    cohort: Cohort,
    out: Path,
    *,
    resume: bool = False,
) -> Path:
    """Train a model and write the run folder; returns the model folder.

    Args:
        config: All settings; the path of weights as it is from here.
        prepared: The cases.
        parts: Part of each case, by its id.
        cohort: Its classes.
        out: The run folder; ``last/`` is written after each epoch.
        resume: Go on from ``last/``.

    Raises:
        TrainingError: If the loss or the gradient is not finite; nothing is changed by that step. Or if the validation
            loss of the epoch that is kept is not finite; no model is written then.
        CohortError: If a class has no training case.
        ResourceError: If memory does not suffice.
    """
    settings = config.training
    fabric = _fabric(pick_device(settings.device), config.speed.precision)
    dataset = partial(CohortDataset, prepared, parts, num_classes=len(cohort.classes), recipe=config.recipe)
    train = _Part(dataset(part="train", seed=settings.seed), config, seed=settings.seed)
    val = _Part(dataset(part="val"), config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(settings.seed, "weights"))
        network = build(config.model, config.recipe, len(cohort.classes))
    network.checkpointing = settings.checkpointing
    views = views_of(config)
    augment = Augment(config.augment, config.recipe, seed=settings.seed)
    loss = make_loss(config, train.dataset.labels, cohort.classes).to(fabric.device)
    began = {} if resume else _loaded(network, settings)
    freeze(network, settings.freeze)
    apply_speed(network, config.speed)
    network.to(fabric.device)  # before the optimizer, or a resumed one would keep its state where the weights were
    schedule = Schedule(settings, make_optimizer(settings, network, fabric.device), train.batches.num_batches)
    best = network.state_dict()
    progress: dict[str, Any] = {"epoch": 0, "best_loss": math.inf, "best_epoch": 0, "rows": [], "began": began}
    if resume:
        progress, best = load_checkpoint(out / "last", network, schedule)
    compiled: Any = torch.compile(network, dynamic=False) if config.speed.compile == "on" else network
    model, _ = fabric.setup(compiled, schedule.optimizer)
    tracker = Tracker(out, progress["rows"])
    alike = _as_drawn(train, val, settings.epochs)

    for epoch in range(progress["epoch"] + 1, settings.epochs + 1):
        stalled = progress["epoch"] - progress["best_epoch"]
        if settings.stop_patience and stalled >= settings.stop_patience:
            _log.info("stopped: no better validation loss for %d epochs", stalled)
            break
        lr = schedule.lr
        with torch.random.fork_rng():
            torch.manual_seed(torch_seed(settings.seed, epoch, "dropout"))
            with within_memory_of("training", config, len(train.dataset)):
                trained = _train_epoch(config, fabric, model, augment, loss, schedule, train, epoch)
        validated, _ = _validate(config, fabric, model, loss, val, weights=alike)
        schedule.after_epoch(validated["loss"])
        tracker.write(epoch, lr, trained, validated)
        if validated["loss"] < progress["best_loss"]:
            progress |= {"best_loss": validated["loss"], "best_epoch": epoch}
            best = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        progress |= {"epoch": epoch, "rows": tracker.rows}
        save_checkpoint(out / "last", network, schedule, progress, best)
        _log.info("epoch %d of %d: %s", epoch, settings.epochs, tracker.line())

    kept = progress["best_epoch"] if settings.keep == "best" else progress["epoch"]
    _stop_without_model(settings, kept, [float(row["val_loss"]) for row in tracker.rows])
    if settings.keep == "best":
        network.load_state_dict(best)
    tracker.close(kept)
    if config.head.retrain != "none":
        retrain_head(network, train.dataset, config, fabric.device)
    predicting = for_prediction(network, EXACT)  # as predictions will be computed, to the last digit
    _, logits = _validate(config, fabric, predicting, loss, val, views)
    seen, about = (val.dataset.labels, logits), {"epoch": kept, **progress.get("began", {})}
    trained_on = Trained(labels=train.dataset.labels, counted=train.times(kept) * train.dataset.weights)
    save_model(out / "model", network, model_card(config, prepared, parts, cohort, trained_on, seen, views, about))
    return out / "model"


class _Part:
    """The cases of one part and how they come: shuffled and drawn where there is a seed, else in order and whole."""

    def __init__(self, dataset: CohortDataset, config: RunConfig, *, seed: int | None = None) -> None:
        self.dataset = dataset
        settings = config.training
        size = settings.batch_size if seed is not None else config.at_once(settings.batch_size)
        self.decks: Decks | None = None
        if seed is not None and config.sampling.method != "none":
            classes = drawn_by(dataset.labels)
            self.decks = Decks(classes, config.sampling.method, seed=seed, epochs=settings.epochs)
        self.batches = EpochBatches(len(dataset), size, seed=seed, decks=self.decks)
        self.loader: Any = DataLoader(
            dataset,
            batch_sampler=self.batches if seed is None else DrawnBatches(self.batches),
            collate_fn=list if seed is None else None,  # whole samples may differ in shape: they come as a list
            num_workers=settings.workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=settings.workers > 0,
        )

    def times(self, epoch: int) -> Int[np.ndarray, " n"]:
        """How often each case is drawn in an epoch."""
        return np.ones(len(self.dataset), int) if self.decks is None else self.decks.times(epoch)

    def load(self, epoch: int, what: str) -> Iterator[Any]:
        """Batches, with a progress bar on a terminal."""
        self.batches.epoch = epoch
        yield from tqdm(self.loader, what, leave=False, disable=None, unit="batch")


def _train_epoch(
    config: RunConfig,
    fabric: Fabric,
    model: Any,
    augment: Augment,
    loss: Loss,
    schedule: Schedule,
    part: _Part,
    epoch: int,
) -> Outcome:
    train_what_learns(model)
    settings, dataset = config.training, part.dataset
    seen = Seen(dataset.labels)
    part.batches.epoch = epoch
    usual = _usual_weight(loss, part)
    for number, batch in enumerate(part.load(epoch, f"epoch {epoch}")):
        index = batch["index"].tolist()
        case_ids = batch["name"]
        hu = augment(to_float(batch["hu"], fabric.device), batch["spacing_mm"].numpy(), case_ids, epoch=epoch)
        hu, target = augment.mixed(hu, dataset.targets_of(index).to(fabric.device), case_ids, epoch=epoch)
        x = model_input(hu, config.recipe.windows)
        schedule.before_step((epoch - 1) * part.batches.num_batches + number)
        schedule.optimizer.zero_grad()
        counts = dataset.weights_of(index).to(fabric.device)
        weights = loss.weights(target, target, counts)
        expected = len(index) * usual  # not what this batch weighs: then a rare class would weigh less where it is rare
        total = 0.0
        for some, wanted, count, weight in zip(
            *(micro_batches(t, config) for t in (x, target, counts, weights)), strict=True
        ):
            logits = model(some)
            value = loss(logits, wanted, count) * weight.sum() / expected
            if not torch.isfinite(value):
                _stop("loss", value.item(), epoch, number)
            fabric.backward(value)
            seen.add(index[: len(some)], logits)
            del index[: len(some)]
            total += value.item() * expected
        seen.add_loss(total, float(weights.sum()))
        norm = fabric.clip_gradients(model, schedule.optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False)
        if norm is not None and not torch.isfinite(norm):
            _stop("gradient", float(norm), epoch, number)
        schedule.optimizer.step()
    return seen.outcome()


def _usual_weight(loss: Loss, part: _Part) -> float:
    """Mean weight in the loss of the cases that an epoch draws."""
    places, times = list(range(len(part.dataset))), torch.from_numpy(part.times(part.batches.epoch))
    targets = part.dataset.targets_of(places)
    weights = loss.weights(targets, targets, part.dataset.weights_of(places))
    return float((weights * times).sum() / times.sum())


def _as_drawn(train: _Part, val: _Part, epoch: int) -> Float[Tensor, " n"] | None:
    """Weights under which validation cases have the shares of the classes that an epoch trains on; None: their own.

    Else its loss would favour epochs that have learned the rare class least. Those of one epoch serve for all, or
    losses could not be compared. Not of findings, which are drawn together.
    """
    labels = train.dataset.labels
    if train.decks is None or labels.ndim == 2:
        return None
    counts, drawn = np.bincount(labels), np.bincount(labels, weights=train.times(epoch))
    return torch.from_numpy((drawn / counts)[val.dataset.labels]).float()


@torch.no_grad()
def _validate(
    config: RunConfig,
    fabric: Fabric,
    model: Any,
    loss: Loss,
    part: _Part,
    views: Views | None = None,
    weights: Tensor | None = None,
) -> tuple[Outcome, Float[np.ndarray, "n c"]]:
    """Loss and figures on cases that are never augmented, and their logits."""
    model.eval()
    seen = Seen(part.dataset.labels)
    samples: list[Sample]
    for samples in part.load(0, "validation"):
        index = [sample["index"] for sample in samples]
        with within_memory_of("validating", config, len(part.dataset)):
            logits = case_logits(model, samples, config.recipe, fabric.device, views, multi_label=loss.multi_label)
        seen.add(index, logits)
    logits, labels = torch.from_numpy(seen.all_logits()).float(), torch.from_numpy(part.dataset.labels)
    value = loss(logits.to(fabric.device), labels, weights)  # of the whole part: Dice is no mean over batches
    seen.add_loss(float(value), weight=1.0)
    return seen.outcome(), seen.all_logits()


def _stop(what: str, value: float, epoch: int, batch: int) -> None:
    msg = (
        f"the {what} must be finite, is {value} in epoch {epoch}, batch {batch + 1}; the step was not taken. "
        "Lower training.lr, or look at the scans of this batch"
    )
    raise TrainingError(msg)


def _stop_without_model(settings: TrainingConfig, kept: int, losses: list[float]) -> None:
    """Raise if no epoch has a finite validation loss, or the one that is kept has none."""
    if kept and math.isfinite(losses[kept - 1]):
        return
    where = f"in epoch {kept}, which training.keep = {settings.keep!r} keeps" if kept else "in every epoch"
    weights = " and at the running statistics of training.weights" if settings.weights else ""
    msg = (
        f"the validation loss must be finite, is {losses[kept - 1]} {where}; no model is written. Lower training.lr, "
        f"or look at the validation scans{weights}"
    )
    raise TrainingError(msg)


def _fabric(device: torch.device, precision: str) -> Fabric:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it says again what our own lines say
    devices = [device.index] if device.index is not None else 1
    return Fabric(accelerator=device.type, devices=devices, precision="bf16-mixed" if precision == "bf16" else None)


def _loaded(network: ResNet3D, settings: TrainingConfig) -> dict[str, Any]:
    """Weights of another training, where asked for; what the model's card says about them."""
    if not settings.weights:
        return {}
    report = load_weights(network, settings.weights)
    _log.info("%s", report)
    return {"weights": report.counts}
