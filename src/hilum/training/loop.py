"""The training loop, in the order of events."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from hilum.cohorts.dataset import CohortDataset, EpochBatches, to_float
from hilum.cohorts.prepared import PreparedCohort
from hilum.config import RunConfig, to_dict
from hilum.errors import ConfigError, TrainingError
from hilum.measuring.calibration import fit_temperature, probabilities
from hilum.measuring.metrics import confusion_matrix, macro_auc, macro_f1, multiclass_accuracy, roc_auc
from hilum.measuring.thresholds import choose_threshold
from hilum.modelling.augment import apply, draw
from hilum.modelling.class_weights import class_weights
from hilum.modelling.input import model_input
from hilum.modelling.losses import FocalLoss, WeightedCrossEntropyLoss
from hilum.modelling.resnet import ResNet3D
from hilum.predicting.model import ModelCard, build, save_model
from hilum.randomness import torch_seed
from hilum.training.checkpoint import load_checkpoint, save_checkpoint
from hilum.training.schedule import Schedule
from hilum.training.tracking import Tracker

_log = logging.getLogger("hilum")

Outcome = dict[str, float]
Loss = WeightedCrossEntropyLoss | FocalLoss


def fit(
    config: RunConfig,
    prepared: PreparedCohort,
    parts: dict[str, str],
    classes: tuple[str, ...],
    out: Path,
    *,
    resume: bool = False,
) -> Path:
    """Train a model and write the run folder; returns the model folder.

    Args:
        config: All settings.
        prepared: The cases.
        parts: Part of each case, by its id.
        classes: Class names.
        out: The run folder; ``last/`` is written after each epoch.
        resume: Go on from ``last/``.

    Raises:
        TrainingError: If the loss or the gradient is not finite; nothing is changed by that step.
        CohortError: If a class has no training case.
    """
    settings = config.training
    fabric = _fabric(settings.device, settings.precision)
    train = CohortDataset(prepared, parts, "train", len(classes))
    val = CohortDataset(prepared, parts, "val", len(classes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(settings.seed, "weights"))
        network = build(config.model, config.recipe, len(classes))
    loss = _loss(config, train, len(classes)).to(fabric.device)
    schedule = Schedule(settings, _optimizer(config, network), len(EpochBatches(len(train), settings.batch_size)))
    best = network.state_dict()
    progress: dict[str, Any] = {"epoch": 0, "best_loss": math.inf, "best_epoch": 0, "rows": []}
    if resume:
        progress, best = load_checkpoint(out / "last", network, schedule)
    model, _ = fabric.setup(network, schedule.optimizer)
    tracker = Tracker(out, progress["rows"])

    for epoch in range(progress["epoch"] + 1, settings.epochs + 1):
        torch.manual_seed(torch_seed(settings.seed, epoch, "dropout"))
        lr = schedule.lr
        trained = _train_epoch(config, fabric, model, loss, schedule, train, epoch)
        validated, _ = _validate(config, fabric, model, loss, val)
        schedule.after_epoch(validated["loss"])
        tracker.write(epoch, lr, trained, validated)
        if validated["loss"] < progress["best_loss"]:
            progress |= {"best_loss": validated["loss"], "best_epoch": epoch}
            best = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        progress |= {"epoch": epoch, "rows": tracker.rows}
        save_checkpoint(out / "last", network, schedule, progress, best)
        stalled = epoch - progress["best_epoch"]
        _log.info("epoch %d of %d: %s", epoch, settings.epochs, tracker.line())
        if settings.stop_patience and stalled >= settings.stop_patience:
            _log.info("stopped: no better validation loss for %d epochs", stalled)
            break

    if settings.keep == "best":
        network.load_state_dict(best)
    kept = progress["best_epoch"] if settings.keep == "best" else progress["epoch"]
    tracker.close(kept)
    _, logits = _validate(config, fabric, model, loss, val)
    save_model(out / "model", network, _card(config, prepared, parts, classes, val, logits, kept))
    return out / "model"


def _train_epoch(
    config: RunConfig,
    fabric: Fabric,
    model: Any,
    loss: Loss,
    schedule: Schedule,
    dataset: CohortDataset,
    epoch: int,
) -> Outcome:
    model.train()
    settings = config.training
    batches = EpochBatches(len(dataset), settings.batch_size, seed=settings.seed)
    batches.epoch = epoch
    num_batches = len(batches)
    seen = _Seen(dataset.labels)
    for number, (hu, index) in enumerate(_load(dataset, batches, settings.workers, f"epoch {epoch}")):
        params = draw(config.augment, [dataset.case_ids[i] for i in index], seed=settings.seed, epoch=epoch)
        x = model_input(apply(to_float(hu, fabric.device), params, config.recipe), config.recipe.windows_hu)
        target = torch.from_numpy(dataset.targets[index]).float().to(fabric.device)
        schedule.before_step((epoch - 1) * num_batches + number)
        logits = model(x)
        losses, weights = loss.terms(logits, target)
        value = (losses * weights).sum() / weights.sum()
        if not torch.isfinite(value):
            _stop("loss", value.item(), epoch, number)
        schedule.optimizer.zero_grad()
        fabric.backward(value)
        norm = fabric.clip_gradients(model, schedule.optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False)
        if norm is not None and not torch.isfinite(norm):
            _stop("gradient", float(norm), epoch, number)
        schedule.optimizer.step()
        seen.add(index, logits, losses, weights)
    return seen.outcome()


@torch.no_grad()
def _validate(
    config: RunConfig, fabric: Fabric, model: Any, loss: Loss, dataset: CohortDataset
) -> tuple[Outcome, Float[np.ndarray, "n c"]]:
    """Loss and figures on cases that are never augmented, and their logits."""
    model.eval()
    seen = _Seen(dataset.labels)
    batches = EpochBatches(len(dataset), config.training.batch_size)
    for hu, index in _load(dataset, batches, config.training.workers, "validation"):
        logits = model(model_input(to_float(hu, fabric.device), config.recipe.windows_hu))
        target = torch.from_numpy(dataset.labels[index])
        seen.add(index, logits, *loss.terms(logits, target))
    return seen.outcome(), seen.all_logits()


class _Seen:
    """What an epoch has shown so far; means over cases, not over batches."""

    def __init__(self, labels: Int[np.ndarray, " n"]) -> None:
        self.labels = labels
        self.order: list[int] = []
        self.logits: list[Tensor] = []
        self.loss_sum = self.weight_sum = 0.0

    def add(self, index: list[int], logits: Tensor, losses: Tensor, weights: Tensor) -> None:
        self.order += index
        self.logits.append(logits.detach().float().cpu())
        self.loss_sum += float((losses.detach() * weights).sum())
        self.weight_sum += float(weights.sum())

    def all_logits(self) -> Float[np.ndarray, "n c"]:
        """In the order of the cases."""
        logits: np.ndarray = torch.cat(self.logits).double().numpy()[np.argsort(self.order)]
        return logits

    def outcome(self) -> Outcome:
        probs, labels = probabilities(self.all_logits()), self.labels[np.sort(self.order)]
        matrix = confusion_matrix(labels, probs.argmax(axis=1), num_classes=probs.shape[1])
        binary = probs.shape[1] == 2
        predicted = int(matrix[:, 1].sum()) + int(matrix[1].sum())
        return {
            "loss": self.loss_sum / self.weight_sum,
            "accuracy": multiclass_accuracy(labels, probs),
            "f1": (2 * float(matrix[1, 1]) / predicted if predicted else 0.0) if binary else float(macro_f1(matrix)),
            "auc": roc_auc(labels, probs[:, 1]) if binary else float(macro_auc(labels, probs)),
        }


def _load(dataset: CohortDataset, batches: EpochBatches, workers: int, what: str) -> Iterator[tuple[Tensor, list[int]]]:
    """Batches of HU and the places of their cases, with a progress bar on a terminal."""
    loader: Any = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="spawn" if workers else None,
    )
    for batch in tqdm(loader, what, leave=False, disable=None, unit="batch"):
        yield batch["hu"], batch["index"].tolist()


def _stop(what: str, value: float, epoch: int, batch: int) -> None:
    msg = (
        f"the {what} must be finite, is {value} in epoch {epoch}, batch {batch + 1}; the step was not taken. "
        "Lower training.lr, or look at the scans of this batch"
    )
    raise TrainingError(msg)


def _fabric(device: str, precision: Any) -> Fabric:
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (number and not number.isdigit()):
        msg = f"training.device must be auto, cpu, cuda, cuda:N or mps, got {device}"
        raise ConfigError(msg)
    if (kind == "cuda" and not torch.cuda.is_available()) or (kind == "mps" and not torch.backends.mps.is_available()):
        msg = f"training.device is {device}, but this machine has none"
        raise ConfigError(msg)
    return Fabric(accelerator=kind, devices=[int(number)] if number else 1, precision=precision)


def _optimizer(config: RunConfig, network: ResNet3D) -> torch.optim.Optimizer:
    settings = config.training
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)


def _loss(config: RunConfig, train: CohortDataset, num_classes: int) -> Loss:
    """The loss, with class weights from the training labels alone."""
    weights = class_weights(train.labels, method=config.loss.class_weights, num_classes=num_classes)
    weight = torch.from_numpy(weights).float()
    if config.loss.name == "focal":
        return FocalLoss(config.loss.gamma, alpha=weight)
    return WeightedCrossEntropyLoss(weight)


def _card(
    config: RunConfig,
    prepared: PreparedCohort,
    parts: dict[str, str],
    classes: tuple[str, ...],
    val: CohortDataset,
    logits: Float[np.ndarray, "n c"],
    epoch: int,
) -> ModelCard:
    """What the model folder says about itself: temperature and threshold from validation, and how it was trained."""
    temperature = fit_temperature(logits, val.labels)
    probs = probabilities(logits, temperature=temperature)
    counts = {
        part: {
            "cases": sum(parts[case.case_id] == part for case in prepared.cases),
            "patients": len({case.patient_id for case in prepared.cases if parts[case.case_id] == part}),
            **{
                f"class {name}": sum(parts[case.case_id] == part and case.label == k for case in prepared.cases)
                for k, name in enumerate(classes)
            },
        }
        for part in ("train", "val", "test")
    }
    settings = {k: v for k, v in to_dict(config).items() if k not in ("cohort", "store", "recipe", "model")}
    validation: dict[str, float] = {"accuracy": multiclass_accuracy(val.labels, probs)}
    threshold = None
    if len(classes) == 2:
        chosen = choose_threshold(val.labels, probs[:, 1], rule=config.decision)
        threshold = chosen
        validation |= {
            "auc": roc_auc(val.labels, probs[:, 1]),
            "sensitivity": chosen.sensitivity,
            "specificity": chosen.specificity,
        }
    return ModelCard(
        model=config.model,
        recipe=config.recipe,
        classes=classes,
        temperature=temperature,
        threshold=threshold.value if threshold else None,
        threshold_rule=threshold.rule if threshold else "the most probable class",
        training={"epoch": epoch, "counts": counts, "validation": validation, "settings": settings},
    )
