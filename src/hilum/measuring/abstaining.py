"""Where a model abstains: a band between two thresholds, and conformal sets of classes, each with a stated error.

Both use the ranks of cases of each class that were not trained on, one for each patient: of a new patient of a class
the chance of a wrong decision, or of a set without the truth, is at most the stated error, on average over such cases
(class-conditional split conformal prediction: Vovk 2012, Conditional validity of inductive conformal predictors,
doi:10.1007/s10994-013-5355-6). It says nothing of a single patient, nor of scans unlike these.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from hilum.errors import CohortError, require
from hilum.randomness import generator

_LEAST_PATIENTS = 50
"""Fewest patients of each class for conformal sets: with fewer the coverage of one fit strays too far (rule of thumb:
with 50 and an error of 0.1 it lies between 0.81 and 0.97 in 95 of 100 fits)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Probabilities of the second class, or of a label, at which a case is undecided: ``low <= p <= high``.

    Attributes:
        low: A case is negative below it.
        high: A case is positive above it; just below ``low`` where no band is needed.
        error: Largest share of each class that is decided wrongly.
        coverage: Share of the cases that are decided, of those on which the band was chosen.
        patients: Patients on which it was chosen, without and with the class.
    """

    low: float
    high: float
    error: float
    coverage: float
    patients: tuple[int, int]

    def __post_init__(self) -> None:
        right = 0 <= self.low <= 1 and 0 <= self.high <= 1 and self.high >= math.nextafter(self.low, 0)
        require(right, "a band", "between 0 and 1, low first", (self.low, self.high))
        _check_stated(self.error, self.coverage, "coverage")

    def holds(self, p: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Whether cases of these probabilities are undecided."""
        return np.asarray((p >= self.low) & (p <= self.high))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformalSets:
    """Sets of classes that hold the true one with a stated error, by class.

    Attributes:
        least: Smallest probability of each class at which it belongs to the set.
        error: Largest share of each class whose sets lack it.
        patients: Patients of each class on which the sets were fitted.
        singles: Share of the cases whose set holds one class alone, of those on which they were fitted.
    """

    least: tuple[float, ...]
    error: float
    patients: tuple[int, ...]
    singles: float

    def __post_init__(self) -> None:
        right = all(0 <= one <= 1 for one in self.least) and len(self.least) == len(self.patients) >= 2
        require(right, "conformal sets", "a probability and a number of patients for each class", self.least)
        _check_stated(self.error, self.singles, "singles")

    def members(self, probs: Float[np.ndarray, "n c"]) -> Bool[np.ndarray, "n c"]:
        """Whether each class belongs to the set of each case."""
        return np.asarray(probs >= np.array(self.least))


def _check_stated(error: float, share: float, what: str) -> None:
    require(0 < error < 0.5, "a stated error", "above 0 and below 0.5", error)
    require(0 <= share <= 1, what, "between 0 and 1", share)


def choose_band(
    y: Int[np.ndarray, " n"],
    p: Float[np.ndarray, " n"],
    *,
    threshold: float,
    error: float,
    coverage: float,
    patients: Sequence[str],
) -> Band:
    """Choose the band around a threshold outside of which at most a share of each class is decided wrongly.

    Args:
        y: 1 where positive.
        p: Probability of the positive class.
        threshold: The threshold without a band, which the band holds.
        error: The share.
        coverage: Smallest share of the cases that must be decided.
        patients: Patient of each case, of whom one case of each class counts.

    Raises:
        CohortError: If there are too few patients of a class, or fewer cases would be decided; the text has the number.
    """
    first = one_each(y, patients)
    y, p = y[first], p[first]
    needed = math.ceil(1 / error - 1 - 1e-9)
    numbers = int((y != 1).sum()), int((y == 1).sum())
    if min(numbers) < needed:
        msg = f"a band with an error of {error:g} needs {needed} patients with and without the class, got {numbers[1]} "
        msg += f"with and {numbers[0]} without"
        raise CohortError(msg)
    low, high = _end(p[y == 1], error), 1 - _end(1 - p[y != 1], error)
    low, high = min(low, threshold), max(high, math.nextafter(threshold, 0))  # no band where the classes are far apart
    decided = 1 - float(((p >= low) & (p <= high)).mean())
    if decided < coverage:
        msg = f"with an error of {error:g} only {decided:.0%} of the cases would be decided, must be {coverage:.0%}"
        raise CohortError(msg)
    return Band(low=low, high=high, error=error, coverage=decided, patients=numbers)


