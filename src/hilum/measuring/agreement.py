"""How well probabilities agree with what happened: bins, calibration error and its floor, slope and intercept."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from hilum.arrays import ArrayLike, labelled, real
from hilum.measuring.metrics import Probs
from hilum.measuring.regression import softmax_regression

_SMALLEST = float(np.finfo(np.float64).eps)
"""Probabilities are kept this far from 0 and 1 in a logarithm, as in the metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Cases of similar probability.

    Attributes:
        num_cases: How many.
        predicted: Their mean probability.
        observed: The share of them that is positive.
    """

    num_cases: int
    predicted: float
    observed: float


def reliability(y: ArrayLike, p: ArrayLike, *, num_bins: int = 10) -> tuple[Bin, ...]:
    """Bins of nearly equally many cases, lowest probabilities first; equal probabilities are never parted.

    At most ``num_bins``, and so few that there are about 15 cases or more in each.
    """
    y, p = labelled(y, p)
    bin_of, sizes = _bins(p, num_bins)
    predicted = np.bincount(bin_of, weights=p, minlength=len(sizes)) / sizes
    observed = np.bincount(bin_of, weights=y == 1, minlength=len(sizes)) / sizes
    return tuple(
        Bin(num_cases=int(n), predicted=float(mean), observed=float(share))
        for n, mean, share in zip(sizes, predicted, observed, strict=True)
    )


def expected_calibration_error(y: ArrayLike, p: ArrayLike, *, num_bins: int = 10) -> float:
    """Mean distance of predicted from observed share in the bins of ``reliability``, by their cases; nan without cases.

    The expected calibration error of Naeini et al. (AAAI 2015) and Guo et al. (ICML 2017), but in bins of equally many
    cases and not of equal width, most of which would be empty with a rare class. Of more than two classes give it
    whether the most probable one was right, and its probability. It is never 0: see ``ece_floor``.

    Example:
        >>> expected_calibration_error(np.array([0, 0, 0, 1]), np.full(4, 0.5))
        0.25
    """
    y, p = labelled(y, p)
    bin_of, sizes = _bins(p, num_bins)
    return _gap(bin_of, sizes, (y == 1) - p.astype(np.float64))


def ece_floor(p: ArrayLike, *, num_bins: int = 10, num_draws: int = 500, seed: int = 0) -> float:
    """The calibration error that a perfect model has on average with so few cases; nan without cases.

    Outcomes are drawn with exactly the probabilities p, and binned as they would be. An error near it says nothing
    against a model.

    Args:
        p: The model's probabilities.
        num_bins: As given to ``expected_calibration_error``.
        num_draws: Sets of outcomes.
        seed: Of their random numbers.
    """
    p = real(p, "probabilities")
    rng = np.random.default_rng(seed)
    bin_of, sizes = _bins(p, num_bins)
    wide = p.astype(np.float64)
    return float(np.mean([_gap(bin_of, sizes, (rng.random(len(p)) < wide) - wide) for _ in range(num_draws)]))


def calibration_line(y: ArrayLike, p: ArrayLike) -> tuple[float, float]:
    """Intercept and slope of the logistic regression of what happened on the log odds of p (Cox, Biometrika 1958).

    (0, 1) is perfect. A slope below 1: too sure, above 1: too unsure. An intercept below 0, at a slope of 1: too high.
    Both are nan where no line is the most likely: one class only, probabilities all the same, or some threshold that
    parts positives from negatives (Albert & Anderson, Biometrika 1984). Beware: of the cases that Platt's fit used,
    they are (0, 1) up to its smoothing.
    """
    y, p = labelled(y, p)
    kept = np.clip(p.astype(np.float64), _SMALLEST, 1 - _SMALLEST)
    log_odds, positive = np.log(kept) - np.log1p(-kept), y == 1
    above, below = log_odds[positive], log_odds[~positive]
    if not len(above) or not len(below) or below.max() <= above.min() or above.max() <= below.min():
        return math.nan, math.nan
    features = np.zeros((len(y), 2, 2))
    features[:, 1] = np.stack([np.ones(len(y)), log_odds], axis=1)
    targets = np.stack([~positive, positive], axis=1).astype(np.float64)
    intercept, slope = softmax_regression(features, targets).tolist()
    return intercept, slope


def _bins(p: Probs, num_bins: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " b"]]:
    """The bin of each case, and how many cases each bin has."""
    left = max(1, min(num_bins, len(p) // 15))
    levels, level = np.unique(p, return_inverse=True)
    sizes = np.bincount(level.reshape(-1), minlength=len(levels))
    bin_of_level = np.zeros(len(levels), np.int64)
    in_bin: list[int] = []
    start, remaining = 0, len(p)
    for stop in range(1, len(levels) + 1):
        num_cases = int(sizes[start:stop].sum())
        if stop < len(levels) and (left == 1 or num_cases < remaining / left):
            continue
        bin_of_level[start:stop] = len(in_bin)
        in_bin.append(num_cases)
        start, remaining, left = stop, remaining - num_cases, left - 1
    return bin_of_level[level.reshape(-1)], np.array(in_bin, np.int64)


def _gap(bin_of: Int[np.ndarray, " n"], sizes: Int[np.ndarray, " b"], missed: Probs) -> float:
    """Mean over the cases of the distance in their bin, from what each case missed."""
    if not len(bin_of):
        return math.nan
    return float(np.abs(np.bincount(bin_of, weights=missed, minlength=len(sizes))).sum() / len(bin_of))
