"""Figures of a classifier; confusion counts and ranked counts take weights, so that a resample is a set of weights.

A figure with a denominator of zero does not exist: it is nan, never 0. Definitions as in Fawcett, "An introduction to
ROC analysis", Pattern Recognition Letters 27 (2006), and in scikit-learn, unless a docstring says otherwise.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from hilum.arrays import ArrayLike, check_same_cases, flags, labelled, real, whole

Probs: TypeAlias = Float[np.ndarray, " n"]
Figures: TypeAlias = float | Float[np.ndarray, "..."]
"""One figure, or one for each set of weights."""

_SMALLEST = float(np.finfo(np.float64).eps)
"""Distance of probabilities from 0 and 1 in logarithms, as in scikit-learn."""

_ROUNDING = 1e-12
"""Rates that differ by less are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Counts of decisions on two classes, as sums of weights, for one or several sets of weights.

    Attributes:
        tn: Negatives decided negative.
        fp: Negatives decided positive.
        fn: Positives decided negative.
        tp: Positives decided positive.
    """

    tn: Figures
    fp: Figures
    fn: Figures
    tp: Figures

    @property
    def accuracy(self) -> Figures:
        """Share of correct decisions."""
        return ratio(self.tp + self.tn, self.tp + self.tn + self.fp + self.fn)

    @property
    def sensitivity(self) -> Figures:
        """Share of the positives that are found; also called recall."""
        return ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> Figures:
        """Share of the negatives that are decided negative."""
        return ratio(self.tn, self.tn + self.fp)

    @property
    def ppv(self) -> Figures:
        """Share of true positives among positive decisions, also called precision; it depends on the prevalence."""
        return ratio(self.tp, self.tp + self.fp)

    @property
    def npv(self) -> Figures:
        """Share of true negatives among negative decisions; it depends on the prevalence."""
        return ratio(self.tn, self.tn + self.fn)

    @property
    def balanced_accuracy(self) -> Figures:
        """Mean of sensitivity and specificity."""
        return (self.sensitivity + self.specificity) / 2

    @property
    def f1(self) -> Figures:
        """Harmonic mean of sensitivity and positive predictive value."""
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def mcc(self) -> Figures:
        """Matthews' correlation coefficient of decisions and truth, -1 to 1; nan if either is of one class."""
        tp, fp, fn, tn = self.tp, self.fp, self.fn, self.tn
        return ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))

    def net_benefit(self, threshold: float) -> Figures:
        """True positives less false positives at their exchange rate, per case (Vickers & Elkin, MDM 2006).

        Args:
            threshold: The probability at which a case is called: its odds are the number of false positives that one
                true positive is worth.
        """
        odds = threshold / (1 - threshold) if threshold < 1 else math.nan
        return ratio(self.tp - self.fp * odds, self.tp + self.tn + self.fp + self.fn)

    def at(self, prevalence: float) -> "Confusion":
        """Counts of the same sensitivity and specificity at another prevalence, as shares of all cases.

        Predictive values and net benefit then are those of a population with this prevalence, if scans within a class
        look the same there.
        """
        sensitivity, specificity = self.sensitivity, self.specificity
        return Confusion(
            tn=(1 - prevalence) * specificity,
            fp=(1 - prevalence) * (1 - specificity),
            fn=prevalence * (1 - sensitivity),
            tp=prevalence * sensitivity,
        )


