"""Compares two classifiers on the same cases: differences with intervals, and tests of equal areas and equal curves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import gammaincinv, ndtr, stdtr, stdtrit

from hilum.arrays import ArrayLike, patient_index, real, whole
from hilum.errors import CohortError, require
from hilum.measuring import metrics
from hilum.measuring.bootstrap import Figure, PatientBootstrap, Resampled, Resamples, wilson
from hilum.measuring.metrics import Figures, ratio
from hilum.measuring.roc_variance import mid_ranks, obuchowski
from hilum.randomness import generator

_POINTS = 4000
"""Points at which the distribution of an estimated standard error is taken; the power is then right to four digits."""

_LARGEST_BLOCK = 4_000_000
"""Counts of permuted ranks in memory at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """A number for each case by one classifier, a reader or a measurement.

    Attributes:
        values: Higher where more likely positive.
        threshold: A case is decided positive from here on, chosen on other cases; None: it makes no decisions.
        is_probability: Whether the values are probabilities; only then a Brier score exists.
        called: Whether each case is decided positive, where something else than the threshold decides; None: by it.
    """

    values: Float[np.ndarray, " n"]
    threshold: float | None = None
    is_probability: bool = True
    called: Bool[np.ndarray, " n"] | None = None

    def __post_init__(self) -> None:
        require(bool(np.isfinite(self.values).all()), "ratings", "finite", "nan or infinity")
        if self.is_probability and len(self.values):
            low, high = float(self.values.min()), float(self.values.max())
            require(low >= 0 and high <= 1, "probabilities", "between 0 and 1", (low, high))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two classifiers a and b on the same cases.

    Attributes:
        a: Figures of the first: auc, average_precision, and where both have them sensitivity, specificity and brier.
        b: Figures of the second.
        differences: a - b, with 95 % intervals.
        p_areas: Two-sided p-value of equal areas under the ROC curves; nan where it is not defined.
        p_curves: Two-sided p-value of equal ROC curves, by permutation; nan if the cases are of one class.
        smallest_difference: Smallest true difference of the areas that the test of equal areas shows in 80 of 100; nan
            where it has no standard error.
        num_cases: Number of cases.
        num_patients: Number of patients.
    """

    a: dict[str, float]
    b: dict[str, float]
    differences: dict[str, Figure]
    p_areas: float
    p_curves: float
    smallest_difference: float
    num_cases: int
    num_patients: int


def compare_ratings(
    y: ArrayLike, a: Rating, b: Rating, *, patients: Sequence[str], seed: int = 0, num_resamples: int = 2000
) -> Comparison:
    """Compare two classifiers on the same cases.

    Each difference has a symmetric interval with the standard error of the cluster bootstrap, in which both are judged
    on the same resamples of the patients; quantiles are as in ``hilum.measuring.intervals``. Where the bootstrap has no
    spread, the interval combines Wilson's intervals of both as if they were independent, which is too wide rather than
    too narrow (the square-and-add method 10 of Newcombe, Statistics in Medicine 17 (1998) 2635-2650, without its
    correlation). Equal areas are tested by ``areas_test``, equal curves by ``curves_test``.

    Args:
        y: 1 where positive.
        a: The first classifier.
        b: The second.
        patients: Patient of each case.
        seed: Seed of resamples and permutations.
        num_resamples: Number of resamples, and of permutations.
    """
    y = _checked(y, a, b, patients)
    bootstrap = PatientBootstrap(patients, len(y), seed, num_resamples)
    rests_on = _rests_on(y, bootstrap)
    of_a, of_b = (bootstrap.resample(partial(_figures, y, one), rests_on) for one in (a, b))  # the same resamples
    names = [name for name in of_a if name in of_b]
    test = areas_test(y, a.values, b.values, patients=patients)
    return Comparison(
        a={name: of_a[name].value for name in names},
        b={name: of_b[name].value for name in names},
        differences={name: _difference(of_a[name], of_b[name]) for name in names},
        p_areas=test.p,
        p_curves=curves_test(y, a.values, b.values, patients=patients, seed=seed, num_permutations=num_resamples),
        smallest_difference=smallest_difference(test.error, num_patients=test.num_patients),
        num_cases=len(y),
        num_patients=bootstrap.num_patients,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AreasTest:
    """Test of equal areas under two ROC curves.

    Attributes:
        p: Two-sided p-value; nan where it is not defined.
        error: Standard error of the difference; nan where there is none.
        num_patients: Patients of the smaller class.
    """

    p: float
    error: float
    num_patients: int


def areas_test(y: ArrayLike, a: ArrayLike, b: ArrayLike, *, patients: Sequence[str]) -> AreasTest:
    """Test whether the areas under two ROC curves are equal.

    The difference over Obuchowski's standard error is compared with Student's distribution, with one degree of freedom
    less than the patients of the smaller class. With the normal one, of the z test, up to 8 % of the tests of equal
    models are significant where about 11 patients are positive (``benchmarks/interval_coverage.py`` measures both).
    Curves may differ and have equal areas. Without a spread p is 1 if the areas are equal, else nan, as it is with
    fewer than two patients of a class.
    """
    areas = obuchowski(y, np.stack([real(one, "ratings").astype(np.float64) for one in (a, b)], 1), patients=patients)
    contrast = np.array([1.0, -1.0])
    difference = float(contrast @ areas.aucs)
    variance = float(contrast @ areas.covariance @ contrast)
    if math.isnan(variance):
        return AreasTest(p=math.nan, error=math.nan, num_patients=areas.num_patients)
    if variance < 1e-15:
        p = 1.0 if abs(difference) < 1e-12 else math.nan
        return AreasTest(p=p, error=0.0, num_patients=areas.num_patients)
    error = math.sqrt(variance)
    p = float(2 * stdtr(areas.num_patients - 1, -abs(difference) / error))
    return AreasTest(p=p, error=error, num_patients=areas.num_patients)


def curves_test(
    y: ArrayLike, a: ArrayLike, b: ArrayLike, *, patients: Sequence[str], seed: int = 0, num_permutations: int = 2000
) -> float:
    """Two-sided p-value of equal ROC curves: the two classifiers are exchanged within patients, on ranks.

    The permutation test of Bandos, Rockette & Gur, Statistics in Medicine 24 (2005) 2873-2893: the ratings of each
    classifier are replaced by their mid-ranks among all cases, and for a random half of the patients the ranks of both
    classifiers are exchanged, for all cases of a patient at once. p is the share of exchanges whose areas differ at
    least as much. The hypothesis is that both have the same ROC curve; the test is sensitive to unequal areas, not to
    curves that cross with equal areas. All exchanges are enumerated if they are no more than the permutations;
    else p is (1 + exceeding) / (1 + permutations), as in Phipson & Smyth (2010).

    Args:
        y: 1 where positive.
        a: Ratings of the first classifier, on whatever scale.
        b: Ratings of the second.
        patients: Patient of each case.
        seed: Seed of the permutations.
        num_permutations: Number of permutations.
    """
    positive = whole(y, "labels") == 1
    if positive.all() or not positive.any():
        return math.nan
    codes = np.stack([2 * mid_ranks(real(one, "ratings")) for one in (a, b)]).astype(np.int64)
    patient = patient_index(patients, len(positive))
    num_patients = int(patient.max()) + 1
    is_exact = 2**num_patients <= num_permutations
    count = 2**num_patients if is_exact else num_permutations
    rng, block = generator(seed, "exchanges"), max(1, _LARGEST_BLOCK // (2 * len(positive) + 1))
    observed = abs(int(_area_differences(codes, positive, np.zeros((1, len(positive)), bool))[0]))
    exceeding = 0
    for start in range(0, count, block):
        rows = np.arange(start, min(start + block, count))
        if is_exact:
            swapped = (rows[:, None] >> np.arange(num_patients)) & 1 == 1
        else:
            swapped = rng.random((len(rows), num_patients)) < 0.5
        exceeding += int((np.abs(_area_differences(codes, positive, swapped[:, patient])) >= observed).sum())
    return exceeding / count if is_exact else (1 + exceeding) / (1 + count)


def smallest_difference(standard_error: float, *, num_patients: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true difference that a two-sided Student's test of this standard error shows with this power.

    The power is that of the noncentral t distribution, as a mean over the estimated standard error, whose square
    follows chi-square's. The standard error is that of the test at hand: what a test could have shown, not what it did.
    nan without a standard error.

    Args:
        standard_error: Of the difference.
        num_patients: Patients of the smaller class, one more than the degrees of freedom.
        power: Probability that the test shows the difference.
        alpha: Level of the test.

    Example:
        >>> round(smallest_difference(0.02, num_patients=30), 4)
        0.058
    """
    from scipy.optimize import brentq  # not at the top: slow to import

    require(0 < power < 1, "power", "above 0 and below 1", power)
    require(0 < alpha < 1, "alpha", "above 0 and below 1", alpha)
    freedom = num_patients - 1
    if not standard_error > 0 or freedom < 1:
        return math.nan
    shares = (np.arange(_POINTS) + 0.5) / _POINTS
    limits = float(stdtrit(freedom, 1 - alpha / 2)) * np.sqrt(2 * gammaincinv(freedom / 2, shares) / freedom)

    def lacking(shift: float) -> float:
        return power - float(np.mean(ndtr(shift - limits) + ndtr(-shift - limits)))

    return float(brentq(lacking, 0.0, float(limits.max()) + 10.0)) * standard_error


