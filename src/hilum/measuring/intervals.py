"""Figures with 95 % intervals that account for the correlation of cases of one patient.

Patients, not cases, are resampled. The interval is symmetric on the logit scale, with the standard error of the
bootstrap carried over by the derivative of the logit. Its half width is 1.96 standard errors for a share of cases, such
as sensitivity. For figures of both classes together, such as AUC or log loss, it is Student's quantile, with one degree
of freedom less than the relevant patients: with few of them the standard error is itself too uncertain, and often too
small. How often they hold the truth stands in docs/concepts/intervals.md
(``benchmarks/interval_coverage.py``). If a figure is exactly 0 or 1, or the bootstrap has no spread, the
interval is Wilson's (JASA 22, 1927), with the number of relevant patients as its n: those with a positive for
sensitivity, those with a case decided positive for the positive predictive value, the smaller class for AUC. Figures
that are no shares have their own scale: Fisher's z for Matthews' coefficient, the logarithm for log loss, the plain one
for net benefit; without a spread they have no interval.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit

from hilum.arrays import ArrayLike, check_same_cases, flags, labelled, real, whole
from hilum.errors import CohortError
from hilum.measuring import metrics
from hilum.measuring.metrics import Figures, Probs, ratio
from hilum.measuring.operating_points import FIXED_POINTS, OperatingPoint
from hilum.randomness import generator

Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""

PARTIAL_FPR = 0.1
"""Largest false positive rate of the partial AUC: specificities from 0.9 on, where a test on few ill people works."""

_LARGEST_BLOCK = 4_000_000
"""Resampled weights in memory at a time, for large cohorts."""

_SCALES: dict[str, Literal["logit", "fisher", "log", "plain"]] = {
    "mcc": "fisher",
    "log_loss": "log",
    "net_benefit": "plain",
}
"""Scales on which figures that are no shares are nearly normal; those of all others are logits."""

_SHARES = ("accuracy", "sensitivity", "specificity", "ppv", "npv", "subset_accuracy")
"""Shares of cases of one kind: the normal interval on the logit scale covers 94 to 97 % with few patients."""

_MACRO = (
    "auc", "partial_auc", "average_precision", "sensitivity", "specificity", "balanced_accuracy", "f1", "mcc", "brier",
    "log_loss",
)  # fmt: skip
"""Figures whose mean over the labels is reported."""

Resamples = Float[np.ndarray, "b n"]
"""How often each case (column) is in each resample (row)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure and its 95 % interval; all nan if it does not exist.

    Attributes:
        value: The figure on all cases.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return "undefined" if math.isnan(self.value) else f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which figures of two classes are wanted, beside those that need nothing but decisions and probabilities.

    Attributes:
        threshold: The threshold of the decisions, for the net benefit; None: there is none.
        points: Operating points.
    """

    threshold: float | None = None
    points: tuple[OperatingPoint, ...] = FIXED_POINTS


NOTHING_MORE = Asked(points=())


def with_intervals(
    y: ArrayLike, p: ArrayLike, *, threshold: float, patients: Sequence[str], seed: int = 0, num_resamples: int = 2000
) -> dict[str, Figure]:
    """Figures of a classifier of two classes that decides positive at ``p >= threshold``.

    Args:
        y: 1 where positive.
        p: Probability of the positive class.
        threshold: Chosen on other cases.
        patients: Patient of each case.
        seed: Seed of the bootstrap.
        num_resamples: Number of resamples of the patients.

    Returns:
        accuracy, auc, partial_auc (at specificities from 0.9 on), average_precision, sensitivity, specificity, ppv,
        npv, balanced_accuracy, f1, mcc, brier, log_loss and net_benefit.
    """
    called = real(p, "probabilities").astype(np.float64) >= threshold
    asked = Asked(threshold=threshold, points=())
    return with_called_intervals(
        y, p, called=called, patients=patients, asked=asked, seed=seed, num_resamples=num_resamples
    )


def with_called_intervals(
    y: ArrayLike,
    p: ArrayLike,
    *,
    called: ArrayLike,
    patients: Sequence[str],
    asked: Asked = NOTHING_MORE,
    seed: int = 0,
    num_resamples: int = 2000,
) -> dict[str, Figure]:
    """The figures of ``with_intervals`` for any decisions, and further figures that are asked for.

    Returns:
        For each operating point NAME also "NAME sensitivity" and "NAME specificity".
    """
    y, p = labelled(y, p)
    yes = flags(called, "decisions")
    check_same_cases(y, yes, "decisions")
    bootstrap = PatientBootstrap(patients, len(y), seed, num_resamples)
    return _intervals(_binary_figures(y, p, yes, bootstrap, asked))


def with_label_intervals(
    y: ArrayLike,
    probs: ArrayLike,
    *,
    called: ArrayLike,
    patients: Sequence[str],
    asked: Sequence[Asked] = (),
    seed: int = 0,
    num_resamples: int = 2000,
) -> tuple[dict[str, Figure], tuple[dict[str, Figure], ...]]:
    """Mean figures over the labels of a multi-label classifier, and the figures of each label.

    The same patients are resampled for all labels. A mean does not exist if one of the labels has no such figure.

    Args:
        y: 1 where a label is present.
        probs: Probability that the label is present.
        called: Whether the label is decided to be present.
        patients: Patient of each case.
        asked: Further figures of each label; empty: none.
        seed: Seed of the bootstrap.
        num_resamples: Number of resamples of the patients.

    Returns:
        The means over the labels, such as macro_auc, and subset_accuracy, the share of the cases with correct decisions
        on all labels; then the figures of
        ``with_called_intervals`` for each label.
    """
    y, probs = whole(y, "labels", axes=(2,)), real(probs, "probabilities", axes=(2,))
    called = flags(called, "decisions", axes=(2,))
    bootstrap = PatientBootstrap(patients, len(y), seed, num_resamples)
    wanted = asked or [NOTHING_MORE] * y.shape[1]
    columns = zip(y.T, probs.T, called.T, wanted, strict=True)
    each = [_binary_figures(one, p, yes, bootstrap, more) for one, p, yes, more in columns]
    means = {f"macro_{name}": _mean_of([one[name] for one in each]) for name in _MACRO}
    right = ((y == 1) == called).all(axis=1).astype(np.float64)
    means |= bootstrap.resample(
        lambda weights: {"subset_accuracy": ratio(weights @ right, weights.sum(-1))},
        {"subset_accuracy": bootstrap.num_patients},
    )
    return _intervals(means), tuple(map(_intervals, each))


def with_class_intervals(
    y: ArrayLike, probs: ArrayLike, *, patients: Sequence[str], seed: int = 0, num_resamples: int = 2000
) -> dict[str, Figure]:
    """Figures of a classifier of any number of classes that decides for the most probable one.

    Returns:
        accuracy, balanced_accuracy, macro_auc (each class against the rest) and macro_f1.
    """
    y, probs = labelled(y, probs, axes=(2,))
    probs = probs.astype(np.float64)
    num_classes = probs.shape[1]
    decided = probs.argmax(1)
    cells = np.eye(num_classes**2)[y * num_classes + decided]
    right = (decided == y).astype(np.float64)

    def figures(weights: Resamples) -> dict[str, Figures]:
        matrix = (weights @ cells).reshape(-1, num_classes, num_classes)
        return {
            "accuracy": ratio(weights @ right, weights.sum(-1)),
            "balanced_accuracy": metrics.macro_recall(matrix),
            "macro_auc": metrics.macro_auc(y, probs, weights=weights),
            "macro_f1": metrics.macro_f1(matrix),
        }

    bootstrap = PatientBootstrap(patients, len(y), seed, num_resamples)
    rarest = min(bootstrap.count(y == k) for k in range(num_classes))
    rests_on = dict.fromkeys(("balanced_accuracy", "macro_auc", "macro_f1"), rarest)
    resampled = bootstrap.resample(figures, rests_on | {"accuracy": bootstrap.num_patients})
    return _intervals(resampled)


def with_rates(
    y: ArrayLike, p: ArrayLike, *, called: ArrayLike, patients: Sequence[str], seed: int = 0, num_resamples: int = 500
) -> dict[str, Figure]:
    """AUC, sensitivity and specificity alone, for many subgroups; arguments as for ``with_called_intervals``."""
    y, p = labelled(y, p)
    yes = flags(called, "decisions")
    check_same_cases(y, yes, "decisions")
    bootstrap = PatientBootstrap(patients, len(y), seed, num_resamples)

    def figures(weights: Resamples) -> dict[str, Figures]:
        table = metrics.confusion(y, yes, weights=weights)
        auc = metrics.auc_from(*metrics.ranked_counts(y, p, weights=weights))
        return {"auc": auc, "sensitivity": table.sensitivity, "specificity": table.specificity}

    positive, negative = bootstrap.count(y == 1), bootstrap.count(y != 1)
    rests_on = {"auc": min(positive, negative), "sensitivity": positive, "specificity": negative}
    return _intervals(bootstrap.resample(figures, rests_on))


def with_mean_auc(
    y: ArrayLike, probs: ArrayLike, *, patients: Sequence[str], seed: int = 0, num_resamples: int = 500
) -> Figure:
    """Mean AUC over the outputs that have cases with and without them; nan if none has.

    Args:
        y: 1 where a class or label is present, else 0, (n, c).
        probs: Its probability, (n, c).
        patients: Patient of each case.
        seed: Seed of the bootstrap.
        num_resamples: Number of resamples of the patients.
    """
    y, probs = whole(y, "labels", axes=(2,)), real(probs, "probabilities", axes=(2,)).astype(np.float64)
    bootstrap = PatientBootstrap(patients, len(y), seed, num_resamples)
    known = [k for k in range(y.shape[1]) if 0 < np.sum(y[:, k] == 1) < len(y)]
    if not known:
        return Figure(value=math.nan, low=math.nan, high=math.nan)

    def figures(weights: Resamples) -> dict[str, Figures]:
        each = [metrics.auc_from(*metrics.ranked_counts(y[:, k], probs[:, k], weights=weights)) for k in known]
        return {"auc": np.mean(np.stack(each, axis=-1), axis=-1)}

    fewest = min(min(bootstrap.count(y[:, k] == one) for one in (0, 1)) for k in known)
    return _intervals(bootstrap.resample(figures, {"auc": fewest}))["auc"]


def with_stratified_auc(
    y: ArrayLike,
    p: ArrayLike,
    *,
    strata: Sequence[int],
    patients: Sequence[str],
    seed: int = 0,
    num_resamples: int = 2000,
) -> Figure:
    """Share of the pairs within strata in which the positive ranks above the negative, ties counting half.

    It tells how well p ranks cases that are alike in what divides the strata, such as size. nan without such a pair.

    Args:
        y: 1 where positive.
        p: Any number that ranks the cases.
        strata: Stratum of each case.
        patients: Patient of each case.
        seed: Seed of the bootstrap.
        num_resamples: Number of resamples of the patients.
    """
    y, p = labelled(y, p)
    which = np.asarray(strata)
    bootstrap = PatientBootstrap(patients, len(y), seed, num_resamples)
    rows = [which == one for one in np.unique(which)]

    def figures(weights: Resamples) -> dict[str, Figures]:
        above, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for one in rows:
            tps, fps = metrics.ranked_counts(y[one], p[one], weights=weights[:, one])
            all_pairs = tps[..., -1] * fps[..., -1]
            above += np.nan_to_num(metrics.auc_from(tps, fps)) * all_pairs
            pairs += all_pairs
        return {"auc": ratio(above, pairs)}

    paired = np.any([one & (0 < np.sum(y[one] == 1) < np.sum(one)) for one in rows], axis=0)  # strata with both classes
    fewest = min(bootstrap.count(paired & (y == 1)), bootstrap.count(paired & (y != 1)))
    return _intervals(bootstrap.resample(figures, {"auc": fewest}))["auc"]


def logit_interval(value: float, error: float, *, rests_on: int, quantile: float = Z95) -> Figure:
    """A figure between 0 and 1 with its interval: symmetric on the logit scale, or Wilson's without a spread.

    Args:
        value: The figure.
        error: Its standard error, carried over by the derivative of the logit; nan if there is none.
        rests_on: Number of patients on which it rests, for Wilson's interval.
        quantile: Half width in standard errors; see ``student95``.
    """
    if math.isnan(value):
        return Figure(value=value, low=math.nan, high=math.nan)
    inner = 1e-12 < value < 1 - 1e-12
    if not inner or not error >= 1e-12:
        low, high = wilson(float(np.clip(value, 0, 1)) if inner else float(round(value)), rests_on)
        return Figure(value=value, low=low, high=high)
    logit = math.log(value / (1 - value))
    half = min(quantile * error / (value * (1 - value)), 500.0)
    return Figure(value=value, low=1 / (1 + math.exp(-(logit - half))), high=1 / (1 + math.exp(-(logit + half))))


def student95(num_patients: int) -> float:
    """97.5 % quantile of Student's distribution with one degree of freedom less than the patients, at least one.

    Example:
        >>> round(student95(11), 3)
        2.228
    """
    return float(stdtrit(max(num_patients - 1, 1), 0.975))


def wilson(value: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n independent observations."""
    if n < 1 or math.isnan(value):
        return math.nan, math.nan
    centre = (value + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(value * (1 - value) / n + Z95**2 / (4 * n**2))
    return (0.0 if value == 0 else max(centre - half, 0.0)), (1.0 if value == 1 else min(centre + half, 1.0))


def expected_auc_half_width(num_positives: int, num_negatives: int, *, auc: float = 0.85) -> float:
    """Expected half width of the 95 % interval of an AUC, before any model is trained.

    Hanley & McNeil, "The meaning and use of the area under a ROC curve", Radiology 143 (1982), with their
    exponential approximation of Q1 and Q2. It assumes independent cases: pass numbers of patients.
    """
    if num_positives < 1 or num_negatives < 1:
        return math.nan
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (num_positives - 1) * (q1 - auc**2) + (num_negatives - 1) * (q2 - auc**2)
    return Z95 * math.sqrt(variance / (num_positives * num_negatives))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampled:
    """A figure on all cases and on resamples of the patients.

    Attributes:
        value: On all cases.
        resampled: On each resample; nan where it does not exist.
        rests_on: Number of patients on which it rests.
        is_share: Whether it is a mean over cases.
        scale: Scale on which it is nearly normal.
    """

    value: float
    resampled: Float[np.ndarray, " b"]
    rests_on: int
    is_share: bool = False
    scale: Literal["logit", "fisher", "log", "plain"] = "logit"

    @property
    def error(self) -> float:
        """Standard error; 0 if the figure exists in at most half of the resamples."""
        defined = self.resampled[np.isfinite(self.resampled)]
        return float(np.std(defined, ddof=1)) if len(defined) > max(1, len(self.resampled) // 2) else 0.0

    @property
    def quantile(self) -> float:
        """Half width of its interval in standard errors."""
        return Z95 if self.is_share else student95(self.rests_on)

    @property
    def figure(self) -> Figure:
        """The figure with its interval, symmetric on its scale."""
        value, error, quantile = self.value, self.error, self.quantile
        if self.scale == "logit":
            return logit_interval(value, error, rests_on=self.rests_on, quantile=quantile)
        if self.scale == "fisher":  # Fisher's z is half the logit of (1 + value) / 2
            half = logit_interval((1 + value) / 2, error / 2, rests_on=self.rests_on, quantile=quantile)
            return Figure(value=value, low=2 * half.low - 1, high=2 * half.high - 1)
        if math.isnan(value) or error < 1e-12 or (self.scale == "log" and value <= 0):
            return Figure(value=value, low=math.nan, high=math.nan)
        if self.scale == "log":
            factor = math.exp(min(quantile * error / value, 500.0))
            return Figure(value=value, low=value / factor, high=value * factor)
        return Figure(value=value, low=value - quantile * error, high=value + quantile * error)


class PatientBootstrap:
    """Resamples patients; the resamples depend only on the seed and the patients."""

    def __init__(self, patients: Sequence[str], num_cases: int, seed: int, num_resamples: int) -> None:
        if num_cases == 0 or len(patients) != num_cases:
            got = f"{num_cases} cases, {len(patients)} patients"
            msg = f"figures need at least one case and a patient for each, got {got}"
            raise CohortError(msg)
        self.index = np.unique(np.asarray(patients, dtype=str), return_inverse=True)[1].reshape(-1)
        self.num_patients = int(self.index.max()) + 1
        self.seed, self.num_resamples = seed, num_resamples

    def count(self, rows: Bool[np.ndarray, " n"]) -> int:
        """Number of different patients in some of the cases."""
        return len(np.unique(self.index[rows]))

    def resample(
        self, figures: Callable[[Resamples], dict[str, Figures]], rests_on: dict[str, int]
    ) -> dict[str, Resampled]:
        """Figures on all cases and on the resamples."""
        rng, shares = generator(self.seed, "bootstrap"), np.full(self.num_patients, 1 / self.num_patients)
        block = max(1, _LARGEST_BLOCK // len(self.index))
        blocks = []
        for start in range(0, self.num_resamples, block):
            times = rng.multinomial(self.num_patients, shares, size=min(block, self.num_resamples - start))
            blocks.append(figures(times[:, self.index].astype(np.float64)))
        return {
            name: Resampled(
                value=float(np.squeeze(value)),
                resampled=np.concatenate([one[name] for one in blocks]),
                rests_on=rests_on[name],
                is_share=name.split()[-1] in _SHARES,
                scale=_SCALES.get(name, "logit"),
            )
            for name, value in figures(np.ones((1, len(self.index)))).items()
        }


def _binary_figures(
    y: Int[np.ndarray, " n"], p: Probs, called: Bool[np.ndarray, " n"], bootstrap: PatientBootstrap, asked: Asked
) -> dict[str, Resampled]:
    p = p.astype(np.float64)
    squares, losses = np.square(p - (y == 1)), metrics.log_losses((y == 1).astype(np.int64), p)

    def figures(weights: Resamples) -> dict[str, Figures]:
        table = metrics.confusion(y, called, weights=weights)
        tps, fps = metrics.ranked_counts(y, p, weights=weights)
        found = {
            "accuracy": table.accuracy,
            "auc": metrics.auc_from(tps, fps),
            "partial_auc": metrics.partial_auc_from(tps, fps, max_fpr=PARTIAL_FPR),
            "average_precision": metrics.ap_from(tps, fps),
            "sensitivity": table.sensitivity,
            "specificity": table.specificity,
            "ppv": table.ppv,
            "npv": table.npv,
            "balanced_accuracy": table.balanced_accuracy,
            "f1": table.f1,
            "mcc": table.mcc,
            "brier": ratio(weights @ squares, weights.sum(-1)),
            "log_loss": ratio(weights @ losses, weights.sum(-1)),
        }
        if asked.threshold is not None:
            found["net_benefit"] = table.net_benefit(asked.threshold)
        for point in asked.points:
            found |= _at_point(point, y, p, weights, tps, fps)
        return found

    positive, negative = bootstrap.count(y == 1), bootstrap.count(y != 1)
    decided = {"ppv": bootstrap.count(called), "npv": bootstrap.count(~called)}
    rests_on = dict.fromkeys(("average_precision", "f1"), positive) | {"specificity": negative} | decided
    of_both = ("auc", "partial_auc", "balanced_accuracy", "mcc", "brier", "log_loss", "net_benefit")
    rests_on |= dict.fromkeys(of_both, min(positive, negative))
    rests_on |= {"sensitivity": positive, "accuracy": bootstrap.num_patients}
    for point in asked.points:
        rests_on |= {f"{point.name} sensitivity": positive, f"{point.name} specificity": negative}
    return bootstrap.resample(figures, rests_on)


def _at_point(
    point: OperatingPoint,
    y: Int[np.ndarray, " n"],
    p: Probs,
    weights: Resamples,
    tps: Float[np.ndarray, "b k"],
    fps: Float[np.ndarray, "b k"],
) -> dict[str, Figures]:
    """Sensitivity and specificity at an operating point: at its threshold, or without one read from the curve."""
    if point.threshold is not None:
        table = metrics.confusion(y, p >= point.threshold, weights=weights)
        both = table.sensitivity, table.specificity
    elif point.rule == "sensitivity":
        specificity = metrics.specificity_at(tps, fps, point.at)
        both = metrics.sensitivity_at(tps, fps, specificity), specificity
    else:
        sensitivity = metrics.sensitivity_at(tps, fps, point.at)
        both = sensitivity, metrics.specificity_at(tps, fps, sensitivity)
    return dict(zip((f"{point.name} sensitivity", f"{point.name} specificity"), both, strict=True))


def _mean_of(each: Sequence[Resampled]) -> Resampled:
    """The mean of figures on the same resamples; it rests on as few patients as the figure with the fewest."""
    return Resampled(
        value=float(np.mean([one.value for one in each])),
        resampled=np.mean([one.resampled for one in each], axis=0),
        rests_on=min(one.rests_on for one in each),
        scale=each[0].scale,
    )


def _intervals(figures: dict[str, Resampled]) -> dict[str, Figure]:
    return {name: one.figure for name, one in figures.items()}