def ratio(part: Figures, whole: Figures) -> Figures:
    """Part divided by whole; nan if the whole is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        figures = np.where(np.asarray(whole) > 0, np.divide(part, whole), np.nan)
    return figures if figures.ndim else float(figures)


def confusion(y: ArrayLike, decided: ArrayLike, *, weights: Float[np.ndarray, "*b n"] | None = None) -> Confusion:
    """Count the decisions, 1 or True being positive; with weights (..., n), one table for each set of them."""
    actual, called = whole(y, "labels") == 1, flags(decided, "decisions")
    check_same_cases(actual, called, "decisions")
    weights = np.ones(len(actual)) if weights is None else weights
    rows = (~actual & ~called, ~actual & called, actual & ~called, actual & called)
    tn, fp, fn, tp = (weights @ cell.astype(np.float64) for cell in rows)
    return Confusion(tn=tn, fp=fp, fn=fn, tp=tp)


def ranked_counts(
    y: ArrayLike, p: ArrayLike, *, weights: Float[np.ndarray, "*b n"] | None = None
) -> tuple[Float[np.ndarray, "*b k"], Float[np.ndarray, "*b k"]]:
    """Weight of the positives and of the negatives at or above each distinct probability, highest first.

    One sort and two cumulative sums serve every set of weights.
    """
    y, p = labelled(y, p)
    weights = np.ones(len(y)) if weights is None else weights
    order = np.argsort(-p, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(p[order]) != 0, True)) if len(p) else np.zeros(0, np.intp)
    sorted_weights = weights[..., order]
    positive = (y[order] == 1).astype(np.float64)
    tps = np.cumsum(sorted_weights * positive, axis=-1)[..., ends]
    fps = np.cumsum(sorted_weights * (1 - positive), axis=-1)[..., ends]
    return tps, fps


def auc_from(tps: Float[np.ndarray, "*b k"], fps: Float[np.ndarray, "*b k"]) -> Figures:
    """Area under the ROC curve by trapezes, so that ties count half."""
    heights = tps + np.concatenate([np.zeros_like(tps[..., :1]), tps[..., :-1]], axis=-1)
    area = np.sum(np.diff(fps, axis=-1, prepend=0) * heights, axis=-1) / 2
    return ratio(area, tps[..., -1] * fps[..., -1])


def partial_auc_from(tps: Float[np.ndarray, "*b k"], fps: Float[np.ndarray, "*b k"], *, max_fpr: float) -> Figures:
    """Area under the ROC curve up to a false positive rate, scaled so that chance is 0.5 and a perfect curve 1.

    McClish, Medical Decision Making 9 (1989), as ``roc_auc_score(max_fpr=...)`` of scikit-learn.
    """
    rate, found = _rates(fps), _rates(tps)
    before, found_before = (
        np.concatenate([np.zeros_like(one[..., :1]), one[..., :-1]], axis=-1) for one in (rate, found)
    )
    width = np.clip(np.minimum(rate, max_fpr) - before, 0, None)
    rise = np.divide(found - found_before, rate - before, out=np.zeros_like(found), where=rate > before)
    area = np.sum(width * (found_before + rise * width / 2), axis=-1)
    least = max_fpr**2 / 2
    return np.asarray((1 + (area - least) / (max_fpr - least)) / 2)


def sensitivity_at(tps: Float[np.ndarray, "*b k"], fps: Float[np.ndarray, "*b k"], specificity: Figures) -> Figures:
    """Highest sensitivity on the ROC curve at no less than a specificity; points of the curve only."""
    allowed = _rates(fps) <= 1 - np.asarray(specificity)[..., None] + _ROUNDING
    return _defined(np.max(np.where(allowed, _rates(tps), 0.0), axis=-1), tps, fps)


def specificity_at(tps: Float[np.ndarray, "*b k"], fps: Float[np.ndarray, "*b k"], sensitivity: Figures) -> Figures:
    """Highest specificity on the ROC curve at no less than a sensitivity; points of the curve only."""
    allowed = _rates(tps) >= np.asarray(sensitivity)[..., None] - _ROUNDING
    return _defined(1 - np.min(np.where(allowed, _rates(fps), 1.0), axis=-1), tps, fps)


def _rates(counts: Float[np.ndarray, "*b k"]) -> Float[np.ndarray, "*b k"]:
    """Cumulative counts as shares of their last one."""
    return np.asarray(ratio(counts, counts[..., -1:]))


def _defined(figures: Figures, tps: Float[np.ndarray, "*b k"], fps: Float[np.ndarray, "*b k"]) -> Figures:
    """Figures of a curve; nan without cases of both classes."""
    return np.asarray(np.where(tps[..., -1] * fps[..., -1] > 0, figures, np.nan))


def ap_from(tps: Float[np.ndarray, "*b k"], fps: Float[np.ndarray, "*b k"]) -> Figures:
    """Average precision from cumulative counts: precision, averaged over the steps in recall."""
    called = tps + fps
    precision = np.divide(tps, called, out=np.zeros_like(tps), where=called > 0)
    return ratio(np.sum(np.diff(tps, axis=-1, prepend=0) * precision, axis=-1), tps[..., -1])


def roc_auc(y: ArrayLike, p: ArrayLike) -> float:
    """Probability that a positive ranks above a negative, ties counting half (Hanley & McNeil 1982).

    Example:
        >>> roc_auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
        0.75
    """
    tps, fps = ranked_counts(y, p)
    return float(auc_from(tps, fps)) if len(tps) else np.nan


def average_precision(y: ArrayLike, p: ArrayLike) -> float:
    """Area under the precision-recall curve as a step function: sum of (R_k - R_(k-1)) P_k, no interpolation."""
    tps, fps = ranked_counts(y, p)
    return float(ap_from(tps, fps)) if len(tps) else np.nan


def roc_curve(y: ArrayLike, p: ArrayLike) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """False and true positive rate, from (0, 0) to (1, 1), one point for each distinct probability."""
    tps, fps = ranked_counts(y, p)
    return np.asarray(ratio(np.append(0.0, fps), fps[-1])), np.asarray(ratio(np.append(0.0, tps), tps[-1]))


def pr_curve(y: ArrayLike, p: ArrayLike) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Recall and precision, one point for each distinct probability, highest first."""
    tps, fps = ranked_counts(y, p)
    return np.asarray(ratio(tps, tps[-1])), np.asarray(ratio(tps, tps + fps))