def _checked(y: ArrayLike, a: Rating, b: Rating, patients: Sequence[str]) -> Int[np.ndarray, " n"]:
    labels = whole(y, "labels")
    sizes = (len(labels), len(a.values), len(b.values), len(patients))
    if len(set(sizes)) > 1:
        got = "{} labels, {} and {} ratings, {} patients".format(*sizes)
        msg = f"two classifiers are compared on the same cases, each with a label and a patient; got {got}"
        raise CohortError(msg)
    return labels


def _rests_on(y: Int[np.ndarray, " n"], bootstrap: PatientBootstrap) -> dict[str, int]:
    positive, negative = bootstrap.count(y == 1), bootstrap.count(y != 1)
    return {
        "auc": min(positive, negative),
        "average_precision": positive,
        "sensitivity": positive,
        "specificity": negative,
        "brier": bootstrap.num_patients,
    }


def _figures(y: Int[np.ndarray, " n"], one: Rating, weights: Resamples) -> dict[str, Figures]:
    values = one.values.astype(np.float64)
    tps, fps = metrics.ranked_counts(y, values, weights=weights)
    found: dict[str, Figures] = {"auc": metrics.auc_from(tps, fps), "average_precision": metrics.ap_from(tps, fps)}
    if one.threshold is not None:
        called = values >= one.threshold if one.called is None else one.called
        table = metrics.confusion(y, called, weights=weights)
        found |= {"sensitivity": table.sensitivity, "specificity": table.specificity}
    if one.is_probability:
        found["brier"] = ratio(weights @ np.square(values - (y == 1)), weights.sum(-1))
    return found


