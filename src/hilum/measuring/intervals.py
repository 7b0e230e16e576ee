"""Figures with 95 % intervals that account for the correlation of cases of one patient; see ``bootstrap``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from hilum.arrays import ArrayLike, check_same_cases, flags, labelled, real, whole
from hilum.measuring import metrics
from hilum.measuring.bootstrap import Figure, PatientBootstrap, Resampled, Resamples
from hilum.measuring.metrics import Figures, Probs, ratio
from hilum.measuring.operating_points import FIXED_POINTS, OperatingPoint

PARTIAL_FPR = 0.1
"""Largest false positive rate of the partial AUC: specificities from 0.9 on, where a test on few ill people works."""

_MACRO = (
    "auc", "partial_auc", "average_precision", "sensitivity", "specificity", "balanced_accuracy", "f1", "mcc", "brier",
    "log_loss",
)  # fmt: skip
"""Figures whose mean over the labels is reported."""


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
    is_decided: ArrayLike | None = None,
    asked: Asked = NOTHING_MORE,
    seed: int = 0,
    num_resamples: int = 2000,
) -> dict[str, Figure]:
    """The figures of ``with_intervals`` for any decisions, and further figures that are asked for.

    Figures of decisions are those of the decided cases, figures of probabilities alone are of all.

    Returns:
        For each operating point NAME also "NAME sensitivity" and "NAME specificity".
    """
    y, p = labelled(y, p)
    yes = flags(called, "decisions")
    check_same_cases(y, yes, "decisions")
    bootstrap = PatientBootstrap(patients, len(y), seed, num_resamples)
    return _intervals(_binary_figures(y, p, yes, _decided(is_decided, yes), bootstrap, asked))


def with_label_intervals(
    y: ArrayLike,
    probs: ArrayLike,
    *,
    called: ArrayLike,
    patients: Sequence[str],
    is_decided: ArrayLike | None = None,
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
        is_decided: Whether each label of each case is decided; None: all are.
        asked: Further figures of each label; empty: none.
        seed: Seed of the bootstrap.
        num_resamples: Number of resamples of the patients.

    Returns:
        The means over the labels, such as macro_auc, and subset_accuracy, the share of the cases with correct decisions
        on all labels among those with all labels decided; then the figures of ``with_called_intervals`` for each label.
    """
    y, probs = whole(y, "labels", axes=(2,)), real(probs, "probabilities", axes=(2,))
    called = flags(called, "decisions", axes=(2,))
    bootstrap = PatientBootstrap(patients, len(y), seed, num_resamples)
    wanted = asked or [NOTHING_MORE] * y.shape[1]
    decided = _decided(is_decided, called)
    columns = zip(y.T, probs.T, called.T, decided.T, wanted, strict=True)
    each = [_binary_figures(one, p, yes, known, bootstrap, more) for one, p, yes, known, more in columns]
    means = {f"macro_{name}": _mean_of([one[name] for one in each]) for name in _MACRO}
    whole_cases = decided.all(axis=1)
    right = (((y == 1) == called).all(axis=1) & whole_cases).astype(np.float64)
    means |= bootstrap.resample(
        lambda weights: {"subset_accuracy": ratio(weights @ right, weights @ whole_cases.astype(np.float64))},
        {"subset_accuracy": bootstrap.num_patients},
    )
    return _intervals(means), tuple(map(_intervals, each))


def with_class_intervals(
    y: ArrayLike,
    probs: ArrayLike,
    *,
    patients: Sequence[str],
    is_decided: ArrayLike | None = None,
    seed: int = 0,
    num_resamples: int = 2000,
) -> dict[str, Figure]:
    """Figures of a classifier of any number of classes that decides for the most probable one, or not at all.

    Returns:
        accuracy, balanced_accuracy, macro_auc (each class against the rest) and macro_f1.
    """
    y, probs = labelled(y, probs, axes=(2,))
    probs = probs.astype(np.float64)
    num_classes = probs.shape[1]
    decided = probs.argmax(1)
    known = _decided(is_decided, decided == y).astype(np.float64)
    cells = np.eye(num_classes**2)[y * num_classes + decided] * known[:, None]
    right = (decided == y) * known

    def figures(weights: Resamples) -> dict[str, Figures]:
        matrix = (weights @ cells).reshape(-1, num_classes, num_classes)
        return {
            "accuracy": ratio(weights @ right, weights @ known),
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
    y: ArrayLike,
    p: ArrayLike,
    *,
    called: ArrayLike,
    patients: Sequence[str],
    is_decided: ArrayLike | None = None,
    seed: int = 0,
    num_resamples: int = 500,
) -> dict[str, Figure]:
    """AUC, sensitivity and specificity alone, for many subgroups; arguments as for ``with_called_intervals``."""
    y, p = labelled(y, p)
    yes = flags(called, "decisions")
    check_same_cases(y, yes, "decisions")
    known = _decided(is_decided, yes)
    bootstrap = PatientBootstrap(patients, len(y), seed, num_resamples)

    def figures(weights: Resamples) -> dict[str, Figures]:
        table = metrics.confusion(y[known], yes[known], weights=weights[..., known])
        auc = metrics.auc_from(*metrics.ranked_counts(y, p, weights=weights))
        return {"auc": auc, "sensitivity": table.sensitivity, "specificity": table.specificity}

    positive, negative = bootstrap.count(y == 1), bootstrap.count(y != 1)
    of_decided = {"sensitivity": bootstrap.count((y == 1) & known), "specificity": bootstrap.count((y != 1) & known)}
    rests_on = {"auc": min(positive, negative), **of_decided}
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


def _binary_figures(
    y: Int[np.ndarray, " n"],
    p: Probs,
    called: Bool[np.ndarray, " n"],
    known: Bool[np.ndarray, " n"],
    bootstrap: PatientBootstrap,
    asked: Asked,
) -> dict[str, Resampled]:
    """Figures of decisions on the cases that are known to be decided, and of probabilities on all."""
    p = p.astype(np.float64)
    squares, losses = np.square(p - (y == 1)), metrics.log_losses((y == 1).astype(np.int64), p)

    def figures(weights: Resamples) -> dict[str, Figures]:
        table = metrics.confusion(y[known], called[known], weights=weights[..., known])
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
    sick, well = bootstrap.count((y == 1) & known), bootstrap.count((y != 1) & known)
    rests_on = {"average_precision": positive, "f1": sick, "sensitivity": sick, "specificity": well}
    rests_on |= {"ppv": bootstrap.count(called & known), "npv": bootstrap.count(~called & known)}
    rests_on |= dict.fromkeys(("auc", "partial_auc", "brier", "log_loss"), min(positive, negative))
    rests_on |= dict.fromkeys(("balanced_accuracy", "mcc", "net_benefit"), min(sick, well))
    rests_on |= {"accuracy": bootstrap.count(known)}
    for point in asked.points:
        rests_on |= {f"{point.name} sensitivity": positive, f"{point.name} specificity": negative}
    return bootstrap.resample(figures, rests_on)


def _decided(is_decided: ArrayLike | None, called: Bool[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    """Whether each decision was made; without an answer all were."""
    if is_decided is None:
        return np.ones(called.shape, bool)
    known = flags(is_decided, "whether cases are decided", axes=(called.ndim,))
    check_same_cases(called, known, "whether cases are decided")
    return known


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