def brier(y: ArrayLike, p: ArrayLike) -> float:
    """Mean squared difference between probability and outcome (Brier 1950, in its form for two classes)."""
    y, p = labelled(y, p)
    return _mean(np.square(p.astype(np.float64) - (y == 1)))


def log_loss(y: ArrayLike, p: ArrayLike) -> float:
    """Mean negative logarithm of the probability given to the true class, in nats.

    Args:
        y: Class of each case.
        p: Probability of the second of two classes, (n,), or of each class, (n, c).
    """
    return _mean(log_losses(y, p))


def log_losses(y: ArrayLike, p: ArrayLike) -> Probs:
    """The log loss of each case; arguments as for ``log_loss``."""
    y, p = labelled(y, p, axes=(1, 2))
    columns = p.astype(np.float64)
    if columns.ndim == 1:
        columns = np.stack([1 - columns, columns], axis=1)
    return -np.log(np.clip(columns[np.arange(len(y)), y], _SMALLEST, 1 - _SMALLEST))


def _mean(values: Probs) -> float:
    return float(values.mean()) if len(values) else math.nan


def confusion_matrix(y: ArrayLike, decided: ArrayLike, *, num_classes: int) -> Int[np.ndarray, "c c"]:
    """Number of cases by true class (row) and decided class (column)."""
    y, decided = whole(y, "labels"), whole(decided, "decisions")
    check_same_cases(y, decided, "decisions")
    counts = np.bincount(y * num_classes + decided, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def macro_recall(matrix: ArrayLike) -> Figures:
    """Mean recall of the classes: balanced accuracy. nan if a class has no cases."""
    matrix = real(matrix, "a confusion matrix", axes=(2, 3))
    diagonal = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    return _average(ratio(diagonal, matrix.sum(-1).astype(np.float64)))


def macro_f1(matrix: ArrayLike) -> Figures:
    """Mean of the classes' F1. nan if a class has neither cases nor decisions."""
    matrix = real(matrix, "a confusion matrix", axes=(2, 3))
    diagonal = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    return _average(ratio(2 * diagonal, (matrix.sum(-1) + matrix.sum(-2)).astype(np.float64)))


def multiclass_accuracy(y: ArrayLike, probs: ArrayLike) -> float:
    """Share of the cases whose most probable class is the true one."""
    y, probs = labelled(y, probs, axes=(2,))
    return _mean((probs.argmax(1) == y).astype(np.float64))


def macro_auc(y: ArrayLike, probs: ArrayLike, *, weights: Float[np.ndarray, "*b n"] | None = None) -> Figures:
    """Mean over the classes of the AUC of each against the rest. nan if a class has no cases."""
    y, probs = labelled(y, probs, axes=(2,))
    aucs = [
        auc_from(*ranked_counts((y == k).astype(np.int64), probs[:, k], weights=weights)) for k in range(probs.shape[1])
    ]
    return _average(np.stack(aucs, axis=-1))


def _average(figures: Figures) -> Figures:
    """Mean over the last axis, which runs over the classes."""
    mean = np.mean(figures, axis=-1)
    return mean if np.ndim(mean) else float(mean)