def _difference(a: Resampled, b: Resampled) -> Figure:
    """Difference a - b with its interval, which stays between -1 and 1."""
    value = a.value - b.value
    if math.isnan(value):
        return Figure(value=value, low=math.nan, high=math.nan)
    both = Resampled(value=value, resampled=a.resampled - b.resampled, rests_on=a.rests_on, is_share=a.is_share)
    half = both.quantile * both.error
    if both.error < 1e-12:
        (low_a, high_a), (low_b, high_b) = (wilson(float(np.clip(one.value, 0, 1)), one.rests_on) for one in (a, b))
        down, up = math.hypot(a.value - low_a, high_b - b.value), math.hypot(high_a - a.value, b.value - low_b)
        return Figure(value=value, low=max(value - down, -1.0), high=min(value + up, 1.0))
    return Figure(value=value, low=max(value - half, -1.0), high=min(value + half, 1.0))


def _area_differences(
    codes: Int[np.ndarray, "2 n"], positive: Bool[np.ndarray, " n"], swapped: Bool[np.ndarray, "b n"]
) -> Int[np.ndarray, " b"]:
    """Difference of the areas for each set of exchanged cases, in whole units of 1 / (2 positives negatives)."""
    return np.asarray(
        _doubled_area(np.where(swapped, codes[1], codes[0]), positive)
        - _doubled_area(np.where(swapped, codes[0], codes[1]), positive)
    )


def _doubled_area(codes: Int[np.ndarray, "b n"], positive: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " b"]:
    """Twice the number of pairs with the positive above, of doubled ranks; equal ranks count one."""
    rows, size = len(codes), 2 * codes.shape[1] + 1
    cells = codes + size * np.arange(rows)[:, None]
    above, below = (
        np.bincount(cells[:, of].reshape(-1), minlength=rows * size).reshape(rows, size) for of in (positive, ~positive)
    )
    up_to = np.cumsum(below, axis=1)
    return np.asarray((above * (2 * up_to - below)).sum(axis=1))
