"""The loss that a config asks for, with class weights and counts from the training labels only."""

import numpy as np
import torch
from jaxtyping import Float64

from hilum.cohorts.labels import Labels
from hilum.modelling import losses
from hilum.modelling.losses.base import Loss
from hilum.modelling.losses.class_weights import class_counts, class_weights
from hilum.settings.run import RunConfig

_WEIGHTED_BY_DEFAULT = ("cross-entropy", "focal", "poly1")
"""Losses for which ``class_weights = "auto"`` means 1/n."""


def make_loss(config: RunConfig, labels: Labels, classes: tuple[str, ...]) -> Loss:
    """The loss of a config.

    Args:
        config: Its loss and sampling; of two classes the rarer one is the positive of asymmetric and Tversky losses.
        labels: Labels of the training cases only.
        classes: Class names, for the error's text.

    Raises:
        CohortError: If a class has no training case.
    """
    loss, many = config.loss, labels.ndim == 2
    counts = class_counts(labels, num_classes=len(classes), names=classes)
    weights = weights_of(config, labels, classes)
    n = torch.from_numpy(counts).float()
    w = None if weights is None else torch.from_numpy(weights).float()
    rare = int(counts.argmin()) if not many and len(classes) == 2 else None
    match loss.name:
        case "cross-entropy":
            return losses.WeightedCrossEntropyLoss(w, smoothing=loss.label_smoothing, multi_label=many)
        case "focal":
            return losses.FocalLoss(loss.gamma, w, multi_label=many)
        case "poly1":
            return losses.PolyLoss(loss.epsilon, w, multi_label=many)
        case "asymmetric":
            positive = 1 if rare is None else rare
            gammas = loss.gamma_pos, loss.gamma_neg
            return losses.AsymmetricLoss(*gammas, loss.clip, positive=positive, multi_label=many)
        case "logit-adjusted":
            return losses.LogitAdjustedLoss(n, loss.tau, smoothing=loss.label_smoothing, multi_label=many)
        case "ldam":
            return losses.LDAMLoss(n, loss.max_margin, loss.scale, w, multi_label=many)
        case "dice":
            return losses.DiceLoss(loss.smooth, multi_label=many)
        case "tversky":
            costs = loss.tversky_alpha, loss.tversky_beta
            return losses.TverskyLoss(*costs, loss.smooth, positive=rare, multi_label=many)
        case "combined":
            shares = 1 - loss.dice_share, loss.dice_share
            return losses.CombinedLoss(w, loss.gamma, *shares, loss.smooth, multi_label=many)
        case "auto":
            raise AssertionError  # is resolved when the run begins


def weights_of(config: RunConfig, labels: Labels, classes: tuple[str, ...]) -> Float64[np.ndarray, "..."] | None:
    """Class weights that the config asks for: (c,), or (c, 2) of a multi-label cohort; None: none.

    Raises:
        CohortError: If a class has no training case.
    """
    method = config.loss.class_weights
    if method == "auto":
        is_weighted = config.sampling.method == "none" and config.loss.name in _WEIGHTED_BY_DEFAULT
        method = "inverse" if is_weighted else "none"
    if method == "none":
        return None
    return class_weights(labels, method=method, num_classes=len(classes), beta=config.loss.beta, names=classes)