def fit_sets(
    labels: Int[np.ndarray, " n"], probs: Float[np.ndarray, "n c"], *, error: float, patients: Sequence[str]
) -> ConformalSets:
    """Fit conformal sets, each class on its own cases.

    Args:
        labels: Class of each case, which was neither trained on nor chose the epoch.
        probs: Probabilities of the classes.
        error: Largest share of each class whose sets lack it.
        patients: Patient of each case, of whom one case of each class counts.

    Raises:
        CohortError: If there are too few patients of a class; the text has the number that would do.
    """
    first = one_each(labels, patients)
    labels, probs = labels[first], probs[first]
    needed = max(_LEAST_PATIENTS, math.ceil(1 / error - 1 - 1e-9))
    numbers = tuple(int((labels == k).sum()) for k in range(probs.shape[1]))
    if min(numbers) < needed:
        msg = f"conformal sets with an error of {error:g} need {needed} patients of each class, got "
        raise CohortError(msg + ", ".join(map(str, numbers)))
    least = tuple(_end(probs[labels == k, k], error) for k in range(probs.shape[1]))
    singles = float(((probs >= np.array(least)).sum(axis=1) == 1).mean())
    return ConformalSets(least=least, error=error, patients=numbers, singles=singles)


def coverage_ends(number: int, error: float, tested: int, *, level: float = 0.95) -> tuple[float, float]:
    """Interval of the share of new cases of a class that a fit covers: beta-binomial.

    Args:
        number: Patients of the class on which it was fitted.
        error: The stated error.
        tested: New cases.
        level: Chance that the share lies within.
    """
    from scipy import stats  # takes long to load, and predicting does not need it

    rank = _rank(error, number)
    law = stats.betabinom(tested, number + 1 - rank, rank)
    low, high = law.ppf([(1 - level) / 2, (1 + level) / 2])
    return float(low / tested), float(high / tested)


def one_each(labels: Int[np.ndarray, " n"], patients: Sequence[str]) -> Int[np.ndarray, " m"]:
    """Index of a random case of each class of each patient; always the same."""
    chosen: dict[tuple[str, int], int] = {}
    for n in generator(0, "one of each patient").permutation(len(labels)).tolist():
        chosen.setdefault((patients[n], int(labels[n])), n)
    return np.array(sorted(chosen.values()), int)


def risk_by_coverage(
    is_wrong: Bool[np.ndarray, " n"], certainty: Float[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """Share of wrong decisions among the most certain cases, by the share of cases that are decided.

    Cases of one certainty are decided together (El-Yaniv and Wiener 2010, On the foundations of noise-free selective
    classification).

    Args:
        is_wrong: Whether each case would be decided wrongly.
        certainty: How certain each decision would be, such as its ``log_odds_distance``.
    """
    order = np.argsort(-certainty, kind="stable")
    wrong = np.cumsum(is_wrong[order])
    ends = np.append(np.flatnonzero(np.diff(certainty[order])), len(order) - 1)
    return (ends + 1) / len(order), wrong[ends] / (ends + 1)


def log_odds_distance(
    p: Float[np.ndarray, " n"], threshold: float | Float[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """How far the log odds of probabilities lie from those of a threshold, or of one for each."""
    return np.asarray(np.abs(_log_odds(p) - _log_odds(np.asarray(threshold, np.float64))))


def _log_odds(p: Float[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    tiny = 1e-12
    inside = np.clip(p.astype(np.float64), tiny, 1 - tiny)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def _end(p: Float[np.ndarray, " n"], error: float) -> float:
    """A probability below which lie as many cases as may be wrong: between two cases, so that rounding decides nothing.

    Where no case lies below, it is 1 % of its odds under the case.
    """
    rank, ordered = _rank(error, len(p)), np.sort(p)
    first = float(ordered[rank - 1])
    below = float(ordered[rank - 2]) if rank > 1 else 0.99 * first / (1 - 0.01 * first)
    return (first + below) / 2


def _rank(error: float, number: int) -> int:
    """Cases of a class that may be wrong, of these and a new one."""
    return math.floor(error * (number + 1) + 1e-9)
