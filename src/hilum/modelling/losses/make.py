"""The loss that a config asks for, with class weights and counts from the training labels alone."""

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from hilum.cohorts.labels import Labels
from hilum.modelling.losses.base import Loss
from hilum.modelling.losses.class_weights import class_counts, class_weights
from hilum.modelling.losses.losses import (
    AsymmetricLoss,
    CombinedLoss,
    DiceLoss,
    FocalLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    PolyLoss,
    TverskyLoss,
    WeightedCrossEntropyLoss,
)
from hilum.settings.run import RunConfig

_WEIGHTED_BY_ITSELF = ("cross-entropy", "focal", "poly1")


def make_loss(config: RunConfig, labels: Labels, classes: tuple[str, ...]) -> Loss:
    """The loss of a config.

    Args:
        config: Its loss and sampling; of two classes the rarer one is what asymmetric and Tversky losses look for.
        labels: Of the training cases, and of no others.
        classes: Class names, for the error's text.

    Raises:
        CohortError: If a class has no training case.
    """
    loss, many = config.loss, labels.ndim == 2
    assert loss.name != "auto"  # was resolved when the run began  # noqa: S101
    counts = class_counts(labels, num_classes=len(classes), names=classes)
    weights = weights_of(config, labels, classes)
    weight = None if weights is None else torch.from_numpy(weights).float()
    rare = int(counts.argmin()) if not many and len(classes) == 2 else None
    if loss.name == "focal":
        return FocalLoss(loss.gamma, weight, multi_label=many)
    if loss.name == "poly1":
        return PolyLoss(loss.epsilon, weight, multi_label=many)
    if loss.name == "asymmetric":
        which = 1 if rare is None else rare
        return AsymmetricLoss(loss.gamma_pos, loss.gamma_neg, loss.clip, positive=which, multi_label=many)
    if loss.name == "logit-adjusted":
        return LogitAdjustedLoss(_tensor(counts), loss.tau, multi_label=many)
    if loss.name == "ldam":
        return LDAMLoss(_tensor(counts), loss.max_margin, loss.scale, weight, multi_label=many)
    if loss.name == "dice":
        return DiceLoss(loss.smooth, multi_label=many)
    if loss.name == "tversky":
        return TverskyLoss(loss.tversky_alpha, loss.tversky_beta, loss.smooth, positive=rare, multi_label=many)
    if loss.name == "combined":
        focal, dice = 1 - loss.dice_share, loss.dice_share
        return CombinedLoss(weight, loss.gamma, focal, dice, loss.smooth, multi_label=many)
    return WeightedCrossEntropyLoss(weight, multi_label=many)


def weights_of(config: RunConfig, labels: Labels, classes: tuple[str, ...]) -> Float64[np.ndarray, "..."] | None:
    """Class weights as the config asks for: (c,), or (c, 2) of a multi-label cohort; None: none.

    Raises:
        CohortError: If a class has no training case.
    """
    method = config.loss.class_weights
    if method == "auto":
        drawn = config.sampling.method != "none"
        method = "none" if drawn or config.loss.name not in _WEIGHTED_BY_ITSELF else "inverse"
    if method == "none":
        return None
    return class_weights(labels, method=method, num_classes=len(classes), beta=config.loss.beta, names=classes)


def _tensor(counts: np.ndarray) -> Tensor:
    return torch.from_numpy(counts).float()
