"""One epoch of training or validation, batch by batch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor

from hilum.cohorts.dataset import CohortDataset, Sample, to_float
from hilum.deciding.inference import case_logits
from hilum.deciding.tta import Views
from hilum.errors import TrainingError
from hilum.modelling.augmenting.augment import Augment
from hilum.modelling.input import model_input
from hilum.modelling.losses.base import Loss
from hilum.modelling.weights.freezing import train_what_learns
from hilum.randomness import torch_seed
from hilum.settings.run import RunConfig
from hilum.training.auxiliary import AuxiliaryHead
from hilum.training.epoch_metrics import EpochFigures, EpochMetrics
from hilum.training.micro_batches import micro_batches, within_memory_of
from hilum.training.part_loader import PartLoader
from hilum.training.saver import Saver
from hilum.training.state import TrainingState
from hilum.training.tracking import Tracker


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """The settings and objects that all epochs of a run share.

    Attributes:
        config: All settings.
        fabric: Device and precision.
        model: The network, with the auxiliary head if there is one, compiled and in mixed precision if set so.
        kept_model: The network with the weights that are kept, likewise.
        auxiliary: The auxiliary head; None: no auxiliary targets.
        augment: Augmentation of training cases.
        loss: The loss, with weights and counts from the training labels.
        tracker: Writes figures and pictures of the run.
    """

    config: RunConfig
    fabric: Fabric
    model: Any
    kept_model: Any
    auxiliary: AuxiliaryHead | None
    augment: Augment
    loss: Loss
    tracker: Tracker


def run_epoch(learner: Learner, part: PartLoader, state: TrainingState, saver: Saver) -> EpochFigures:
    """Train to the end of the epoch after the last complete one; returns its figures.

    Args:
        learner: Settings and objects of the run.
        part: The training cases.
        state: The state of the run; steps that it has taken in this epoch are not repeated.
        saver: Saves the state between steps.

    Raises:
        TrainingError: If the loss or the gradient is not finite; that step is not taken.
        ResourceError: If memory does not suffice.
    """
    epoch, schedule, seed = state.progress.epoch + 1, state.schedule, learner.config.training.seed
    with torch.random.fork_rng(), within_memory_of("training", learner.config, len(part.dataset)):
        train_what_learns(learner.model)
        learner.loss.train()
        usual = part.usual_weight(learner.loss, epoch)
        first = state.progress.step
        batches = saver.between_steps(part.load(epoch, f"epoch {epoch}", first=first))
        for number, batch in enumerate(batches, first):
            torch.manual_seed(torch_seed(seed, epoch, number, "dropout"))
            schedule.before_step((epoch - 1) * part.batches.num_batches + number)
            schedule.optimizer.zero_grad()
            where = f"in epoch {epoch}, batch {number + 1}"
            _backward(learner, part.dataset, batch, state.running, usual, epoch, where)
            norm = learner.fabric.clip_gradients(
                learner.model,
                schedule.optimizer,
                max_norm=learner.config.training.clip_norm,
                error_if_nonfinite=False,
            )
            _check_finite("gradient", norm, where)
            schedule.optimizer.step()
            state.after_step()
            saver.after_step()
        return state.running.figures()


def _backward(
    learner: Learner,
    dataset: CohortDataset,
    batch: Any,
    metrics: EpochMetrics,
    usual: float,
    epoch: int,
    where: str,
) -> None:
    """Compute the gradient of a whole batch in micro batches."""
    fabric, loss = learner.fabric, learner.loss
    index, names = batch["index"].tolist(), batch["name"]
    hu = learner.augment(to_float(batch["hu"], fabric.device), batch["spacing_mm"].numpy(), names, epoch=epoch)
    hu, target = learner.augment.mixed(hu, dataset.targets_of(index).to(fabric.device), names, epoch=epoch)
    further = torch.from_numpy(dataset.auxiliary[index]).float().to(fabric.device)
    x = model_input(hu, learner.config.recipe.windows)
    learner.tracker.show_batch(x)
    counts = dataset.weights_of(index).to(fabric.device)
    weights = loss.weights(target, target, counts)
    expected = len(index) * usual  # not this batch's weights, by which rare classes would count less in small batches
    total = 0.0
    for some, wanted, count, weight, beside in zip(
        *(micro_batches(t, learner.config) for t in (x, target, counts, weights, further)), strict=True
    ):
        output = learner.model(some)
        logits = output if learner.auxiliary is None else output[0]
        value = whole = loss(logits, wanted, count) * weight.sum() / expected
        if learner.auxiliary is not None:
            whole = value + learner.config.loss.auxiliary * learner.auxiliary.loss(output[1], beside, of=further)
        _check_finite("loss", whole, where)
        fabric.backward(whole)
        metrics.add(index[: len(some)], logits)
        del index[: len(some)]
        total += value.item() * expected
    metrics.add_loss(total, float(weights.sum()))


def _check_finite(what: str, value: Tensor | None, where: str) -> None:
    if value is not None and not torch.isfinite(value):
        msg = (
            f"the {what} must be finite, is {value.item()} {where}; the step was not taken. "
            "Lower training.lr, or look at the scans of this batch"
        )
        raise TrainingError(msg)


@torch.no_grad()
def validate(
    learner: Learner,
    part: PartLoader,
    *,
    views: Views | None = None,
    weights: Tensor | None = None,
    model: Any = None,
    saver: Saver | None = None,
) -> tuple[EpochFigures, Float[np.ndarray, "n c"]]:
    """Compute loss and figures on cases without training augmentation; also returns their logits.

    Args:
        learner: Its kept model is put into evaluation mode.
        part: The cases.
        views: Test-time augmentation; None: none.
        weights: Weights of the cases in the loss; None: equal.
        model: Model to use instead of the learner's kept one.
        saver: Saves the state of the run where a signal or an error ends it; None: nothing is saved.
    """
    model = learner.kept_model if model is None else model
    model.eval()
    loss, metrics = learner.loss.eval(), EpochMetrics(part.dataset.labels)
    samples: list[Sample]
    batches = part.load(0, "validation")
    for samples in batches if saver is None else saver.between_steps(batches):
        index = [sample["index"] for sample in samples]
        with within_memory_of("validating", learner.config, len(part.dataset)):
            logits = case_logits(
                model, samples, learner.config.recipe, learner.fabric.device, views, multi_label=loss.multi_label
            )
        metrics.add(index, logits)
        if saver is not None:
            saver.after_batch()
    logits, labels = torch.from_numpy(metrics.all_logits()).float(), torch.from_numpy(part.dataset.labels)
    value = loss(logits.to(learner.fabric.device), labels, weights)  # of the whole part, for Dice is no mean of batches
    metrics.add_loss(float(value), weight=1.0)
    return metrics.figures(), metrics.all_logits()


def sampled_shares(train: PartLoader, val: PartLoader, epoch: int) -> Float[Tensor, " n"] | None:
    """Weights of validation cases that give the classes the shares with which an epoch samples them; None: equal.

    Without them the validation loss would favour epochs that ignore the rare class. The weights of one epoch are used
    for all, so that losses are comparable. Multi-label cases have none, for no class weights reproduce their sampling.
    """
    known = train.dataset.is_labelled
    labels = train.dataset.labels[known]
    if train.decks is None or labels.ndim == 2:
        return None
    counts, sampled = np.bincount(labels), np.bincount(labels, weights=train.times(epoch)[known])
    return torch.from_numpy((sampled / counts)[val.dataset.labels]).float()
