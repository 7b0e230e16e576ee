"""Agreement of probabilities with outcomes: bins, calibration error and its floor, slope and intercept."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from hilum.arrays import ArrayLike, labelled, patient_index, real
from hilum.measuring.bootstrap import Figure, student95
from hilum.measuring.metrics import Probs
from hilum.measuring.regression import softmax_regression

_SMALLEST = float(np.finfo(np.float64).eps)
"""Distance of probabilities from 0 and 1 in logarithms, as in the metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Cases of similar probability.

    Attributes:
        num_cases: Number of cases.
        predicted: Their mean probability.
        observed: Share of positives.
    """

    num_cases: int
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationLine:
    """Intercept and slope of ``calibration_line`` with 95 % intervals.

    Attributes:
        intercept: 0 is perfect.
        slope: 1 is perfect.
    """

    intercept: Figure
    slope: Figure


def reliability(y: ArrayLike, p: ArrayLike, *, num_bins: int = 10) -> tuple[Bin, ...]:
    """Bins of nearly equal numbers of cases, lowest probabilities first; equal probabilities share a bin.

    There are at most ``num_bins``, and so few that each has about 15 cases or more.
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
    """Mean distance of predicted and observed share in the bins of ``reliability``; nan without cases.

    The expected calibration error of Naeini et al. (AAAI 2015) and Guo et al. (ICML 2017), but in bins of equal
    numbers of cases: of bins of equal width most would be empty with a rare class. For more than two classes pass
    whether the most probable one was right, and its probability. It is never 0: see ``ece_floor``.

    Example:
        >>> expected_calibration_error(np.array([0, 0, 0, 1]), np.full(4, 0.5))
        0.25
    """
    y, p = labelled(y, p)
    bin_of, sizes = _bins(p, num_bins)
    return _gap(bin_of, sizes, (y == 1) - p.astype(np.float64))


def ece_floor(p: ArrayLike, *, num_bins: int = 10, num_draws: int = 500, seed: int = 0) -> float:
    """The mean calibration error of a perfect model on this number of cases; nan without cases.

    Outcomes are drawn with exactly the probabilities p and binned in the same way. An error near the floor is no
    evidence against a model.

    Args:
        p: The model's probabilities.
        num_bins: The value given to ``expected_calibration_error``.
        num_draws: Sets of outcomes.
        seed: Seed of the outcomes.
    """
    p = real(p, "probabilities")
    rng = np.random.default_rng(seed)
    bin_of, sizes = _bins(p, num_bins)
    wide = p.astype(np.float64)
    return float(np.mean([_gap(bin_of, sizes, (rng.random(len(p)) < wide) - wide) for _ in range(num_draws)]))


def calibration_line(y: ArrayLike, p: ArrayLike) -> tuple[float, float]:
    """Intercept and slope of the logistic regression of outcomes on the log odds of p (Cox, Biometrika 1958).

    (0, 1) is perfect. A slope below 1 means too sure, above 1 too unsure; an intercept below 0 at a slope of 1 means
    too high. Both are nan if the likelihood has no maximum: only one class, equal probabilities, or a threshold that
    separates positives from negatives (Albert & Anderson, Biometrika 1984). Note that on the cases of Platt's fit
    they are (0, 1) except for its smoothing.
    """
    y, p = labelled(y, p)
    odds, positive = _odds(p), y == 1
    above, below = odds[positive], odds[~positive]
    if not len(above) or not len(below) or below.max() <= above.min() or above.max() <= below.min():
        return math.nan, math.nan
    features = np.zeros((len(y), 2, 2))
    features[:, 1] = np.stack([np.ones(len(y)), odds], axis=1)
    targets = np.stack([~positive, positive], axis=1).astype(np.float64)
    intercept, slope = softmax_regression(features, targets).tolist()
    return intercept, slope


def calibration_line_intervals(y: ArrayLike, p: ArrayLike, *, patients: Sequence[str]) -> CalibrationLine:
    """Intercept and slope of ``calibration_line`` with intervals that account for several cases of a patient.

    The standard errors are the sandwich of Liang & Zeger (Biometrika 1986) with patients as clusters, times
    G / (G - 1) (n - 1) / (n - 2) for G patients and n cases, as in Stata and in statsmodels. The half width is
    Student's quantile with one degree of freedom less than the patients of the smaller class, for they and not all
    patients bound what is known (after Carter, Schnepel & Steigerwald, Review of Economics and Statistics 2017). In
    simulations of 60 and 120 patients it covers 93 to 96 %, the normal quantile 88 to 94 %, and a logarithmic scale of
    the slope less than either; see ``benchmarks/interval_coverage.py``. All is nan if the likelihood has no maximum,
    and the ends are with fewer than two patients of a class.

    Args:
        y: 1 where positive.
        p: Probability of the positive class.
        patients: Patient of each case.
    """
    y, p = labelled(y, p)
    patient = patient_index(patients, len(y))
    line = np.array(calibration_line(y, p))
    if np.isnan(line).any():
        missing = Figure(value=math.nan, low=math.nan, high=math.nan)
        return CalibrationLine(intercept=missing, slope=missing)
    in_smaller_class = min(len(np.unique(patient[y == 1])), len(np.unique(patient[y != 1])))
    if in_smaller_class < 2:
        errors = np.full(2, np.nan)
    else:
        errors = _sandwich_errors((y == 1).astype(np.float64), _odds(p), line, patient)
    half = student95(in_smaller_class) * errors
    intercept, slope = (
        Figure(value=value, low=value - width, high=value + width)
        for value, width in zip(line.tolist(), half.tolist(), strict=True)
    )
    return CalibrationLine(intercept=intercept, slope=slope)


def _sandwich_errors(
    y: Probs, odds: Probs, line: Float[np.ndarray, "2"], patient: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "2"]:
    """Cluster-robust standard errors of the logistic regression of y on the log odds, at its maximum."""
    features = np.stack([np.ones(len(y)), odds], axis=1)
    fitted = 1 / (1 + np.exp(-np.clip(features @ line, -700, 700)))
    bread = np.linalg.inv(features.T @ (features * (fitted * (1 - fitted))[:, None]))
    missed = (y - fitted)[:, None] * features
    by_patient = np.stack([np.bincount(patient, weights=column) for column in missed.T], axis=1)
    groups, cases = len(by_patient), len(y)
    correction = groups / (groups - 1) * (cases - 1) / (cases - 2)
    return np.asarray(np.sqrt(correction * np.diagonal(bread @ by_patient.T @ by_patient @ bread)))


def _odds(p: Probs) -> Probs:
    """Log odds in double precision, finite at 0 and 1."""
    kept = np.clip(p.astype(np.float64), _SMALLEST, 1 - _SMALLEST)
    return np.asarray(np.log(kept) - np.log1p(-kept))


def _bins(p: Probs, num_bins: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " b"]]:
    """The bin of each case, and the number of cases in each bin."""
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
    """Mean over the cases of the distance in their bin, from each case's outcome minus its probability."""
    if not len(bin_of):
        return math.nan
    return float(np.abs(np.bincount(bin_of, weights=missed, minlength=len(sizes))).sum() / len(bin_of))
